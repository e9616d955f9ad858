"""Pages of a frame sequence as frames."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.media.errors import MediaError, Reason
from backend.pixels.pages import ImageSequence
from backend.pixels.video_limits import VideoError, VideoLimits
from tests.pixels.clips import number_of, numbered


def page(number: int, width: int = 192, height: int = 108) -> Callable[[], NDArray[np.uint8]]:
    return lambda: numbered(number, width, height)


def test_pages_in_any_order() -> None:
    with ImageSequence([page(number) for number in range(20)]) as pages:
        assert len(pages) == 20
        assert [number_of(frame) for frame in pages] == list(range(20))
        assert [number_of(pages[index]) for index in (7, 0, 19, 18, 17)] == [7, 0, 19, 18, 17]
        assert (pages.width, pages.height) == (192, 108)
        assert pages[3].flags.c_contiguous
        assert pages[3].dtype == np.uint8


@pytest.mark.parametrize("size", [(96, 54), (384, 216), (1920, 1080), (193, 108)])
def test_another_size_of_the_same_shape_is_scaled(size: tuple[int, int]) -> None:
    with ImageSequence([page(0), page(1, *size), page(2)]) as pages:
        assert [frame.shape for frame in pages] == [(108, 192, 3)] * 3
        assert [number_of(frame) for frame in pages] == [0, 1, 2]
        assert [pages.frame_size(index) for index in range(3)] == [(192, 108), size, (192, 108)]


@pytest.mark.parametrize("size", [(108, 192), (192, 144), (192, 100)])
def test_another_shape_is_refused_by_name(size: tuple[int, int]) -> None:
    with ImageSequence([page(0), page(1), page(2, *size), page(3)]) as pages:
        assert number_of(pages[1]) == 1
        with pytest.raises(VideoError, match=f"Page 3 is {size[0]} x {size[1]}.*192 x 108"):
            pages[2]
        assert pages.frame_size(2) == size
        assert number_of(pages[3]) == 3


def test_each_page_is_fetched_once_while_reading_forward() -> None:
    fetched: list[int] = []
    lock = threading.Lock()

    def fetch(number: int) -> NDArray[np.uint8]:
        with lock:
            fetched.append(number)
        return numbered(number)

    with ImageSequence([lambda n=number: fetch(n) for number in range(12)]) as pages:
        for index in range(12):
            pages.frame_size(index)
            assert number_of(pages[index]) == index
    assert fetched == list(range(12))


def missing() -> NDArray[np.uint8]:
    raise MediaError("It is gone.", reason=Reason.NOT_FOUND)


def test_an_error_of_a_page_comes_with_that_page() -> None:
    with ImageSequence([page(0), missing, page(2)]) as pages:
        assert number_of(pages[0]) == 0
        with pytest.raises(MediaError):
            pages[1]
        assert number_of(pages[2]) == 2


def test_limits() -> None:
    with pytest.raises(VideoError, match="no pages"):
        ImageSequence([])
    with pytest.raises(VideoError, match="3 pages; the limit is 2"):
        ImageSequence([page(0)] * 3, limits=VideoLimits(max_frames=2))
    with pytest.raises(VideoError, match="192 x 108"):
        ImageSequence([page(0)], limits=VideoLimits(max_pixels=1000))


def test_a_page_that_is_no_picture() -> None:
    with pytest.raises(TypeError, match="page 1 is float64"):
        ImageSequence([lambda: np.zeros((4, 4, 3))])


def test_after_closing() -> None:
    pages = ImageSequence([page(0)])
    pages.close()
    with pytest.raises(VideoError, match="closed"):
        pages[0]
