"""Score weights on held-out composites and clips.

    python -m training.demo_weights.evaluate --weights FILE [--set plain] [--json OUT]

The pictures are composed from families that training never sees, always the same ones.
Images: IoU after one click in the object's middle, for its box, and after one and three
corrective clicks (each at the middle of the largest error). Clips of 16 frames: mean J
(IoU; 1 where object and answer are both absent) of the frames after the box on frame 0.

``--set hard`` (parts, camouflage, rows, tiny objects: what training sees) or ``plain``
(separate objects of fair size).
"""

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import torch
from torch import Tensor

from sam2model.build import build_model
from sam2model.sam2 import SAM2
from training import prompts
from training.demo_weights.batches import to_tensor
from training.demo_weights.clips import compose_clip
from training.demo_weights.composites import compose
from training.demo_weights.library import DEFAULT_DIRECTORY, Library
from training.demo_weights.sprites import HARD, PLAIN, Recipe
from training.losses import mask_iou
from training.unroll import Answer, MemoryBank, decode

_log = logging.getLogger(__name__)

_SEED = 20_261_122
_MAX_OBJECTS = 4
_SETS: Mapping[str, Recipe] = MappingProxyType({"hard": HARD, "plain": PLAIN})
CLIP_LENGTH = 16

# Sums and counts by name: they add up over processes.
Sums = dict[str, list[float]]


def evaluate(
    model: SAM2,
    library: Library,
    images: range,
    clips: range,
    size: int | None = None,
    recipe: Recipe = HARD,
) -> Sums:
    """Score a model on the held-out pictures of these numbers.

    Args:
        model: in evaluation mode; images are composed at its size.
        library: of the "held-out" split.
        images: numbers of composites.
        clips: numbers of clips; even ones without, odd ones with an occluder.
        size: side at which the pictures are composed and scored, if not the model's.
        recipe: how hard the pictures are.

    Returns:
        Per measure: [sum, count]; see :func:`summary`.
    """
    sums: Sums = defaultdict(lambda: [0.0, 0.0])
    with torch.inference_mode():
        for number in images:
            for name, values in _score_image(model, library, number, size, recipe):
                _add(sums, name, values)
        for number in clips:
            for name, values in _score_clip(model, library, number, size, recipe):
                _add(sums, name, values)
    return sums


def summary(sums: Sums) -> dict[str, float]:
    """Means by name, and the balanced accuracy of the presence score."""
    means = {name: total / count for name, (total, count) in sums.items() if count}
    if "presence_hit" in means and "absence_hit" in means:
        means["presence_balanced"] = (means["presence_hit"] + means["absence_hit"]) / 2
    return means


def score(means: dict[str, float]) -> float:
    """One number to compare checkpoints by: images count twice as much as clips."""
    images = [means[key] for key in ("iou_click", "iou_box", "iou_3_corrections")]
    if "j_plain" not in means:
        return float(np.mean(images))
    clips = [means["j_plain"], means["j_occluder"]]
    return float((2 * np.mean(images) + np.mean(clips)) / 3)


def _score_image(
    model: SAM2, library: Library, number: int, size: int | None, recipe: Recipe
) -> Iterator[tuple[str, list[float]]]:
    rng = np.random.default_rng([_SEED, number])
    size = size or model.image_size
    composite = compose(size, library, rng, recipe)
    truth = composite.masks[rng.permutation(len(composite.masks))[:_MAX_OBJECTS]]
    scaled = np.stack([_resized(mask, model.image_size) for mask in truth])
    features = model.encode_image(to_tensor(_resized(composite.image, model.image_size)[None]))
    conditioned = model.without_memory(features.embedding).expand(len(truth), -1, -1, -1)
    scaled[~scaled.any(axis=(1, 2)), 0, 0] = True  # nothing left of it at the model's size

    points = prompts.clicks(scaled, None)
    answer = decode(model, conditioned, features.high_res, points)
    masks = _masks(answer.logits, size)
    yield "iou_click", _ious(masks, truth)
    candidates = [_masks(answer.candidates[:, i : i + 1], size) for i in range(3)]
    yield "iou_click_oracle", np.max([_ious(c, truth) for c in candidates], axis=0).tolist()
    yield "speckle_click", speckle(_inside(answer.logits))
    yield "speckle_truth", speckle([_resized(m, answer.logits.shape[-1]) for m in truth])
    yield "components_click", [float(_components(mask)) for mask in masks]
    yield "components_truth", [float(_components(mask)) for mask in truth]
    for correction in range(1, 4):
        wrong = _masks(answer.logits, model.image_size)
        points = points.add(prompts.corrections(wrong, scaled, None))
        previous = answer.logits.clamp(-32, 32)
        answer = decode(model, conditioned, features.high_res, points, previous)
        if correction in (1, 3):
            plural = "s" if correction > 1 else ""
            yield f"iou_{correction}_correction{plural}", _ious(_masks(answer.logits, size), truth)

    answer = decode(model, conditioned, features.high_res, prompts.boxes(scaled, None))
    masks = _masks(answer.logits, size)
    yield "iou_box", _ious(masks, truth)
    yield "speckle_box", speckle(_inside(answer.logits))
    yield "components_box", [float(_components(mask)) for mask in masks]


def _score_clip(
    model: SAM2, library: Library, number: int, size: int | None, recipe: Recipe
) -> Iterator[tuple[str, list[float]]]:
    rng = np.random.default_rng([_SEED, number, 1])
    occluder = number % 2 == 1
    size = size or model.image_size
    clip = compose_clip(size, CLIP_LENGTH, library, rng, occluder, recipe)
    name = "j_occluder" if occluder else "j_plain"
    truth = clip.masks[:_MAX_OBJECTS]
    held_still = truth[:, 0]
    for t, answer in enumerate(track(model, clip.frames, truth[:, 0])):
        if t > 0:
            yield from _score_frame(name, answer, truth[:, t], size)
            yield "j_held_still", _ious(held_still, truth[:, t])


def track(model: SAM2, frames: np.ndarray, first: np.ndarray) -> Iterator[Answer]:
    """The answers of all frames of a clip, prompted with boxes on frame 0.

    Args:
        model: in evaluation mode.
        frames: uint8 RGB ``[T, S, S, 3]``.
        first: bool ``[O, S, S]``, the objects on frame 0.
    """
    first = np.stack([_resized(mask, model.image_size) for mask in first])
    bank = MemoryBank(len(frames))
    for t, frame in enumerate(frames):
        features = model.encode_image(to_tensor(_resized(frame, model.image_size)[None]))
        conditioned = bank.condition(model, features.embedding, t)
        points = None
        if t == 0:
            conditioned = conditioned.expand(len(first), -1, -1, -1)
            points = prompts.boxes(first, None)
        answer = decode(model, conditioned, features.high_res, points)
        yield answer
        bank.remember(model, features.embedding, answer, t, prompted=t == 0)


def _score_frame(
    name: str, answer: Answer, truth: np.ndarray, size: int
) -> Iterator[tuple[str, list[float]]]:
    visible = np.asarray(truth.any(axis=(1, 2)))
    ious = np.array(_ious(_masks(answer.masked_logits, size), truth))
    yield name, ious.tolist()
    yield name + "_visible", ious[visible].tolist()
    present = (answer.object_score_logits[:, 0] > 0).numpy()
    yield "presence_hit", present[visible].astype(float).tolist()
    yield "absence_hit", (~present[~visible]).astype(float).tolist()


def _masks(logits: Tensor, size: int) -> np.ndarray:
    """Logits ``[B, 1, h, w]`` to bool masks ``[B, size, size]``."""
    large = torch.nn.functional.interpolate(
        logits.float(), size=(size, size), mode="bilinear", align_corners=False
    )
    return (large[:, 0] > 0).numpy()


def _ious(masks: np.ndarray, truth: np.ndarray) -> list[float]:
    return mask_iou(torch.from_numpy(masks), torch.from_numpy(np.ascontiguousarray(truth))).tolist()


def _inside(logits: Tensor) -> np.ndarray:
    """Logits ``[B, 1, h, w]`` to bool masks of the same size, ``[B, h, w]``."""
    return (logits[:, 0] > 0).numpy()


def speckle(masks: Iterable[np.ndarray]) -> list[float]:
    """Share of a mask at the decoder's own resolution that a 3 x 3 median would flip.

    Isolated points and a printed grid count in full, smooth outlines hardly, thin parts again: what
    the truth has of it is no fault.
    """
    flipped = []
    for mask in masks:
        if mask.any():
            smooth = np.asarray(cv2.medianBlur(mask.astype(np.uint8), 3))
            flipped.append(float((smooth != mask).sum() / mask.sum()))
    return flipped


def _components(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[0] == size:
        return image
    if image.dtype == bool:
        area = cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        return area > 0.5
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def _add(sums: Sums, name: str, values: list[float]) -> None:
    sums[name][0] += float(np.sum(values))
    sums[name][1] += len(values)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--variant", default="demo")
    parser.add_argument("--image-size", type=int, help="of the model, if not the variant's")
    parser.add_argument("--size", type=int, help="of the pictures, if not the model's")
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument("--set", choices=_SETS, default="hard")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cv2.setNumThreads(1)
    model = build_model(
        options.variant,
        options.weights,
        device="cpu",
        dtype="float32",
        image_size=options.image_size,
    )
    library = Library(options.data, "held-out")
    sums = evaluate(
        model,
        library,
        range(options.images),
        range(options.clips),
        options.size,
        _SETS[options.set],
    )
    means = summary(sums)
    for name, mean in means.items():
        _log.info("%-20s %.3f  (%d)", name, mean, sums.get(name, [0, 0])[1])
    if "iou_click" in means:
        _log.info("%-20s %.3f", "score", score(means))
    if options.json:
        options.json.write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
