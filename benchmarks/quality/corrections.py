"""What a correction on a tracked frame gains from the track's memory.

    python -m benchmarks.quality.corrections [--composed 10] [--clips 60 --data FOLDER] [--out FILE]

Objects of the demo's clip and of held-out composed clips are tracked from a box on the first frame:
of each family of ``benchmarks.support.composed_clips``, which anyone can compose, 16 frames evenly
over a clip, and of ``training.demo_weights.clips`` where the training
pictures are there. The frame that is most wrong is corrected by one to three clicks, each in the
middle of the largest error: with the memory of the track and the mask that it left there, with that
mask alone, and with the mask deleted, from nothing but the clicks, the first of which is in the
middle of the object. Then the object is tracked on from the corrected frame.
Printed are mean IoUs of the corrected frame after each click, and of all frames behind it; frames
where the mask is partly right are told from those where the object is lost. Then, with the standard
error, what each click gains over the one before, and what the memory does over the mask alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.segmenting import segment_batch
from backend.settings import Settings
from backend.tracking.corrections import NEIGHBOURS
from benchmarks.quality.demo_photos import iou
from benchmarks.support.composed_clips import HELD_OUT
from benchmarks.support.composed_clips import clips as composed_clips
from benchmarks.support.report import write_section
from benchmarks.support.table import table
from demo.clip import sample_clip
from sam2model import (
    ImageEmbedding,
    ImagePredictor,
    KnownMask,
    ObjectMemory,
    VideoTracker,
    build_model,
)
from training.demo_weights.clips import compose_clip
from training.demo_weights.library import DEFAULT_DIRECTORY, Library
from training.demo_weights.sprites import PLAIN
from training.prompts import central_point

Mask = NDArray[np.bool_]

CLICKS = 3
WRONG = 0.75  # IoU below which a frame is worth a correction
LOST = 0.4  # IoU below which it is another thing
_SEED = 20_261_122
_SIDE = 320
_LENGTH = 16
_SMALLEST = 0.002  # of the frame: what an annotator would correct
_SERVICE, _ALONE = "mask and memory", "mask alone"
_SPECKS = Settings().speck_percent / 100
_GAINS = ("frames", "gain", "1 click", "2", "3")
_HEAD = (
    "frames",
    "number",
    "way",
    "tracked",
    "1 click",
    "2",
    "3",
    "behind it, before",
    "tracked on",
)


@dataclass(frozen=True)
class Wrong:
    """An object of a clip on the frame where its track is most wrong.

    Attributes:
        frames: uint8 RGB ``[H, W, 3]`` each.
        truth: bool ``[T, H, W]``.
        tracked: the same, as it was tracked from a box on frame 0.
        frame: the one to correct.
    """

    frames: Sequence[NDArray[np.uint8]]
    truth: NDArray[np.bool_]
    tracked: Sequence[Mask]
    frame: int

    @property
    def behind(self) -> range:
        """The frames that follow."""
        return range(self.frame + 1, len(self.frames))


def track(
    predictor: ImagePredictor, frames: Sequence[NDArray[np.uint8]], marks: dict[int, Mask]
) -> list[Mask]:
    """An object's masks on all frames from the first marked one."""
    tracker = VideoTracker(predictor.model, frames)
    for frame, mask in marks.items():
        tracker.prompt(frame, "object", mask=mask)
    return [found.masks[0] for found in tracker.propagate()]


def wrong_frames(
    predictor: ImagePredictor, frames: Sequence[NDArray[np.uint8]], objects: NDArray[np.bool_]
) -> Iterator[Wrong]:
    """The most wrong frame of each object that has one.

    Args:
        objects: bool ``[O, T, H, W]``.
    """
    embedding = predictor.embed(frames[0])
    for truth in objects:
        rows, columns = np.nonzero(truth[0])
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        first = predictor.predict(embedding, box=box).masks[0]
        tracked = track(predictor, frames, {0: first})
        visible = truth.mean(axis=(1, 2)) >= _SMALLEST
        # The last frame has none behind it; an empty mask is no region to correct.
        scores = [
            iou(mask, true) if seen and mask.any() else 1.0
            for mask, true, seen in zip(tracked[1:-1], truth[1:-1], visible[1:-1], strict=True)
        ]
        if min(scores) < WRONG:
            yield Wrong(frames, truth, tracked, 1 + int(np.argmin(scores)))


def memory_of(predictor: ImagePredictor, wrong: Wrong) -> ObjectMemory:
    """What the service makes a memory of: the marked frame, and the nearest ones passed."""

    def known(frame: int) -> KnownMask:
        features = predictor.embed(wrong.frames[frame]).features
        return KnownMask(features, wrong.tracked[frame], prompted=frame == 0)

    near = range(max(1, wrong.frame - NEIGHBOURS), wrong.frame)
    frames = {frame: known(frame) for frame in (0, *near)}
    return ObjectMemory(wrong.frame, len(wrong.frames), frames)


Start = Callable[[PixelPrompt, Mask, ObjectMemory], PixelPrompt]


def with_memory(clicks: PixelPrompt, shown: Mask, memory: ObjectMemory) -> PixelPrompt:
    return replace(clicks, mask=shown, memory=memory)


def with_mask(clicks: PixelPrompt, shown: Mask, memory: ObjectMemory) -> PixelPrompt:
    return replace(clicks, mask=shown)


def anew(clicks: PixelPrompt, shown: Mask, memory: ObjectMemory) -> PixelPrompt:
    return clicks


WAYS: dict[str, Start] = {
    _SERVICE: with_memory,
    _ALONE: with_mask,
    "deleted, clicked anew": anew,
}


def corrected(
    predictor: ImagePredictor,
    embedding: ImageEmbedding,
    wrong: Wrong,
    memory: ObjectMemory,
    start: Start,
) -> list[Mask]:
    """The mask after each click."""
    truth, shown = wrong.truth[wrong.frame], wrong.tracked[wrong.frame]
    points: list[tuple[float, float]] = []
    signs: list[bool] = []
    logits = None
    found = []
    for _ in range(CLICKS):
        # From nothing, the first click says what the object is.
        error = truth if start is anew and not points else shown != truth
        if error.any():
            x, y = central_point(error)
            points, signs = [*points, (x, y)], [*signs, bool(truth[int(y), int(x)])]
            clicks = PixelPrompt(np.array(points), np.array(signs), logits=logits)
            prompt = start(clicks, shown, memory)
            [segment] = segment_batch(predictor, embedding, [prompt], _SPECKS)
            shown, logits = segment.mask, segment.logits
        found.append(shown)
    return found


def score(predictor: ImagePredictor, wrong: Wrong, start: Start) -> list[float]:
    """IoU as tracked, after each click; of the frames behind, before and tracked on."""
    embedding, memory = predictor.embed(wrong.frames[wrong.frame]), memory_of(predictor, wrong)
    masks = corrected(predictor, embedding, wrong, memory, start)
    on_frame = [
        iou(mask, wrong.truth[wrong.frame]) for mask in (wrong.tracked[wrong.frame], *masks)
    ]
    marks = {0: wrong.tracked[0], wrong.frame: masks[-1]}
    again = track(predictor, wrong.frames, marks)
    behind = [
        float(np.mean([iou(masks[frame], wrong.truth[frame]) for frame in wrong.behind]))
        for masks in (wrong.tracked, again)
    ]
    return [*on_frame, *behind]


def clips(
    directory: Path, count: int, composed: int
) -> Iterator[tuple[Sequence[NDArray[np.uint8]], Mask]]:
    """Frames, and objects ``[O, T, H, W]``: the demo's clip, then held-out ones.

    Args:
        count: of the training's kind, from the pictures in ``directory``.
        composed: of each family that needs none.
    """
    sample = sample_clip()
    yield sample.frames, np.stack(list(sample.masks.values()))
    for each in composed_clips(HELD_OUT, composed):
        chosen = np.linspace(0, len(each.frames) - 1, _LENGTH).round().astype(int)
        objects = np.stack([masks[chosen] for masks in each.masks.values()])
        yield [each.frames[frame] for frame in chosen], objects
    if count:
        library = Library(directory, "held-out")
        for number in range(count):
            rng = np.random.default_rng([_SEED, number, 1])
            clip = compose_clip(_SIDE, _LENGTH, library, rng, number % 2 == 1, PLAIN)
            yield list(clip.frames), clip.masks[:2]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY, help="of the clips")
    parser.add_argument("--clips", type=int, default=0, help="held-out clips of these (0)")
    parser.add_argument("--composed", type=int, default=10, help="clips of each other family (10)")
    parser.add_argument("--out", type=Path, help="document with the section to replace")
    arguments = parser.parse_args()
    predictor = ImagePredictor(build_model("demo"))
    found: dict[tuple[str, str], list[list[float]]] = {}
    for frames, objects in clips(arguments.data, arguments.clips, arguments.composed):
        for wrong in wrong_frames(predictor, frames, objects):
            for way, start in WAYS.items():
                scores = score(predictor, wrong, start)
                kind = "partly right" if scores[0] >= LOST else "lost"
                found.setdefault((kind, way), []).append(scores)
    rows = [
        [kind, str(len(scores)), way, *(f"{mean:.3f}" for mean in np.mean(scores, axis=0))]
        for (kind, way), scores in sorted(found.items(), reverse=True)
    ]
    lines = [*table(_HEAD, rows).splitlines(), "", *table(_GAINS, list(gains(found))).splitlines()]
    write_section(arguments.out, "corrections", lines)


def gains(found: Mapping[tuple[str, str], list[list[float]]]) -> Iterator[list[str]]:
    """Rows: what each click gains, and what the memory does, on the same frames."""
    for kind in sorted({kind for kind, _ in found}, reverse=True):
        ours, alone = (np.array(found[kind, way])[:, : CLICKS + 1] for way in (_SERVICE, _ALONE))
        for what, gain in (
            ("a click, over the one before", np.diff(ours, axis=1)),
            ("memory, over the mask alone", (ours - alone)[:, 1:]),
        ):
            errors = gain.std(axis=0, ddof=1) / np.sqrt(len(gain))
            cells = zip(gain.mean(axis=0), errors, strict=True)
            yield [kind, what, *(f"{mean:+.3f} ± {error:.3f}" for mean, error in cells)]


if __name__ == "__main__":
    main()
