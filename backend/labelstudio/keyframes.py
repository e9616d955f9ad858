"""The boxes of a video region: key frames read, shown, thinned, merged and written.

A region of ``<VideoRectangle>`` is a list of key frames, and the editor shows (``getShape`` and
``isInLifespan`` in ``regions/VideoRectangleRegion.js`` and ``regions/VideoRegion.js`` of Label
Studio 1.23.2):

- nothing before the first key frame;
- on a key frame its box, also where it is not enabled;
- after an enabled one the box on the straight line to the next, or its own box if it is the last;
- after one that is not enabled nothing, until the next key frame.

So ``enabled: false`` stands on the last frame on which the object is there, not on the first
without it. Frames are the editor's, from 1 (``timing``).
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from backend.labelstudio.geometry import Box, box_iou
from backend.labelstudio.json_values import flag, mappings, number, percent, whole_number
from backend.labelstudio.timing import keyframe_time

_SIDES = ("x", "y", "width", "height")
_ROUNDING = 1e-9  # percent or degrees: the error of a few additions


@dataclass(frozen=True)
class Keyframe:
    """One key frame.

    Attributes:
        frame: the editor's number, from 1.
        box: in percent, as it was written; a human's may be a line without area.
        enabled: False where the object is gone after this frame, until the next key frame.
    """

    frame: int
    box: Box
    enabled: bool = True


def same_box(one: Box, other: Box, slack: float) -> bool:
    """Whether no number differs by more than ``slack``: percent, and degrees of the angle."""
    *sides, turn = (a - b for a, b in zip(one, other, strict=True))
    return all(abs(difference) <= slack for difference in (*sides, _normal_angle(turn)))


def read_sequence(value: object) -> tuple[Keyframe, ...]:
    """The key frames in a result's ``value``, ascending, one for each frame.

    Never raises: entries that are no key frames are passed over. Of several on one frame the last
    counts. A key frame without ``enabled`` is not enabled, as in the editor.
    """
    entries = value.get("sequence") if isinstance(value, Mapping) else None
    found: dict[int, Keyframe] = {}
    for entry in mappings(entries):
        with contextlib.suppress(ValueError):
            keyframe = _read_keyframe(entry)
            found[keyframe.frame] = keyframe
    return tuple(found[frame] for frame in sorted(found))


def box_at(keyframes: Sequence[Keyframe], frame: int) -> Box | None:
    """The box that ascending key frames give ``frame`` in the editor; None where it shows none."""
    following = bisect.bisect_right(keyframes, frame, key=lambda each: each.frame)
    if following == 0:
        return None
    before = keyframes[following - 1]
    if before.frame == frame:
        return before.box
    if not before.enabled:
        return None
    if following == len(keyframes):
        return before.box
    after = keyframes[following]
    return _between(before.box, after.box, (frame - before.frame) / (after.frame - before.frame))


def thin(
    boxes: Mapping[int, Box | None],
    keep: Collection[int] = (),
    tolerance: float = 0.98,
    *,
    frames_count: int | None = None,
) -> tuple[Keyframe, ...]:
    """Few key frames that show ``boxes``.

    On every frame given, the box shown has an IoU of at least ``tolerance`` with the true one, and
    none is shown where there is none. Each key frame has the true box of its frame. The next is
    the farthest that a search by doubling and halving finds, which need not be the fewest
    possible.

    Args:
        boxes: by frame, the true box or None where the object is absent. Frames that are not
            given are not looked at: between two with a box the editor draws a line.
        keep: frames that get a key frame if they have a box.
        tolerance: IoU, 0 to 1. Turned boxes are compared for equality: their IoU depends on the
            shape of the picture.
        frames_count: number of the video's last frame. The object is taken to end with the last
            frame given, unless that is this one.

    Returns:
        Ascending, one for each frame; ``enabled`` is False where the object disappears.
    """
    found: list[Keyframe] = []
    kept = set(keep)
    for stretch in _stretches(boxes):
        chosen = _choose(stretch, kept, tolerance)
        if chosen[-1].frame != frames_count:
            chosen[-1] = replace(chosen[-1], enabled=False)
        found += chosen
    return tuple(found)


def merge_human(human: Sequence[Keyframe], model: Sequence[Keyframe]) -> tuple[Keyframe, ...]:
    """A human's key frames, each with its own box, and the model's between them.

    Where the human says that the object ends (``enabled`` False), the model's key frames up to the
    human's next are left out. An enabled one of the human is closed where the model, on frames that
    it has looked at, does not find the object right after it: else the editor would draw a
    line across the absence.

    Args:
        human: ascending; as ``video_regions.human_keyframes`` gives them.
        model: ascending, of the same boxes as the human's on their frames (``thin`` with ``keep``).
    """
    merged = {each.frame: each for each in model}
    for position, mine in enumerate(human):
        following = human[position + 1].frame if position + 1 < len(human) else None
        if not mine.enabled:
            for other in model:
                if other.frame > mine.frame and (following is None or other.frame < following):
                    del merged[other.frame]
        elif model and model[0].frame <= mine.frame <= model[-1].frame:
            mine = replace(mine, enabled=box_at(model, mine.frame + 1) is not None)
        merged[mine.frame] = mine
    return tuple(merged[frame] for frame in sorted(merged))


def sequence_value(
    keyframes: Sequence[Keyframe], *, frames_count: int, duration: float, framerate: float
) -> dict[str, object]:
    """The ``value`` of a region, as Label Studio writes it.

    Args:
        keyframes: ascending, at least one (the editor cannot open a region without).
        frames_count: number of the editor's last frame.
        duration: of the video in seconds, as the browser states it.
        framerate: of the tag, from ``timing.tag_framerate``.
    """
    return {
        "framesCount": frames_count,
        "duration": duration,
        "sequence": [
            {
                "frame": each.frame,
                "enabled": each.enabled,
                **each.box._asdict(),
                "time": keyframe_time(each.frame, framerate),
            }
            for each in keyframes
        ],
    }


def _read_keyframe(entry: Mapping[str, object]) -> Keyframe:
    """One key frame. Raises ValueError where the entry is none."""
    frame = whole_number(entry.get("frame"))
    if not frame:
        raise ValueError("frame is no number from 1")
    x, y, width, height = (percent(entry, key) for key in _SIDES)
    if width < 0 or height < 0:
        raise ValueError("the box has a negative size")
    rotation = number(entry.get("rotation")) or 0.0
    return Keyframe(frame, Box(x, y, width, height, rotation), bool(flag(entry.get("enabled"))))


def _between(before: Box, after: Box, share: float) -> Box:
    """The box that far on the way; angles go the shorter way round (``utils/props.ts``)."""
    turn = _normal_angle(after.rotation - before.rotation)
    *sides, _ = (a + (b - a) * share for a, b in zip(before, after, strict=True))
    return Box._make([*sides, _normal_angle(before.rotation + turn * share)])


def _normal_angle(degrees: float) -> float:
    """The same angle in (-180, 180]."""
    return 180.0 - (180.0 - degrees) % 360.0


def _stretches(boxes: Mapping[int, Box | None]) -> Iterator[list[Keyframe]]:
    """A key frame for every box, in stretches between the frames where the object is absent."""
    present = {frame: Keyframe(frame, box) for frame, box in boxes.items() if box is not None}
    for is_there, frames in itertools.groupby(sorted(boxes), key=present.__contains__):
        if is_there:
            yield [present[frame] for frame in frames]


def _choose(stretch: Sequence[Keyframe], keep: Collection[int], tolerance: float) -> list[Keyframe]:
    """The key frames of a stretch: its ends, those to keep, and what is needed between."""
    last = len(stretch) - 1
    fixed = [place for place in range(1, last) if stretch[place].frame in keep]
    chosen = [stretch[0]]
    place = 0
    for end in [*fixed, last]:
        while place < end:
            place = _farthest(stretch, place, end, tolerance)
            chosen.append(stretch[place])
    return chosen


def _farthest(stretch: Sequence[Keyframe], start: int, end: int, tolerance: float) -> int:
    """A place up to ``end`` to which a line from ``start`` is true enough; at least the next."""
    good, reach = start + 1, min(start + 2, end)
    while good < reach and _is_line(stretch, start, reach, tolerance):
        good, reach = reach, min(2 * reach - start, end)
    while reach - good > 1:
        middle = (good + reach) // 2
        if _is_line(stretch, start, middle, tolerance):
            good = middle
        else:
            reach = middle
    return good


def _is_line(stretch: Sequence[Keyframe], start: int, end: int, tolerance: float) -> bool:
    """Whether the boxes between two places are those that the editor would draw."""
    first, last = stretch[start], stretch[end]
    frames = last.frame - first.frame
    return all(
        _overlap(_between(first.box, last.box, (each.frame - first.frame) / frames), each.box)
        >= tolerance
        for each in stretch[start + 1 : end]
    )


def _overlap(one: Box, other: Box) -> float:
    """IoU of two upright boxes; 1 or 0 for turned ones, by whether they are the same."""
    if same_box(one, other, _ROUNDING):
        return 1.0
    if any(abs(_normal_angle(box.rotation)) > _ROUNDING for box in (one, other)):
        return 0.0
    corners = [(box.x, box.y, box.x + box.width, box.y + box.height) for box in (one, other)]
    return box_iou(*corners)
