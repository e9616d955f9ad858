"""What each policy of a track's memory is worth where tracking is hard, on composed clips.

    python -m benchmarks.quality.memory_policies [--clips 2] [--split held-out] [--family cuts]
        [--variant NAME] [--checkpoint FILE] [--device cpu] [--tracked DIRECTORY] [--out FILE]

Every object of each clip (``benchmarks/support/composed_clips.py``) is tracked from its true mask
on frame 0 to the end, once per policy (``sam2model/memory_policy.py``); frames are encoded once for
all of them. Printed are, for each family:

* J: the IoU with what is seen of an object, the mean over the frames that show it (but the first),
  then over objects; and how much more that is than with the reference's memory, object by object,
  plus or minus the standard error of the mean;
* false: of the frames without the object, those whose mask is more than a sliver;
* found again: of the times that an object comes back into sight, those after which a mask has an
  IoU of 0.5 before it goes again, and the frames that this took, the mean over those times; where
  it never has, all the frames count until the object goes or the clip ends.

The constants of the policies were chosen on the clips for tuning; the others report on them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, equal

from benchmarks.support.composed_clips import (
    FAMILIES,
    HEIGHT,
    HELD_OUT,
    SLIVER,
    TUNING,
    VERSION,
    WIDTH,
    ComposedClip,
    compose,
    families_of,
)
from benchmarks.support.report import write_section
from benchmarks.support.table import table
from sam2model import VideoTracker, build_model
from sam2model.memory_policy import POLICIES
from sam2model.sam2 import SAM2, ImageFeatures

_SLIVER = SLIVER * WIDTH * HEIGHT
_FOUND = 0.5  # IoU
_HEAD = (
    "clips",
    "objects",
    "policy",
    "J",
    "than the reference",
    "false",
    "found again",
    "after frames",
)


@dataclass(frozen=True)
class Areas:
    """An object through a clip, in pixels of each frame: of the mask, of the truth, of both."""

    found: list[int]
    true: list[int]
    common: list[int]


class _EncodesOnce:
    """Gives the features of the last picture again where it is asked for once more."""

    def __init__(self, model: SAM2) -> None:
        self._encode = model.encode_image
        self._last: tuple[Tensor, ImageFeatures] | None = None

    def __call__(self, images: Tensor) -> ImageFeatures:
        if self._last is None or not equal(self._last[0], images):
            self._last = images, self._encode(images)
        return self._last[1]


def track(model: SAM2, clip: ComposedClip, policies: Sequence[str]) -> dict[str, dict[str, Areas]]:
    """Track a clip under several policies, side by side.

    Returns:
        By policy and object, what was found.
    """
    trackers = {
        name: VideoTracker(model, clip.frames, memory_policy=POLICIES[name]) for name in policies
    }
    for tracker in trackers.values():
        for name, masks in clip.masks.items():
            tracker.prompt(0, name, mask=masks[0])
    found = {policy: {name: Areas([], [], []) for name in clip.masks} for policy in policies}
    steps = {policy: tracker.propagate() for policy, tracker in trackers.items()}
    for frame in range(len(clip.frames)):
        for policy in policies:
            answers = next(steps[policy])
            for each, mask in zip(answers.object_ids, answers.masks, strict=True):
                areas, truth = found[policy][str(each)], clip.masks[str(each)][frame]
                areas.found.append(int(np.count_nonzero(mask)))
                areas.true.append(int(np.count_nonzero(truth)))
                areas.common.append(int(np.count_nonzero(mask & truth)))
    return found


@dataclass(frozen=True)
class Judged:
    """How an object was tracked.

    Attributes:
        overlap: mean IoU over the frames that show it.
        absent, false: how many frames do not, and how many of them have a mask all the same.
        waits: of each time that it came back into sight, the frames until it was found.
        missed: how many of those times it was not.
    """

    overlap: float
    absent: int
    false: int
    waits: list[int]
    missed: int


def judge(areas: Areas) -> Judged:
    """Hold what was found of an object against the truth; frame 0 is given."""
    found, true, common = (
        np.array(each[1:], float) for each in (areas.found, areas.true, areas.common)
    )
    present = true > _SLIVER
    overlaps = common / np.maximum(found + true - common, 1)
    waits, missed = [], 0
    for sight in _returns(present):
        hits = np.flatnonzero(overlaps[sight] >= _FOUND)
        waits.append(int(hits[0]) if len(hits) else sight.stop - sight.start)
        missed += not len(hits)
    false = int(np.count_nonzero(~present & (found > _SLIVER)))
    absent = int(np.count_nonzero(~present))
    return Judged(float(overlaps[present].mean()), absent, false, waits, missed)


def _returns(present: NDArray[np.bool_]) -> Iterator[slice]:
    """The stretches of frames that show an object, but for one from the very beginning."""
    edges = np.flatnonzero(np.diff(np.pad(present.astype(int), 1)))
    for start, stop in edges.reshape(-1, 2):
        if start > 0:
            yield slice(int(start), int(stop))


def row(
    clips: str, policy: str, judged: Sequence[Judged], reference: Sequence[Judged]
) -> list[str]:
    """What a policy is worth on some objects, beside what the reference's is."""
    pairs = zip(judged, reference, strict=True)
    more = np.array([one.overlap - other.overlap for one, other in pairs])
    error = more.std(ddof=1) / np.sqrt(len(more)) if len(more) > 1 else np.nan
    waits = [wait for each in judged for wait in each.waits]
    missed = sum(each.missed for each in judged)
    return [
        clips,
        str(len(judged)),
        policy,
        f"{np.mean([each.overlap for each in judged]):.3f}",
        "" if judged is reference else f"{more.mean():+.3f} ± {error:.3f}",
        f"{sum(each.false for each in judged)} of {sum(each.absent for each in judged)}",
        f"{len(waits) - missed} of {len(waits)}",
        f"{np.mean(waits):.1f}" if waits else "",
    ]


def tracked_clips(
    arguments: argparse.Namespace, family: str, policies: Sequence[str]
) -> Iterator[dict[str, dict[str, Areas]]]:
    """The clips of a family, tracked; what lies in ``--tracked`` is not tracked again."""
    model: SAM2 | None = None
    for number in range(arguments.clips):
        weights = "own" if arguments.checkpoint is None else arguments.checkpoint.stem
        name = f"{VERSION}-{family}-{arguments.split}-{number}-{arguments.variant}-{weights}.json"
        file = None if arguments.tracked is None else arguments.tracked / name
        found: dict[str, dict[str, Areas]] = {}
        if file is not None and file.is_file():
            for policy, objects in json.loads(file.read_text(encoding="utf-8")).items():
                found[policy] = {each: Areas(**areas) for each, areas in objects.items()}
        missing = [policy for policy in policies if policy not in found]
        if missing:
            if model is None:
                model = _model(arguments)
            found |= track(model, compose(family, arguments.split, number), missing)
            if file is not None:
                content = {
                    policy: {each: asdict(areas) for each, areas in objects.items()}
                    for policy, objects in found.items()
                }
                file.write_text(json.dumps(content), encoding="utf-8")
        yield found


def _model(arguments: argparse.Namespace) -> SAM2:
    model = build_model(arguments.variant, checkpoint=arguments.checkpoint, device=arguments.device)
    model.encode_image = _EncodesOnce(model)  # type: ignore[method-assign]
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=2, help="of each family")
    parser.add_argument("--split", choices=(TUNING, HELD_OUT), default=HELD_OUT)
    parser.add_argument("--family", action="append", choices=tuple(FAMILIES), help="not all")
    parser.add_argument("--variant", default="demo", help="of the model")
    parser.add_argument("--checkpoint", type=Path, help="weights, if not the variant's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tracked", type=Path, help="folder that keeps what was tracked")
    parser.add_argument("--out", type=Path, help="document with the section to replace")
    arguments = parser.parse_args()
    judged: dict[str, list[Judged]] = {policy: [] for policy in POLICIES}
    rows = []
    for family in arguments.family or FAMILIES:
        if arguments.split not in families_of(family):
            continue
        found = list(tracked_clips(arguments, family, list(POLICIES)))
        here = {
            policy: [judge(areas) for each in found for areas in each[policy].values()]
            for policy in POLICIES
        }
        for policy, objects in here.items():
            rows.append(row(family, policy, objects, here["reference"]))
            judged[policy] += objects
    for policy, objects in judged.items():
        rows.append(row("all", policy, objects, judged["reference"]))
    name = f"{arguments.variant}, {arguments.split}"
    write_section(arguments.out, name, table(_HEAD, rows).splitlines())


if __name__ == "__main__":
    main()
