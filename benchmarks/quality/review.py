"""Whether the frames to look at are the bad ones, on composed clips whose truth is known.

    python -m benchmarks.quality.review [--clips 2] [--box] [--tracked DIRECTORY] [--out FILE]

The objects of each clip (``benchmarks/support/composed_clips.py``) are tracked by the service's own
jobs, engine and store, with the demo weights, from their true mask on frame 0 or the box around it.

A mask is bad where its IoU with what is seen of the object is below 0.5; where no more than a
sliver of the object is seen (0.05 % of the picture), where it is more than a sliver itself.
``backend/tracking/review.py`` says which masks a human should look at. Printed are the share of all
masks that this is, the share of the bad ones among them (recall), that of the bad ones in them
(precision), and how many stretches of three or more bad frames hold one that is looked at. The
curve says what the recall would be with another threshold, what no rule can exceed, for there are
so many bad ones, how much of that is reached, and what a rule would find that was fitted to these
very answers: a logistic regression on all that the tracker says of a frame, now and at its worst
since the mark. The last table counts the masks that the model
gives behind a cut, by whether the object is seen there, and those of them that are not left out
(``backend/engine/queued_tracker.py``). The rule was chosen on the clips for tuning; the others
report on it.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.engine.building import ModelChoice
from backend.engine.local import LocalEngine
from backend.engine.pixel_prompts import PixelPrompt
from backend.job_state import JobState
from backend.metrics import Metrics
from backend.pixels.recipes import Pages, Picture
from backend.settings import Settings
from backend.tracking.review import doubts, weighed_frames
from backend.tracking.runner import JobRunner, Work
from backend.tracking.spans import plan_goal
from backend.tracking.store import Sighting, TrackStore
from benchmarks.support.composed_clips import (
    HELD_OUT,
    TUNING,
    VERSION,
    ComposedClip,
    Mask,
    clips,
    is_bad,
)
from benchmarks.support.report import write_section
from benchmarks.support.table import table

SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
_FRAMES = 3  # bad ones that make a stretch
_SIGNS = 6
_NEWTON_STEPS = 30
_PATIENCE = 3600.0
_CUT_HEAD = (
    "clips",
    "masks where it is not",
    "masks where it is",
    "kept where it is not",
    "kept where it is",
    "of these bad",
)
_HEAD = ("clips", "masks", "bad", "looked at", "recall", "precision", "bad stretches found")


@dataclass(frozen=True)
class Tracked:
    """What a job found on a clip.

    Attributes:
        sightings: by object and frame.
        bad, present: by object, of each frame: whether its mask is, and whether it is seen there.
    """

    family: str
    split: str
    sightings: list[Sighting]
    bad: dict[str, list[bool]]
    present: dict[str, list[bool]]


class _Frames:
    """A clip as the engine reads it."""

    def __init__(self, clip: ComposedClip) -> None:
        self._frames = clip.frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        return self._frames[index]

    def frame_size(self, index: int) -> tuple[int, int]:
        height, width = self._frames[index].shape[:2]
        return width, height

    def close(self) -> None:
        """Nothing was opened."""


class _Pixels:
    """Gives the clip at hand, whatever is asked for."""

    def __init__(self) -> None:
        self.clip: ComposedClip | None = None

    def frames(self, recipe: object) -> _Frames:
        assert self.clip is not None
        return _Frames(self.clip)


class Tracker:
    """The service's engine and jobs over clips in memory."""

    def __init__(self) -> None:
        self._pixels = _Pixels()
        settings = Settings()
        share = settings.speck_percent / 100
        self._engine = LocalEngine(
            ModelChoice("demo", device="cpu", track_memory=settings.track_memory),
            self._pixels,  # type: ignore[arg-type]  # nothing else is asked of it
            cache_bytes=1 << 20,
            metrics=Metrics(),
            speck_share=share,
        )

    def close(self) -> None:
        self._engine.close()

    def track(self, clip: ComposedClip, *, box: bool) -> Tracked:
        """Track all objects of a clip in one job."""
        self._pixels.clip = clip
        with tempfile.TemporaryDirectory() as folder:
            store = TrackStore(Path(folder) / "tracks.sqlite3")
            runner = JobRunner(
                store, self._engine, lambda request: _work(clip, box), hand_over=lambda job: None
            )
            job = runner.wait(runner.submit("track", {"kind": "composed"}).id, _PATIENCE)
            if job.state is not JobState.DONE:
                raise SystemExit(f"{clip.name}: {job.state} {job.message}")
            masks, sightings = store.masks("track"), store.sightings("track")
            runner.close()
            store.close()
        bad = {name: [False] * len(clip.frames) for name in clip.masks}
        for each in masks:
            truth = clip.masks[each.object_id][each.frame]
            bad[each.object_id][each.frame] = is_bad(each.mask.unpack(), truth)
        present = {name: clip.present(name).tolist() for name in clip.masks}
        return Tracked(clip.family, clip.split, sightings, bad, present)


def _work(clip: ComposedClip, box: bool) -> Work:
    asked = {"first": 0, "last": len(clip.frames) - 1, "direction": "forward"}

    def prompt(mask: Mask) -> PixelPrompt:
        return PixelPrompt(box=_box(mask)) if box else PixelPrompt(mask=mask)

    goals = [plan_goal(name, {0: prompt(masks[0])}, asked) for name, masks in clip.masks.items()]
    return Work(Pages((Picture("composed", None),) * len(clip.frames)), goals, 1)


def _box(mask: Mask) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def tracked_clips(split: str, count: int, box: bool, folder: Path | None) -> Iterator[Tracked]:
    """The clips of a split, tracked; what lies in ``folder`` is not tracked again."""
    with closing(Tracker()) as tracker:
        for clip in clips(split, count):
            name = f"{VERSION}-{clip.name}-{'box' if box else 'mask'}.json"
            file = None if folder is None else folder / name
            if file is not None and file.is_file():
                yield _read(file)
                continue
            found = tracker.track(clip, box=box)
            if file is not None:
                content = asdict(found)
                content["sightings"] = [each._asdict() for each in found.sightings]
                file.write_text(json.dumps(content), encoding="utf-8")
            yield found


def _read(file: Path) -> Tracked:
    content = json.loads(file.read_text(encoding="utf-8"))
    sightings = [
        Sighting(**{**each, "box": _pair(each["box"]), "centroid": _pair(each["centroid"])})
        for each in content.pop("sightings")
    ]
    return Tracked(sightings=sightings, **content)


def _pair(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


@dataclass(frozen=True)
class Judged:
    """The masks of a clip beside the truth.

    Attributes:
        bad, weights, marked: by object, of each frame: whether its mask is bad, how much it
            deserves a look, and whether it is to be looked at.
        signs: ``[frames, signs]``, see :func:`signs_of`.
    """

    family: str
    bad: NDArray[np.bool_]
    weights: NDArray[np.float64]
    marked: NDArray[np.bool_]
    signs: NDArray[np.float64]


def judge(tracked: Tracked) -> list[Judged]:
    """The objects of a clip."""
    found = []
    weighed = weighed_frames(tracked.sightings)
    weight_at = {(each.object_id, each.frame): each.weight for each in weighed}
    marks = {(each.object_id, each.frame) for each in doubts(tracked.sightings)}
    for name, bad in tracked.bad.items():
        places = [(name, frame) for frame in range(len(bad))]
        weights = np.array([weight_at.get(place, 0.0) for place in places])
        marked = np.array([place in marks for place in places])
        seen = [each for each in tracked.sightings if each.object_id == name]
        signs = np.zeros((len(bad), 2 * _SIGNS))
        signs[[each.frame for each in seen]] = signs_of(seen)
        found.append(Judged(tracked.family, np.array(bad), weights, marked, signs))
    return found


def signs_of(track: Sequence[Sighting]) -> NDArray[np.float64]:
    """What is known of each frame of an object, the larger the worse: ``_SIGNS`` values now, and
    the largest of each since the mark."""
    marked = max(1, next((each.area for each in track if each.area), 1))
    before, rows = track[0], []
    for each in track:
        moved = 0.0 if each.centroid is None or before.centroid is None else _apart(each, before)
        size = abs(math.log(each.area / marked)) if each.area else 0.0
        doubted = 1 - each.iou if each.area else 0.0
        rows.append([doubted, -each.presence / 10, size, moved, each.area == 0, each.elsewhere])
        before = each if each.area else before
    now = np.array(rows, dtype=np.float64)
    return np.concatenate([now, np.maximum.accumulate(now)], axis=1)


def _apart(one: Sighting, other: Sighting) -> float:
    """The distance of two centroids, in sides of a square as large as the other mask."""
    assert one.centroid is not None and other.centroid is not None
    return math.dist(one.centroid, other.centroid) / math.sqrt(max(1, other.area))


def fitted(judged: Sequence[Judged]) -> list[Judged]:
    """The same with the weights of a logistic regression of what is bad on the signs: no rule for
    use, for it has seen the answers."""
    signs = np.concatenate([each.signs for each in judged])
    bad = np.concatenate([each.bad for each in judged]).astype(np.float64)
    scale = signs.std(axis=0) + 1e-9
    columns = np.concatenate([signs / scale, np.ones((len(signs), 1))], axis=1)
    ridge = np.append(np.ones(signs.shape[1]), 0.0)
    weights = np.zeros(columns.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(columns @ weights, -30, 30)))
        slope = columns.T @ (chance - bad) + ridge * weights
        bend = (columns * (chance * (1 - chance))[:, None]).T @ columns + np.diag(ridge + 1e-9)
        weights -= np.linalg.solve(bend, slope)
    ends = np.cumsum([len(each.bad) for each in judged])[:-1]
    parts = np.split(columns @ weights, ends)
    return [replace(each, weights=part) for each, part in zip(judged, parts, strict=True)]


def row(name: str, judged: Sequence[Judged]) -> list[str]:
    """What the rule finds of some objects."""
    bad = np.concatenate([each.bad for each in judged])
    marked = np.concatenate([each.marked for each in judged])
    both = int(np.count_nonzero(bad & marked))
    runs = [found for each in judged for found in _bad_stretches(each)]
    return [
        name,
        str(len(bad)),
        f"{bad.mean():.1%}",
        f"{marked.mean():.1%}",
        f"{both / max(1, int(bad.sum())):.2f}",
        f"{both / max(1, int(marked.sum())):.2f}",
        f"{sum(runs)} of {len(runs)}",
    ]


def _bad_stretches(judged: Judged) -> Iterator[bool]:
    """Of each stretch of bad frames, whether one of them is to be looked at."""
    edges = np.flatnonzero(np.diff(np.pad(judged.bad.astype(int), 1)))
    for start, stop in edges.reshape(-1, 2):
        if stop - start >= _FRAMES:
            yield bool(judged.marked[start:stop].any())


def cut_row(name: str, tracked: Sequence[Tracked]) -> list[str]:
    """What becomes of the masks that the model gives in other scenes."""
    abroad = list(_abroad(tracked))
    there = np.array([each.present[one.object_id][one.frame] for each, one in abroad], bool)
    kept = np.array([one.area > 0 for _, one in abroad], bool)
    bad = np.array([each.bad[one.object_id][one.frame] for each, one in abroad], bool)
    counts = (~there, there, ~there & kept, there & kept, there & kept & bad)
    return [name, *(str(np.count_nonzero(each)) for each in counts)]


def _abroad(tracked: Sequence[Tracked]) -> Iterator[tuple[Tracked, Sighting]]:
    for each in tracked:
        for one in each.sightings:
            if one.elsewhere and one.presence > 0:
                yield each, one


def curve(name: str, judged: Sequence[Judged]) -> list[str]:
    """The recall where a share of all masks is looked at: those with the largest weights."""
    return [name, *(f"{each:.2f}" for each in recalls(judged))]


def share_reached(name: str, judged: Sequence[Judged]) -> list[str]:
    """That recall as a share of what is possible."""
    found = zip(recalls(judged), possible_recalls(judged), strict=True)
    return [name, *(f"{recall / most:.0%}" for recall, most in found)]


def curves_of(name: str, judged: Sequence[Judged]) -> list[list[str]]:
    """The rows of some objects in the table of curves."""
    return [
        curve(name, judged),
        [f"{name}: not to be exceeded", *(f"{most:.2f}" for most in possible_recalls(judged))],
        share_reached(f"{name}: share of that", judged),
        curve(f"{name}: fitted to the answers", fitted(judged)),
    ]


def possible_recalls(judged: Sequence[Judged]) -> list[float]:
    """What no rule exceeds: all that is looked at is bad, or all bad ones are looked at."""
    bad = np.concatenate([each.bad for each in judged]).mean()
    return [min(1.0, float(share / bad)) for share in SHARES]


def recalls(judged: Sequence[Judged]) -> list[float]:
    """The recall at each of ``SHARES``."""
    bad = np.concatenate([each.bad for each in judged])
    weights = np.concatenate([each.weights for each in judged])
    order = np.argsort(-weights, kind="stable")
    recall = np.cumsum(bad[order]) / max(1, np.count_nonzero(bad))
    return [float(recall[int(share * len(bad)) - 1]) for share in SHARES]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=2, help="of each family")
    parser.add_argument("--box", action="store_true", help="marked by a box, not by a true mask")
    parser.add_argument("--tracked", type=Path, help="folder that keeps what was tracked")
    parser.add_argument("--out", type=Path, help="document with the sections to replace")
    arguments = parser.parse_args()
    rows, curves, cut = [], [], []
    for split in (TUNING, HELD_OUT):
        found = list(tracked_clips(split, arguments.clips, arguments.box, arguments.tracked))
        for family in dict.fromkeys(each.family for each in found):
            of_family = [each for each in found if each.family == family]
            if any(_abroad(of_family)):
                cut.append(cut_row(f"{split}: {family}", of_family))
        judged = [each for tracked in found for each in judge(tracked)]
        for family in dict.fromkeys(each.family for each in judged):
            rows.append(row(f"{split}: {family}", [one for one in judged if one.family == family]))
        rows.append(row(f"{split}: all", judged))
        curves += curves_of(split, judged)
        outside = [each for each in judged if each.family != "crowd"]
        if len(outside) < len(judged):
            curves += curves_of(f"{split} but the crowd", outside)
    kind = "box" if arguments.box else "mask"
    write_section(arguments.out, f"marked by {kind}", table(_HEAD, rows).splitlines())
    head = ("share looked at", *(f"{share:.0%}" for share in SHARES))
    write_section(arguments.out, f"curve of {kind}", table(head, curves).splitlines())
    write_section(arguments.out, f"other scenes by {kind}", table(_CUT_HEAD, cut).splitlines())


if __name__ == "__main__":
    main()
