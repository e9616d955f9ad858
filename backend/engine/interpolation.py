"""Tracking every n-th frame, and the masks between by interpolation.

The model sees a shorter video that holds only the frames it is to track, so its memories stay
where it learned them to be, one frame after the other. How the masks between are found:
docs/measurements/modes.md. If both were not brought to the same place first, an object that moves
further than its size would vanish between. Their place is the mean of their pixels: a box would
follow every stray speck.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np

from backend.engine.engine import Frames, TrackedObject, Tracker
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.labelstudio.geometry import mask_iou, resize_mask
from backend.pixels.pages import ImageSequence
from backend.pixels.videos import VideoFrames

# Of the tracked frames' predicted IoU, what is left beside a frame on which the object is absent:
# somewhere between the two it came or went.
ABSENT_AGREEMENT = 0.5


class Selected:
    """The frames of a video at ``indices``, ascending, as a video of its own."""

    def __init__(self, frames: Frames, indices: Sequence[int]) -> None:
        self._frames = frames
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self._frames[self._indices[index]]


def tracked_frames(order: Sequence[int], prompted: Collection[int], stride: int) -> list[int]:
    """The frames to be tracked, in the given order.

    Every ``stride``-th, counted from the first and from every prompted one; the prompted ones and
    the last; and the frame before a prompted one, which follows from what came before: a human's
    correction shall not colour the frames that lead to it.

    Args:
        order: all frames in the order of tracking, consecutive.
        stride: at least 1.
    """
    chosen: list[int] = []
    since = stride
    for position, frame in enumerate(order):
        last = position + 1 == len(order)
        if since == stride or last or frame in prompted or order[position + 1] in prompted:
            chosen.append(frame)
            since = 0
        since += 1
    return chosen


class StridedTracker:
    """A ``Tracker`` that may have only some frames tracked, and gives the others by interpolation;
    every mask in the size of its frame as it is stored.

    Args:
        open_tracker: makes a tracker of some frames, with masks in their common size.
        frames: the whole video or sequence; closed with the tracker.
        chosen: the frames that are tracked, ascending; all that are prompted among them.
    """

    def __init__(
        self,
        open_tracker: Callable[[Frames], Tracker],
        frames: VideoFrames | ImageSequence,
        chosen: Sequence[int],
    ) -> None:
        self._frames, self._chosen = frames, chosen
        self._tracker = open_tracker(Selected(frames, chosen))

    @property
    def weights(self) -> str:
        """See ``Tracker``."""
        return self._tracker.weights

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> TrackedObject:
        """See ``Tracker``; only frames that are tracked can be prompted."""
        position = bisect.bisect_left(self._chosen, frame)
        return self._sized(frame, self._tracker.prompt(position, object_id, prompt))

    def step(
        self,
        start: int,
        count: int,
        *,
        reverse: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, list[TrackedObject]]]:
        """See ``Tracker``; the first and the last frame must be tracked ones."""
        sign = -1 if reverse else 1
        ends = start, start + sign * (count - 1)
        first, last = (bisect.bisect_left(self._chosen, frame) for frame in ends)
        number = abs(last - first) + 1
        earlier: tuple[int, list[TrackedObject]] | None = None
        for position, objects in self._tracker.step(
            first, number, reverse=reverse, stopped=stopped
        ):
            frame = self._chosen[position]
            if earlier is not None:
                for between_them, filled in _filled(*earlier, frame, objects):
                    yield between_them, [self._sized(between_them, each) for each in filled]
            yield frame, [self._sized(frame, each) for each in objects]
            earlier = frame, objects

    def suspend(self) -> None:
        """See ``Tracker``."""
        self._tracker.suspend()  # which ends its reading
        self._frames.suspend()

    def close(self) -> None:
        """See ``Tracker``."""
        self._tracker.close()
        self._frames.close()

    def _sized(self, frame: int, found: TrackedObject) -> TrackedObject:
        size, mask = self._frames.frame_size(frame), found.mask
        if size == (mask.width, mask.height):
            return found
        return replace(found, mask=PackedMask.pack(resize_mask(mask.unpack(), *size)))


def _filled(
    start: int, before: Sequence[TrackedObject], end: int, after: Sequence[TrackedObject]
) -> Iterator[tuple[int, list[TrackedObject]]]:
    """The frames between two tracked ones, in the order of tracking."""
    steps = abs(end - start)
    sign = 1 if end > start else -1
    known = {each.object_id: each for each in before}
    pairs = [(known[each.object_id], each) for each in after if each.object_id in known]
    rows = [between(a, b, [step / steps for step in range(1, steps)]) for a, b in pairs]
    for step in range(1, steps):
        yield start + sign * step, [next(row) for row in rows]


def between(
    before: TrackedObject, after: TrackedObject, shares: Sequence[float]
) -> Iterator[TrackedObject]:
    """One object on frames between two tracked ones.

    Its predicted IoU is the lower one of the two, times the agreement of the two masks; so where
    the shape changed much the frame is among those to look at (``review.doubts``).

    Args:
        shares: how far each frame lies from the first to the second, in (0, 1).
    """
    if not shares:
        return
    first, second = before.mask.unpack(), after.mask.unpack()
    iou = min(before.iou, after.iou) * agree(first, second)
    elsewhere = before.elsewhere or after.elsewhere
    for share in shares:
        presence = (1 - share) * before.presence + share * after.presence
        mask = PackedMask.pack(interpolate(first, second, share))
        yield TrackedObject(before.object_id, mask, iou, presence, elsewhere)


def interpolate(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
    """The mask between two masks; the nearer one where the other is empty.

    Args:
        before, after: bool ``[H, W]``.
        share: 0 for the first, 1 for the second.
    """
    moved = _brought_together(before, after, share)
    if moved is None:
        return (before if share < 0.5 else after).copy()
    first, second, place = moved
    mean = (1 - share) * _signed_distance(first) + share * _signed_distance(second)
    found = np.zeros_like(before)
    found[place] = mean > 0
    return found


def agree(before: np.ndarray, after: np.ndarray) -> float:
    """IoU of two masks brought to the same place: 1 for the same shape, wherever it is."""
    moved = _brought_together(before, after, 0.5)
    if moved is None:
        return ABSENT_AGREEMENT if before.any() or after.any() else 1.0
    first, second, _ = moved
    return mask_iou(first, second)


def _brought_together(
    before: np.ndarray, after: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice]] | None:
    """Both masks where they would be between, cut to the part of the frame that holds them, and
    that part; None where one is empty."""
    first, second = _centre(before), _centre(after)
    if first is None or second is None:
        return None
    shifts = [share * (second - first), (1 - share) * (first - second)]
    corners = [
        shift + corner
        for mask, shift in zip((before, after), shifts, strict=True)
        for corner in _corners(mask)
    ]
    left, top = np.maximum(np.floor(np.min(corners, axis=0)).astype(int) - 1, 0)
    height, width = before.shape
    right, bottom = np.minimum(np.ceil(np.max(corners, axis=0)).astype(int) + 2, (width, height))
    moved = []
    for mask, shift in zip((before, after), shifts, strict=True):
        matrix = np.array([[1, 0, shift[0] - left], [0, 1, shift[1] - top]])
        found = cv2.warpAffine(mask.astype(np.float32), matrix, (right - left, bottom - top))
        moved.append(found > 0.5)
    return moved[0], moved[1], (slice(top, bottom), slice(left, right))


def _centre(mask: np.ndarray) -> np.ndarray | None:
    """Mean x and y of a mask's pixels; None where there are none."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) if len(rows) else None


def _corners(mask: np.ndarray) -> np.ndarray:
    """The first and the last pixel of a mask in x and y: ``[2, 2]``."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return np.array([[x, y], [x + width - 1, y + height - 1]])


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the outline, positive inside: float32 of the mask's shape."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return inside - outside
