"""How far a job is, and which frames deserve a look: where a mask may be wrong."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import NamedTuple

from backend.job_state import JobState
from backend.tracking.store import Job, Sighting, TrackedMask

Found = Sighting | TrackedMask

Box = tuple[int, int, int, int]

# What speaks for a look, and how much: rounded weights of a logistic regression on composed clips
# with known truth (docs/measurements/review.md). A frame whose sum reaches ``LOOK`` is worth one.
LOOK = 5.5
LOST = 4.1
LEFT = 1.4  # it was at the edge of the picture before
DOUBTED = 0.6  # for each 1.0 that the predicted IoU is below ``GOOD_IOU``
UNSURE = 1.2  # the predicted IoU was below ``LOW_IOU`` since the mark
SIZE = 6.1  # for each factor e that the area differs from the first one, up to ``MOST_SIZE``
JUMPED = 2.7  # since the mark, the box of a frame did not lie over that of the frame before
CAME_BACK = 0.9  # the same, because it had left the picture
MET = 1.1  # since the mark, the box of another object lay over it
CUT_AWAY = 1.4  # it has no mask in another scene than that of the mark

WORTHLESS_IOU = 0.4  # whatever else is known
LOW_IOU = 0.7
GOOD_IOU = 0.95
LOW_SCORE = 0.6  # of the answer to a prompt
SAME_PLACE = 0.5  # IoU of the boxes on two frames that follow one another
TOUCH = 0.15  # of the smaller of two boxes, that both share
MOST_SIZE = 0.7
EDGE = 2  # pixels
GAP = 3  # frames


def report(
    job: Job,
    masks: Sequence[Found],
    total: int,
    seconds_left: float | None,
    *,
    shown_as: Callable[[int], int],
    unit: str = "frame",
    marked: Iterable[int] = (),
) -> str:
    """What the text box says of a job: see ``progress``, and which frames to look at.

    Args:
        masks: what was found, in order of object and frame.
        seconds_left: see ``JobRunner.seconds_left``.
        shown_as: the number under which the editor shows a frame.
        unit: what a frame is called.
        marked: the frames that a human marked: they are done too.
    """
    done = {mask.frame for mask in masks}
    done.update(marked if done else ())
    text = progress(job, map(shown_as, done), total, seconds_left, unit)
    look = sorted({shown_as(doubt.frame) for doubt in doubts(masks)})
    return f"{text}; look at {ranges(look)}" if look else text


def progress(
    job: Job, frames: Iterable[int], total: int, seconds_left: float | None, unit: str = "frame"
) -> str:
    """One line: which of ``total`` frames are done, and what to expect of the others."""
    shown = sorted(set(frames))
    units = unit if len(shown) == 1 else f"{unit}s"
    done = f"{units} {ranges(shown)} of {total} done" if shown else f"no {unit} is done yet"
    match job.state:
        case JobState.FAILED:
            return f"{job.message}; {done}"
        case JobState.DONE:
            return done
        case JobState.CANCELLED:
            return f"stopped; {done}"
        case JobState.QUEUED:
            return f"{done}, waiting for other tracks; type status to see more"
    wait = f", {seconds_left:.0f} s left" if seconds_left is not None else ""
    return f"{done}{wait}; type status to see more"


def ranges(frames: Iterable[int], limit: int = 12) -> str:
    """Ascending numbers as "0-41, 43, 50-61"."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:limit]]
    return ", ".join(shown) + (", ..." if len(runs) > limit else "")


class Doubt(NamedTuple):
    """How much a frame deserves a look, from ``LOOK`` on, and why most of all."""

    object_id: str
    frame: int
    reason: str
    weight: float


@dataclass(frozen=True)
class Stretch:
    """Frames to look at with at most ``GAP`` others between them; ``worst`` deserves it most."""

    object_id: str
    first: int
    last: int
    worst: int
    reason: str


def stretches(found: Iterable[Doubt]) -> list[Stretch]:
    """``doubts`` as stretches, each with the reason for its worst frame, the first of several."""
    made: list[list[Doubt]] = []
    for each in found:
        last = made[-1][-1] if made else None
        if last and last.object_id == each.object_id and each.frame - last.frame <= GAP + 1:
            made[-1].append(each)
        else:
            made.append([each])
    worst = [max(run, key=lambda doubt: doubt.weight) for run in made]
    return [
        Stretch(run[0].object_id, run[0].frame, run[-1].frame, one.frame, one.reason)
        for run, one in zip(made, worst, strict=True)
    ]


def doubts(masks: Iterable[Found]) -> list[Doubt]:
    """Frames to look at, by object and frame; see ``weighed_frames``."""
    return weighed_frames(masks, LOOK)


def weighed_frames(masks: Iterable[Found], least: float = -math.inf) -> list[Doubt]:
    """How much each frame deserves a look, by object and frame; without those below ``least``.

    Args:
        masks: in this order, as ``TrackStore.sightings`` gives them; of all objects that may have
            been taken for one another.
    """
    found = list(masks)
    met = _meetings(found)
    weighed: list[Doubt] = []
    for _, track in groupby(found, key=lambda each: each.object_id):
        runs = (_weigh(run, met, least) for run in _runs(list(track)))
        weighed += sorted(chain.from_iterable(runs), key=lambda doubt: doubt.frame)
    return weighed


def _meetings(masks: Sequence[Found]) -> set[tuple[str, int]]:
    """Objects and frames where the box of another object lies over a part of theirs."""
    met: set[tuple[str, int]] = set()
    if not masks or masks[0].object_id == masks[-1].object_id:
        return met  # there is only one
    on_frame: defaultdict[int, list[Found]] = defaultdict(list)
    for each in masks:
        on_frame[each.frame].append(each)
    for frame, found in on_frame.items():
        boxes = sorted((each.box, each.object_id) for each in found if each.box)
        for at, (box, name) in enumerate(boxes, start=1):
            for other, its_name in boxes[at:]:
                if other[0] >= box[2]:
                    break  # they are sorted by their left edges
                if _shared(box, other) > TOUCH * min(_size(box), _size(other)):
                    met.add((name, frame))
                    met.add((its_name, frame))
    return met


def _runs(track: Sequence[Found]) -> Iterator[Sequence[Found]]:
    """The frames of an object that follow from one mark, in the order of tracking: from the mark
    on, and from the mark back. A mark that was drawn is missing among them."""
    for _, followed in groupby(track, key=lambda each: each.anchor):
        run = list(followed)
        mark = next((at for at, each in enumerate(run) if each.prompted), None)
        if mark is None:
            gaps = (at for at in range(1, len(run)) if run[at].frame != run[at - 1].frame + 1)
            mark = next(gaps, 0)
        yield run[mark:]
        if mark:
            yield run[:mark][::-1]


def _weigh(
    run: Sequence[Found], met: Collection[tuple[str, int]], least: float = -math.inf
) -> Iterator[Doubt]:
    """How much the frames of a run deserve a look, and why most of all; see ``weighed_frames``.

    What went wrong once may be wrong until the next mark: after a jump the mask may be of something
    else, whatever the model thinks of it.
    """
    marked = next((each.area for each in run if each.area), 1)
    jumped = unsure = has_met = left = was_lost = was_elsewhere = False
    before = run[0]
    for each in run:
        was_elsewhere, cut = each.elsewhere, each.elsewhere and not was_elsewhere
        if was_elsewhere:  # what comes behind it follows the frame before the cut
            weight = LOOK if cut or each.box else CUT_AWAY
            if weight >= least:
                yield Doubt(each.object_id, each.frame, "scene changed", weight)
            continue
        jumped = jumped or _overlap(before.box, each.box) < SAME_PLACE
        has_met = has_met or (each.object_id, each.frame) in met
        since = MET * has_met + UNSURE * unsure
        if each.box is None:
            was_lost = True
            if before.box is not None:
                left = _is_at_the_edge(before.box, each)
            weight = (LEFT if left else LOST) + (JUMPED * jumped + since)
            signs = {"left" if left else "lost": weight}
        else:
            unsure = unsure or each.iou < LOW_IOU
            signs = {
                "unsure": DOUBTED * max(0.0, GOOD_IOU - each.iou) + UNSURE * unsure,
                "changed size": SIZE * min(MOST_SIZE, abs(math.log(each.area / marked))),
                "found again" if was_lost else "jumped": (CAME_BACK if left else JUMPED) * jumped,
                "met another": MET * has_met,
            }
            weight = sum(signs.values())
            if before.box is None:  # is it the same thing?
                signs, weight = {"found again": weight}, max(weight, LOOK)
            if each.iou < WORTHLESS_IOU or each.presence <= 0:
                signs, weight = {"unsure": weight}, max(weight, LOOK)
        if weight >= least:
            reason = max(signs, key=signs.__getitem__)
            yield Doubt(each.object_id, each.frame, reason, weight)
        before = each


def _is_at_the_edge(box: Box, frame: Found) -> bool:
    left, top, right, bottom = box
    return min(left, top) <= EDGE or right >= frame.width - EDGE or bottom >= frame.height - EDGE


def _overlap(one: Box | None, other: Box | None) -> float:
    """IoU of two boxes; 1 where both are empty."""
    if one is None or other is None:
        return float(one is other)
    shared = _shared(one, other)
    return shared / (_size(one) + _size(other) - shared)


def _shared(one: Box, other: Box) -> int:
    """Pixels of both boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _size(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
