"""Label Studio's numbers of pages and frames <-> pages of a task and frames of a video file. The
only module that converts.

The editor counts pages from 1 ("1 of 16"), while ``item_index`` and the lists of a task count from
0: ``page_number`` and ``page_index``. What people read and type is the editor's.

Label Studio's video editor knows nothing of the frames in the file. It counts its own, from 1, at
the ``framerate`` of the ``<Video>`` tag, and shows whatever the browser has at a time:

- going to frame n seeks to (n - 1) / framerate, rounded to 2 ms, plus 2 ms, and the browser shows
  the last frame of the file whose timestamp is not later (``goToFrame`` and ``frameSteppedTime``
  in ``components/VideoCanvas/VideoCanvas.tsx`` of Label Studio 1.23.2, with its default flags);
- the editor's last frame is ``framesCount`` = round(duration * framerate), of the browser's
  ``duration``;
- the ``time`` it writes beside a key frame is n / framerate, one frame later than what is shown
  (``regions/VideoRegion.js``): it is written as the editor writes it and never read.

So one frame of the file can have several numbers in the editor, or none. The timestamps come from
the file (``FrameTable.times``) and are the browser's: seconds, ascending, and not moved to 0 where
the first is later. All this agrees with Chromium 156 on every position measured
(``tests/pixels/measure_chromium.py``), but for two kinds of file in which Chromium itself does not
show the frame that is due: WebM of strongly varying frame rate, where after a seek it may show the
frame before, and MP4 with B-frames and no edit list, where it leaves out some of the B-frames.
"""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.labelstudio.json_values import look_up, number

DEFAULT_FRAMERATE = 24.0
"""Frames per second of a ``<Video>`` tag without ``framerate`` (``tags/object/Video/Video.js``)."""

_BROWSER_PRECISION = 0.002  # seconds; BROWSER_TIME_PRECISION in VideoCanvas.tsx


def page_number(index: int) -> int:
    """The number under which the editor shows the page ``index`` (from 0) of a sequence."""
    return index + 1


def page_index(number: int) -> int:
    """The page, from 0, that the editor shows under ``number`` (from 1)."""
    return number - 1


def tag_framerate(attribute: str | None, task_data: Mapping[str, object]) -> float:
    """The frames per second at which the editor counts, as ``afterCreate`` in Video.js finds it.

    Args:
        attribute: the tag's ``framerate``: a number, ``$key`` or ``$path.to.key`` of the task's
            data, or None. What is no number, or 0, means 24; a number below 1 is taken for the
            seconds from frame to frame.
        task_data: the task's ``data``.

    Raises:
        ValueError: the number is negative; the editor cannot work with it either.
    """
    value: object = (attribute or "").strip()
    if isinstance(value, str) and value.startswith("$"):
        path, value = value[1:], None
        with contextlib.suppress(KeyError):
            value = look_up(task_data, path)
    framerate = number(value) or DEFAULT_FRAMERATE
    if framerate < 0:
        raise ValueError(f'framerate="{attribute}" of <Video> is negative: give frames per second')
    return framerate if framerate >= 1 else 1 / framerate


def frames_count(duration: float, framerate: float) -> int:
    """The number of the editor's last frame, ``framesCount``, for a duration in seconds as the
    browser states it; at least 1."""
    return max(1, _round(duration * framerate))


def keyframe_time(frame: int, framerate: float) -> float:
    """The ``time`` of a key frame as Label Studio writes it, in seconds: n / framerate."""
    return frame / framerate


def seek_time(frame: int, framerate: float) -> float:
    """The browser time in seconds that the editor goes to for its frame ``frame`` (from 1)."""
    exact = (frame - 1) / framerate
    return _round(exact / _BROWSER_PRECISION) * _BROWSER_PRECISION + _BROWSER_PRECISION


def frame_on_screen(time: float, times: Sequence[float]) -> int:
    """The index of the file's frame on screen at a browser time in seconds: the last whose
    timestamp is not later; before the first timestamp the first frame.

    Compared in whole microseconds, the unit browsers hold times in.
    """
    return max(0, bisect.bisect_right(times, _microseconds(time), key=_microseconds) - 1)


@dataclass(frozen=True, eq=False)
class Timeline:
    """One file in one editor: numbers of the editor (from 1) <-> indices into the file (from 0).

    Attributes:
        times: timestamps of the file's frames in seconds, float [N], ascending, N >= 1.
        framerate: of the tag, from ``tag_framerate``.
        frames_count: number of the editor's last frame: ``framesCount`` of the regions the editor
            sent, or else from ``frames_count``.
    """

    times: Sequence[float]
    framerate: float
    frames_count: int

    def __post_init__(self) -> None:
        if not len(self.times):
            raise ValueError("a timeline needs at least one frame")
        if not (self.framerate > 0 and math.isfinite(self.framerate)) or self.frames_count < 1:
            raise ValueError("a timeline needs a positive framerate and at least one editor frame")

    def file_frame(self, frame: int) -> int:
        """The file's frame that the editor shows as ``frame``.

        Numbers outside 1..frames_count mean the first or last, as in the editor.
        """
        frame = min(max(frame, 1), self.frames_count)
        return frame_on_screen(seek_time(frame, self.framerate), self.times)

    def editor_frame(self, index: int) -> int:
        """The editor's number for the file's frame ``index``: the first that shows it, or, where
        the editor skips it, the number on display while the file plays past it."""
        numbers = range(1, self.frames_count + 1)
        before = bisect.bisect_left(numbers, index, key=self.file_frame)
        if before < len(numbers) and self.file_frame(numbers[before]) == index:
            return numbers[before]
        return max(1, before)

    def editor_frames(self) -> list[int]:
        """``editor_frame`` of every frame of the file, in one pass over the editor's."""
        found: list[int] = []
        for frame in range(1, self.frames_count + 1):
            index = self.file_frame(frame)
            skipped = index - len(found)
            if skipped >= 0:
                found += [max(1, frame - 1)] * skipped + [frame]
        return found + [self.frames_count] * (len(self.times) - len(found))


def _round(value: float) -> int:
    """JavaScript's ``Math.round``: halves go up."""
    return math.floor(value + 0.5)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
