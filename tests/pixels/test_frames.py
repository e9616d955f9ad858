"""Every frame is the one asked for, in any order, in every kind of file."""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.pixels.video_limits import VideoError
from tests.pixels.clips import CLIPS, HEIGHT, WIDTH, first_number, number_of
from tests.pixels.in_process import video_frames

Clip = Callable[[str], Path]
BROWSER_CLIPS = [name for name in CLIPS if not name.endswith((".ts", ".avi"))]


class CountingFile(io.BytesIO):
    """Counts the bytes read from it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size, self.read_bytes = len(data), 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.read_bytes += len(data)
        return data


@pytest.mark.parametrize("name", CLIPS)
def test_frames_in_any_order(name: str, clip: Clip) -> None:
    with video_frames(clip(name)) as frames:
        numbers = list(range(first_number(name), len(CLIPS[name]["times"])))
        assert len(frames) == len(numbers)
        assert [number_of(frame) for frame in frames] == numbers
        backward = [number_of(frames[index]) for index in reversed(range(len(frames)))]
        assert backward == numbers[::-1]
        order = random.Random(name).choices(range(len(frames)), k=40)
        assert [number_of(frames[index]) for index in order] == [numbers[index] for index in order]
        assert (frames.missing, frames.notice) == (0, None)


@pytest.mark.parametrize("name", CLIPS)
def test_random_access_from_the_start(name: str, clip: Clip) -> None:
    """The first frame asked for is far into the file, nothing has been decoded in passing."""
    with video_frames(clip(name), read_ahead=0, max_bytes=0) as frames:
        for index in (len(frames) - 1, len(frames) // 2, 1):
            assert number_of(frames[index]) == first_number(name) + index


@pytest.mark.parametrize("name", ["25.mp4", "turned_90.mp4", "mirrored.mp4", "odd.webm"])
def test_kind_of_frame(name: str, clip: Clip) -> None:
    with video_frames(clip(name)) as frames:
        frame = frames[3]
        width, height = CLIPS[name].get("size", (WIDTH, HEIGHT))
        assert (frame.dtype, frame.shape) == (np.uint8, (height, width, 3))
        assert (frames.width, frames.height) == (width, height)
        assert frame.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            frame[0, 0] = 0


@pytest.mark.parametrize("name", BROWSER_CLIPS)
def test_timestamps(name: str, clip: Clip) -> None:
    """Seconds on the browser's clock, an offset at the start included; Matroska counts in ms."""
    start = first_number(name) / 25
    wanted = np.array([float(time) for time in CLIPS[name]["times"][first_number(name) :]]) - start
    with video_frames(clip(name)) as frames:
        assert frames.times == pytest.approx(wanted, abs=0.0006)


@pytest.mark.parametrize("name", ["transport.ts", "mpeg4_b_frames.avi"])
def test_timestamps_where_no_browser_plays(name: str, clip: Clip) -> None:
    with video_frames(clip(name)) as frames:
        assert frames.times == pytest.approx(np.arange(len(frames)) / 25)


def test_key_frames(clip: Clip) -> None:
    with video_frames(clip("25.mp4")) as frames:
        table = frames.table
        assert [table.index_of(pts) for pts in table.key_pts] == list(range(0, 75, 12))


@pytest.mark.parametrize("name", ["long_group.mp4", "groups.mp4"])
def test_reading_forward_does_not_seek(name: str, clip: Clip) -> None:
    file = CountingFile(clip(name).read_bytes())
    with video_frames(file, read_ahead=0) as frames:
        opened = file.read_bytes
        for _frame in frames:
            pass
        assert 0.5 * file.size < file.read_bytes - opened <= 1.5 * file.size


def test_random_access_reads_one_group(clip: Clip) -> None:
    file = CountingFile(clip("groups.mp4").read_bytes())
    with video_frames(file, read_ahead=0) as frames:
        before = file.read_bytes
        assert [number_of(frames[index]) for index in (100, 20)] == [100, 20]
        assert file.read_bytes - before < 0.6 * file.size  # two groups of ten, in large reads


@pytest.mark.parametrize(("kept", "passes"), [(120, 1), (40, 3)])
def test_reading_backward_decodes_each_group_seldom(kept: int, passes: int, clip: Clip) -> None:
    """120 frames in one group: as many passes over it as the memory allowed makes necessary."""
    file = CountingFile(clip("long_group.mp4").read_bytes())
    with video_frames(file, read_ahead=0, max_bytes=kept * 384 * 216 * 3) as frames:
        assert number_of(frames[119]) == 119
        before = file.read_bytes
        numbers = [number_of(frames[index]) for index in range(118, -1, -1)]
        assert numbers == list(range(118, -1, -1))
        assert file.read_bytes - before <= (passes + 0.5) * file.size


def test_a_table_saves_the_scan(clip: Clip) -> None:
    data = clip("groups.mp4").read_bytes()
    with video_frames(io.BytesIO(data)) as frames:
        table = frames.table
    file = CountingFile(data)
    with video_frames(file, table=table) as again:
        assert file.read_bytes < 0.8 * file.size
        assert [number_of(again[index]) for index in (60, 3)] == [60, 3]


@pytest.mark.parametrize("name", ["transport.ts", "groups.mp4", "offset.webm"])
def test_a_seek_that_lands_too_late_is_noticed(name: str, clip: Clip) -> None:
    """The table sends every seek beyond its key frame."""
    with video_frames(clip(name)) as frames:
        table = frames.table
    one_second = round(1 / table.time_base)
    late = dataclasses.replace(table, key_dts=table.key_pts + one_second)
    with video_frames(clip(name), table=late) as frames:
        assert [number_of(frames[index]) for index in (40, 7, 55)] == [40, 7, 55]


def test_a_file_object_is_left_open(clip: Clip) -> None:
    file = io.BytesIO(clip("25.mp4").read_bytes())
    video_frames(file).close()
    assert not file.closed


@pytest.mark.parametrize("index", [-1, 75, 10**12])
def test_no_such_frame(index: int, clip: Clip) -> None:
    with video_frames(clip("25.mp4")) as frames, pytest.raises(IndexError, match="of 75"):
        frames[index]


def test_after_closing(clip: Clip) -> None:
    frames = video_frames(clip("25.mp4"))
    frames[0]
    frames.close()
    frames.close()
    with pytest.raises(VideoError, match="closed"):
        frames[0]


def test_errors_of_the_file_come_through(clip: Clip) -> None:
    """A storage that fails while frames are read is not mistaken for a damaged video."""

    class Failing(io.BytesIO):
        broken = False

        def read(self, size: int | None = -1) -> bytes:
            if self.broken:
                raise ConnectionError("the storage is gone")
            return super().read(size)

    file = Failing(clip("groups.mp4").read_bytes())
    with video_frames(file, read_ahead=0) as frames:
        file.broken = True
        with pytest.raises(ConnectionError, match="storage is gone"):
            frames[110]
        file.broken = False
        assert number_of(frames[110]) == 110
