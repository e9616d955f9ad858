"""What heeding every click, and dropping far-off islands, does to the answers.

    python -m benchmarks.quality.clicks [--data DIRECTORY] [--images 60] [--out FILE]

A click in the middle of an object, then three corrections, each in the middle of the largest
error: IoU after each, as the model answers (without specks) and as the service does
(``backend/engine/segmenting.py``), and how many of the clicks on background the answers left
covered. The objects are those of the demo's photos and of held-out composites
(``training.demo_weights.evaluate``), of which those in several parts are counted apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.segmenting import Clicks, Segment, clean, segment_batch
from backend.settings import Settings
from benchmarks.quality.demo_photos import grid, iou, subjects
from benchmarks.support.report import write_section
from benchmarks.support.table import table
from sam2model import ImageEmbedding, ImagePredictor, build_model
from training.demo_weights.composites import compose
from training.demo_weights.library import DEFAULT_DIRECTORY, Library
from training.demo_weights.sprites import HARD, PLAIN
from training.prompts import central_point

Mask = NDArray[np.bool_]

CORRECTIONS = 3
_SEED = 20_261_122  # of the composites of training.demo_weights.evaluate
_MAX_OBJECTS = 4
_SIDE = 360
_PART = 0.05  # of an object, for a piece of it to be a part
_SPECKS = Settings().speck_percent / 100
_HEAD = ("objects", "number", "answers", "click", "1 correction", "2", "3", "background covered")


@dataclass
class Scores:
    """IoU after each click of the objects so far, and background clicks: all, and covered."""

    ious: list[list[float]] = field(default_factory=list)
    background: int = 0
    covered: int = 0

    def row(self, group: str, way: str) -> list[str]:
        means = np.mean(self.ious, axis=0)
        covered = f"{self.covered} of {self.background}"
        return [group, str(len(self.ious)), way, *(f"{mean:.3f}" for mean in means), covered]


def as_the_model_answers(
    predictor: ImagePredictor, image: ImageEmbedding, prompt: PixelPrompt
) -> Segment:
    """The best candidate, without specks."""
    found = predictor.predict(
        image,
        points=prompt.points,
        labels=prompt.positive.astype(np.int32),
        mask=prompt.logits,
        multimask=prompt.logits is None,
    )
    return Segment(clean(found.masks[0], _SPECKS), float(found.scores[0]), found.logits[0:1])


def as_the_service_does(
    predictor: ImagePredictor, image: ImageEmbedding, prompt: PixelPrompt
) -> Segment:
    """See ``segment_batch``."""
    [segment] = segment_batch(predictor, image, [prompt], _SPECKS)
    return segment


WAYS = {"of the model": as_the_model_answers, "of the service": as_the_service_does}


def correct(
    predictor: ImagePredictor,
    image: ImageEmbedding,
    truth: Mask,
    first: tuple[float, float],
    scores: dict[str, Scores],
) -> None:
    """Click on an object, correct the answer, in both ways."""
    for way, answer in WAYS.items():
        points, signs, logits, ious = [first], [True], None, []
        for _ in range(CORRECTIONS + 1):
            prompt = PixelPrompt(np.array(points), np.array(signs), logits=logits)
            segment = answer(predictor, image, prompt)
            logits = segment.logits
            ious.append(iou(segment.mask, truth))
            clicked = Clicks.of(prompt, *truth.shape)
            scores[way].background += int((~clicked.positive).sum())
            scores[way].covered += int(clicked.on(segment.mask)[~clicked.positive].sum())
            error = segment.mask != truth
            x, y = central_point(error) if error.any() else first
            points, signs = [*points, (x, y)], [*signs, bool(truth[int(y), int(x)])]
        scores[way].ious.append(ious)


def photo_rows(predictor: ImagePredictor) -> Iterator[list[str]]:
    """Clicks all over the objects of the demo's photos."""
    for subject in subjects():
        scores = {way: Scores() for way in WAYS}
        embedding = predictor.embed(subject.image)
        for x, y in grid(subject.mask):
            correct(predictor, embedding, subject.mask, (x, y), scores)
        yield from (found.row(subject.name, way) for way, found in scores.items())


def composite_rows(predictor: ImagePredictor, directory: Path, images: int) -> Iterator[list[str]]:
    """Objects of held-out composites, whole ones and those in parts."""
    library = Library(directory, "held-out")
    for name, recipe in (("plain", PLAIN), ("hard", HARD)):
        groups = {part: {way: Scores() for way in WAYS} for part in ("whole", "in parts")}
        for number in range(images):
            rng = np.random.default_rng([_SEED, number])
            composite = compose(_SIDE, library, rng, recipe)
            embedding = predictor.embed(composite.image)
            for index in rng.permutation(len(composite.masks))[:_MAX_OBJECTS]:
                truth = composite.masks[index]
                group = groups["in parts" if _is_in_parts(truth) else "whole"]
                correct(predictor, embedding, truth, central_point(truth), group)
        for part, scores in groups.items():
            yield from (found.row(f"{name}, {part}", way) for way, found in scores.items())


def _is_in_parts(mask: Mask) -> bool:
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8))
    areas = np.sort(np.bincount(pieces[mask]))
    return len(areas) > 2 and bool(areas[-2] >= _PART * mask.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY, help="of the composites")
    parser.add_argument("--images", type=int, default=60, help="composites of each set; 0: none")
    parser.add_argument("--out", type=Path, help="document with the section to replace")
    arguments = parser.parse_args()
    predictor = ImagePredictor(build_model("demo"))
    rows = list(photo_rows(predictor))
    if arguments.images:
        rows += composite_rows(predictor, arguments.data, arguments.images)
    write_section(arguments.out, "clicks", table(_HEAD, rows).splitlines())


if __name__ == "__main__":
    main()
