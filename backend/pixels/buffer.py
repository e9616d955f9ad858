"""Frames by number, kept within a bound and read ahead in a thread.

Sources read best in ascending runs. The buffer turns access in any order into such runs: reading
forward goes on where it stopped, and one step back brings in as many of the frames before it as
may be kept, so that going backward does not decode every group of pictures once per frame.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from backend.pixels.video_limits import VideoError
from backend.threads.fair_pool import FairPool

Picture = NDArray[np.uint8]
"""uint8 RGB [H, W, 3], contiguous, read-only."""


class FrameSource(Protocol):
    """Where frames come from; used by one thread at a time."""

    def read(self, first: int, last: int) -> Iterator[tuple[int, Picture]]:
        """The frames ``first`` to ``last``, both included, with their numbers."""

    def suspend(self) -> None:
        """Nothing is read for a while: free what can be made again."""

    def close(self) -> None:
        """Free everything."""


class FrameBuffer:
    """``len(frames)`` and ``frames[i]``, for i from 0; see the module.

    For one consumer at a time: runs are read for the last frame asked for. Calls may overlap with
    the buffer's own thread, and with those of another thread that takes its turn. Close it, or use
    it in a ``with`` statement.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        count: int,
        frame_bytes: int,
        read_ahead: int,
        max_bytes: int,
        group_start: Callable[[int], int],
    ) -> None:
        """
        Args:
            count: frames there are.
            frame_bytes: size of each.
            read_ahead: frames to have ready beyond the last one given out; 0 for no thread.
            max_bytes: of the frames kept, those read ahead included; at least one is kept.
            group_start: the first of the frames that reading a frame costs hardly more to have as
                well.
        """
        self._source, self._count, self._group_start = source, count, group_start
        self._capacity = max(1, max_bytes // frame_bytes)
        self._read_ahead = min(read_ahead, self._capacity - 1)
        self._reading = threading.Lock()  # the source; taken before _state, never after
        self._state = threading.Lock()  # everything below
        self._kept: dict[int, Picture] = {}
        self._last = -1
        self._waiting = self._closed = False
        self._pool = self._reader()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Picture:
        """The frame, uint8 RGB [height, width, 3]; copy it to draw on it.

        Raises:
            IndexError: there is no such frame; negative numbers do not count from the end.
            VideoError: the frame cannot be read, or the buffer is closed.
            Exception: whatever else the source raises.
        """
        index = operator.index(index)
        if not 0 <= index < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        with self._state:
            if self._closed:
                raise VideoError("The video has been closed.")
            forward, backward = index == self._last + 1, index == self._last - 1
            self._last = index
            frame = self._kept.get(index)
            self._waiting = frame is None
        if frame is None:
            frame = self._load(index, backward)
        if forward and self._pool is not None:
            self._pool.submit(self._fill)
        return frame

    def __iter__(self) -> Iterator[Picture]:
        return (self[index] for index in range(len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def suspend(self) -> None:
        """Nothing is asked for a while: end the thread, drop all frames, and have the source free
        what it can make again. The next frame that is asked for is read as the first one was."""
        with self._state:
            self._waiting = True  # the thread stops at the frame it reads
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = self._reader()
        with self._reading, self._state:
            self._kept.clear()
            self._source.suspend()

    def close(self) -> None:
        """Stop the thread, drop all frames and close the source. May be called again."""
        with self._state:
            self._closed = True
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        with self._reading, self._state:
            self._kept.clear()
            self._source.close()

    def _reader(self) -> FairPool | None:
        return FairPool(1, "read-ahead") if self._read_ahead > 0 else None

    def _load(self, index: int, backward: bool) -> Picture:
        with self._reading:
            with self._state:
                self._waiting = False
                frame = self._kept.get(index)  # read ahead in the meantime
            if frame is not None:
                return frame
            first = index
            if backward:
                first = max(self._group_start(index), index - self._capacity + 1)
                with self._state:
                    self._kept.clear()  # what lies behind makes room for what comes
            for number, frame in self._source.read(first, index):
                self._keep(number, frame)
        if frame is None:
            raise VideoError(f"Frame {index + 1} of the video could not be read.")
        return frame

    def _keep(self, number: int, frame: Picture) -> None:
        """Keep a frame, and give up the farthest from the last one asked for if there are more
        than may be kept."""
        with self._state:
            self._kept[number] = frame
            while len(self._kept) > self._capacity:
                del self._kept[max(self._kept, key=lambda kept: abs(kept - self._last))]

    def _fill(self) -> None:
        """Read ahead, in the thread, until enough is there or the consumer waits for the source.
        Errors end it: the consumer meets them itself when it comes to that frame."""
        while True:
            with self._reading:
                with self._state:
                    ahead = range(self._last + 1, self._last + 1 + self._read_ahead)
                    wanted = next((n for n in ahead if n not in self._kept), self._count)
                    if self._closed or self._waiting or wanted >= self._count:
                        return
                for number, frame in self._source.read(wanted, wanted):
                    self._keep(number, frame)
