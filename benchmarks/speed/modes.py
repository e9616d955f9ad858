"""What the modes that trade quality for speed cost and bring.

    python -m benchmarks.speed.modes [--clips 12] [--images 40] [--out docs/measurements/modes.md]
    python -m benchmarks.speed.modes --part large [--out docs/measurements/modes.md]
    python -m benchmarks.speed.modes --part dtypes [--out docs/measurements/modes.md]

The part "small" tracks the demo's sample clip and held-out composed clips (of demo_weights, 32
frames) with the demo weights, from the true box on the first frame. J is the mean IoU with the
truth of all later frames, 1 where object and answer are both absent; "least" is the clip that lost
most against the first row. Its stills are held-out composites: IoU after the true box, and after a
click in the object's middle. The part "large" tracks one object with random weights at 1024 pixels:
what counts there is time, "differing" are the mask pixels that are not those of the first row. Time
is of the whole clip, decoding not included, by the number of its frames; modes take turns. The part
"dtypes" compares the masks of bfloat16 with those of float32, on the pictures of the part "small".
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from backend.engine.engine import Frames, TrackedObject, Tracker
from backend.engine.interpolation import StridedTracker, tracked_frames
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.queued_tracker import QueuedTracker
from benchmarks.quality.demo_photos import iou
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.pairing import load, machine
from benchmarks.support.reference import draw_weights
from benchmarks.support.report import write_section
from benchmarks.support.table import table
from demo.clip import sample_clip
from sam2model import ImagePredictor, VideoTracker, build_model
from sam2model.sam2 import NUM_MASK_MEMORIES, SAM2
from sam2model.variants import VARIANTS
from training.demo_weights.clips import compose_clip
from training.demo_weights.composites import compose
from training.demo_weights.library import DEFAULT_DIRECTORY, Library
from training.demo_weights.sprites import PLAIN

T = TypeVar("T")
Masks = NDArray[np.bool_]

_SEED = 7
_LENGTH = 32
_LARGE = "sam2.1_hiera_tiny"
_LARGE_FRAMES = 12
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Every object is present: absent ones all have the same mask.
_PRESENT = 1000.0


@dataclass(frozen=True)
class Mode:
    """One way to run; ``part_of_size`` is of the variant's own image size."""

    name: str
    dtype: str = "bfloat16"
    part_of_size: float = 1.0
    memories: int = NUM_MASK_MEMORIES
    stride: int = 1


MODES = (
    Mode("float32", dtype="float32"),
    Mode("bfloat16, as `auto` on this CPU"),
    Mode("half the image size", part_of_size=0.5),
    Mode("3 memories", memories=3),
    Mode("1 memory", memories=1),
    Mode("stride 2", stride=2),
    Mode("stride 3", stride=3),
    Mode("stride 5", stride=5),
    Mode("half the size, 3 memories, stride 3", part_of_size=0.5, memories=3, stride=3),
)


@dataclass(frozen=True)
class Clip:
    """Frames with the truth: by object, bool ``[T, H, W]``."""

    frames: Sequence[NDArray[np.uint8]]
    truth: Mapping[str, Masks]


class OwnSize:
    """The frames of a clip as ``StridedTracker`` takes them."""

    def __init__(self, frames: Sequence[NDArray[np.uint8]]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self._frames[index]

    def frame_size(self, index: int) -> tuple[int, int]:
        height, width = self._frames[index].shape[:2]
        return width, height

    def close(self) -> None:
        """There is nothing to free."""


@dataclass
class Tally:
    """What a mode took and got: seconds over all frames, J by clip, IoU of stills."""

    wall: float = 0.0
    cpu: float = 0.0
    frames: int = 0
    scores: list[float] = dataclasses.field(default_factory=list)
    boxes: list[float] = dataclasses.field(default_factory=list)
    clicks: list[float] = dataclasses.field(default_factory=list)

    def timed(self, call: Callable[[], T], frames: int) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.frames += frames
        return result

    def times(self, first: Tally) -> list[str]:
        """Cells: milliseconds a frame by the clock and of CPU, and times less than the first."""
        return [
            f"{self.wall / self.frames * 1000:.0f}",
            f"{self.cpu / self.frames * 1000:.0f}",
            f"{first.cpu / first.frames / (self.cpu / self.frames):.2f}",
        ]


def small_model(mode: Mode) -> SAM2:
    size = int(VARIANTS["demo"].image_size * mode.part_of_size)
    return build_model(
        "demo",
        device="cpu",
        dtype=mode.dtype,
        image_size=size,
        num_mask_memories=mode.memories,
    )


def large_model(mode: Mode) -> SAM2:
    variant = VARIANTS[_LARGE]
    model = SAM2(variant, int(variant.image_size * mode.part_of_size)).eval()
    model.load_state_dict(draw_weights(model.state_dict(), seed=0))
    head: torch.nn.Linear = model.sam_mask_decoder.pred_obj_score_head.layers[-1]  # type: ignore[assignment]
    with torch.no_grad():
        head.bias.add_(_PRESENT)
    model.compute_dtype = _DTYPES[mode.dtype]
    model.num_mask_memories = mode.memories
    return model


def track(model: SAM2, mode: Mode, clip: Clip) -> list[list[TrackedObject]]:
    """All frames of a clip from the true boxes on the first, as a job of the service does it."""

    def run(call: Callable[[], T], stopped: Callable[[], bool] = lambda: False) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(call())
        return done

    def open_tracker(frames: Frames) -> Tracker:
        return QueuedTracker(lambda given: VideoTracker(model, given), frames, run)

    count = len(clip.frames)
    chosen = tracked_frames(range(count), {0}, mode.stride)
    frames: Any = OwnSize(clip.frames)
    with closing(StridedTracker(open_tracker, frames, chosen)) as tracker:
        for name, truth in clip.truth.items():
            box = bounds(truth[0])
            tracker.prompt(0, name, PixelPrompt(box=box))
        return [objects for _, objects in tracker.step(0, count, reverse=False)]


def bounds(mask: Masks) -> NDArray[np.float32]:
    """The box around a mask: float32 ``[4]``."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)


def middle(mask: Masks) -> list[float]:
    """The pixel furthest from the outline: x, y."""
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return [float(x), float(y)]


def clips(count: int, library: Library) -> Iterator[Clip]:
    """The demo's own clip, then composed ones, every second with something that passes by."""
    sample = sample_clip()
    yield Clip(sample.frames, sample.masks)
    for number in range(count):
        rng = np.random.default_rng([_SEED, number])
        made = compose_clip(256, _LENGTH, library, rng, number % 2 == 1, PLAIN)
        yield Clip(list(made.frames), {str(i): mask for i, mask in enumerate(made.masks[:4])})


def score(clip: Clip, found: Sequence[Sequence[TrackedObject]]) -> float:
    """J of the frames after the first."""
    return float(
        np.mean(
            [
                iou(each.mask.unpack(), clip.truth[each.object_id][frame])
                for frame, objects in enumerate(found)
                for each in objects
                if frame > 0
            ]
        )
    )


def small_clips(library: Library, count: int) -> list[str]:
    models = {mode: small_model(mode) for mode in MODES}
    tallies = {mode: Tally() for mode in MODES}
    for clip in clips(count, library):
        for mode, model in models.items():
            if not tallies[mode].frames:
                track(model, mode, Clip(clip.frames[:4], clip.truth))  # warms up
            found = tallies[mode].timed(partial(track, model, mode, clip), len(clip.frames))
            tallies[mode].scores.append(score(clip, found))
    first = tallies[MODES[0]]
    head = ["mode", "ms a frame", "CPU ms", "times less CPU", "J", "J, sample clip", "least"]
    rows = [
        [
            mode.name,
            *tally.times(first),
            f"{np.mean(tally.scores):.3f}",
            f"{tally.scores[0]:.3f}",
            f"{min(a - b for a, b in zip(tally.scores, first.scores, strict=True)):+.3f}",
        ]
        for mode, tally in tallies.items()
    ]
    said = f"{count + 1} clips, {first.frames} frames, demo weights (256 pixels). "
    return [said + described(), "", table(head, rows)]


def small_images(library: Library, count: int) -> list[str]:
    modes = MODES[:3]
    predictors = {mode: ImagePredictor(small_model(mode)) for mode in modes}
    tallies = {mode: Tally() for mode in modes}
    for number in range(count):
        picture = compose(256, library, np.random.default_rng([_SEED, number, 1]), PLAIN)
        for mode, predictor in predictors.items():
            tally = tallies[mode]
            embedding = tally.timed(partial(predictor.embed, picture.image), 1)
            for truth in picture.masks[:4]:
                boxed = predictor.predict(embedding, box=bounds(truth))
                clicked = predictor.predict(embedding, points=[middle(truth)])
                tally.boxes.append(iou(boxed.masks[0], truth))
                tally.clicks.append(iou(clicked.masks[0], truth))
    first = tallies[modes[0]]
    head = ["mode", "ms an image", "CPU ms", "times less CPU", "IoU, box", "IoU, click"]
    rows = [
        [
            mode.name,
            *tally.times(first),
            f"{np.mean(tally.boxes):.3f}",
            f"{np.mean(tally.clicks):.3f}",
        ]
        for mode, tally in tallies.items()
    ]
    said = f"{count} pictures, {len(first.boxes)} objects, demo weights (256 pixels). "
    return [said + described(), "", table(head, rows)]


def large_clips() -> list[str]:
    discs = MovingDiscs(_LARGE_FRAMES, 1024)
    frames = [discs[index] for index in range(_LARGE_FRAMES)]
    box = np.zeros((_LARGE_FRAMES, 1024, 1024), dtype=bool)
    box[:, 200:420, 280:540] = True
    clip = Clip(frames, {"disc": box})
    rows, first, whole = [], Tally(), None
    for mode in MODES:
        model, tally = large_model(mode), Tally()
        track(model, mode, Clip(frames[:2], clip.truth))  # warms up
        found = tally.timed(partial(track, model, mode, clip), _LARGE_FRAMES)
        masks = np.stack([objects[0].mask.unpack() for objects in found])
        if whole is None:
            first, whole = tally, masks
        rows.append([mode.name, *tally.times(first), f"{(masks != whole).mean():.1e}", load()])
        print(*rows[-1], flush=True)
    head = ["mode", "ms a frame", "CPU ms", "times less CPU", "differing", "load"]
    said = f"{_LARGE}, random weights, 1024 pixels, one object, {_LARGE_FRAMES} frames. "
    return [said + described(), "", table(head, rows)]


def dtypes(library: Library, num_clips: int, num_images: int) -> list[str]:
    exact, fast = MODES[:2]
    models = {mode: small_model(mode) for mode in (exact, fast)}
    agreement: dict[str, list[float]] = {"tracked": [], "box": [], "click": []}
    for clip in clips(num_clips, library):
        found = {mode: track(model, mode, clip) for mode, model in models.items()}
        agreement["tracked"] += [
            iou(a.mask.unpack(), b.mask.unpack())
            for frames in zip(found[exact], found[fast], strict=True)
            for a, b in zip(*frames, strict=True)
        ]
    predictors = {mode: ImagePredictor(model) for mode, model in models.items()}
    for number in range(num_images):
        picture = compose(256, library, np.random.default_rng([_SEED, number, 1]), PLAIN)
        embedded = {mode: each.embed(picture.image) for mode, each in predictors.items()}
        for truth in picture.masks[:4]:
            for name, prompt in (("box", bounds(truth)), ("click", [middle(truth)])):
                asked = {"box": prompt} if name == "box" else {"points": prompt}
                masks = [
                    each.predict(embedded[mode], **asked).masks[0]  # type: ignore[arg-type]
                    for mode, each in predictors.items()
                ]
                agreement[name].append(iou(*masks))
    head = ["masks", "number", "mean IoU", "median", "above 0.95", "least"]
    rows = [
        [
            *(name, len(found), f"{np.mean(found):.4f}", f"{np.median(found):.4f}"),
            *(f"{np.mean(np.array(found) > 0.95):.1%}", f"{min(found):.2f}"),
        ]
        for name, found in agreement.items()
    ]
    return [table(head, rows)]


def described() -> str:
    return f"{machine()}; load {load()} at the end."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["small", "large", "dtypes", "all"], default="all")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    part, out = arguments.part, arguments.out
    if part in ("small", "all"):
        library = Library(arguments.data, "held-out")
        write_section(out, "clips", small_clips(library, arguments.clips))
        write_section(out, "images", small_images(library, arguments.images))
    if part in ("dtypes", "all"):
        library = Library(arguments.data, "held-out")
        write_section(out, "dtypes", dtypes(library, arguments.clips, arguments.images))
    if part in ("large", "all"):
        write_section(out, "large", large_clips())


if __name__ == "__main__":
    main()
