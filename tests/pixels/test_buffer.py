"""Reading ahead and keeping frames: bounded, and never in the way."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.pixels.buffer import FrameBuffer, Picture
from backend.pixels.video_limits import VideoError
from tests.pixels.clips import number_of
from tests.pixels.in_process import video_frames
from tests.waiting import until

Clip = Callable[[str], Path]


class Source:
    """Frame i is filled with i; notes what is read in which thread."""

    def __init__(self, *, broken_at: int = -1) -> None:
        self.reads: list[tuple[int, int]] = []
        self.threads: set[str] = set()
        self.given: list[weakref.ref[Picture]] = []
        self.broken_at, self.closed, self.suspended = broken_at, 0, 0
        self._inside = threading.Lock()

    def read(self, first: int, last: int) -> Iterator[tuple[int, Picture]]:
        assert self._inside.acquire(blocking=False), "two threads in the source at once"
        try:
            self.reads.append((first, last))
            self.threads.add(threading.current_thread().name)
            for index in range(first, last + 1):
                if index == self.broken_at:
                    raise VideoError("broken")
                frame = np.full((2, 2, 3), index, np.uint8)
                self.given.append(weakref.ref(frame))
                yield index, frame
                del frame
        finally:
            self._inside.release()

    def group_start(self, index: int) -> int:
        return index // 10 * 10

    def suspend(self) -> None:
        self.suspended += 1

    def close(self) -> None:
        self.closed += 1


def buffer(source: Source, *, read_ahead: int = 0, keep: int = 10) -> FrameBuffer:
    return FrameBuffer(
        source,
        count=100,
        frame_bytes=12,
        read_ahead=read_ahead,
        max_bytes=12 * keep,
        group_start=source.group_start,
    )


def test_forward_reading_is_ahead_by_so_much_and_no_more() -> None:
    source = Source()
    frames = buffer(source, read_ahead=4)
    frames[0]
    until(lambda: len(source.reads) == 5)
    time.sleep(0.05)
    assert source.reads == [(index, index) for index in range(5)]
    assert [int(frames[index][0, 0, 0]) for index in range(1, 60)] == list(range(1, 60))
    until(lambda: len(source.reads) == 64)
    assert source.reads == [(index, index) for index in range(64)]  # each once, in order
    frames.close()
    assert source.threads - {threading.current_thread().name}


def test_suspended_frames_are_gone_with_their_thread_and_reading_goes_on() -> None:
    source = Source()
    frames = buffer(source, read_ahead=4)
    frames[0]
    until(lambda: len(source.reads) == 5)
    threads = {each for each in threading.enumerate() if each.name in source.threads}
    frames.suspend()
    assert source.suspended == 1
    assert all(frame() is None for frame in source.given)
    assert not any(each.is_alive() for each in threads - {threading.current_thread()})
    assert frames[1][0, 0, 0] == 1
    until(lambda: source.reads[5:] == [(index, index) for index in range(1, 6)])  # ahead again
    frames.suspend()
    frames.close()
    assert source.closed == 1


def test_reading_ahead_can_be_off() -> None:
    source = Source()
    frames = buffer(source)
    for index in range(5):
        frames[index]
    time.sleep(0.05)
    assert source.reads == [(index, index) for index in range(5)]
    assert source.threads == {threading.current_thread().name}


def test_jumps_do_not_read_ahead() -> None:
    source = Source()
    frames = buffer(source, read_ahead=4)
    for index in (50, 20, 70):
        frames[index]
    time.sleep(0.05)
    assert source.reads == [(50, 50), (20, 20), (70, 70)]
    frames.close()


def test_a_step_back_brings_in_the_group() -> None:
    source = Source()
    frames = buffer(source)
    assert [int(frames[index][0, 0, 0]) for index in range(59, 39, -1)] == list(range(59, 39, -1))
    assert source.reads == [(59, 59), (50, 58), (40, 49)]


def test_a_long_group_is_brought_in_by_what_may_be_kept() -> None:
    source = Source()
    frames = buffer(source, keep=4)
    for index in range(59, 49, -1):
        frames[index]
    assert source.reads == [(59, 59), (55, 58), (51, 54), (50, 50)]


def test_an_error_comes_when_its_frame_is_asked_for() -> None:
    source = Source(broken_at=3)
    frames = buffer(source, read_ahead=4)
    for index in range(3):
        assert frames[index][0, 0, 0] == index
    for _ in range(2):
        with pytest.raises(VideoError, match="broken"):
            frames[3]
    assert frames[4][0, 0, 0] == 4
    frames.close()


def test_closing_while_reading_ahead() -> None:
    source = Source()
    frames = buffer(source, read_ahead=9)
    frames[0]
    frames.close()
    frames.close()
    reads = len(source.reads)
    time.sleep(0.05)
    assert len(source.reads) == reads
    with pytest.raises(VideoError, match="closed"):
        frames[1]


def test_many_consumers_in_turn_and_at_once() -> None:
    """Not asked for, but nobody may get another frame than theirs."""
    frames = buffer(Source(), read_ahead=4)
    wrong: list[int] = []

    def consume(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 100, 200):
            if frames[int(index)][0, 0, 0] != index:
                wrong.append(int(index))

    threads = [threading.Thread(target=consume, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frames.close()
    assert not wrong


@pytest.mark.parametrize("read_ahead", [0, 4])
def test_memory_is_bounded(read_ahead: int) -> None:
    """However frames are visited, no more than the 10 that may be kept are alive."""
    source = Source()
    frames = buffer(source, read_ahead=read_ahead)
    jumps = np.random.default_rng(0).integers(0, 100, 50)
    most = 0
    for index in [*range(100), *reversed(range(100)), *jumps.tolist()]:
        frames[index]
        most = max(most, sum(frame() is not None for frame in list(source.given)))
    assert 5 <= most <= 11  # one more while the oldest is given up
    frames.close()
    assert not any(frame() is not None for frame in source.given)


def test_threads_end_with_the_frames(clip: Clip) -> None:
    before = set(threading.enumerate())  # others may end meanwhile

    def begun() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before]

    with video_frames(clip("25.mp4")) as frames:
        assert [number_of(frames[index]) for index in range(10)] == list(range(10))
        [thread] = begun()
        assert thread.daemon  # a read that hangs keeps no process alive
    assert begun() == []
