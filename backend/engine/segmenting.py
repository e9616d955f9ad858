"""Prompts on an encoded image: boxes decoded many at once, all else one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from backend.engine.cleanup import clean
from backend.engine.engine import Segment
from backend.engine.pixel_prompts import PixelPrompt

if TYPE_CHECKING:
    from sam2model import ImageEmbedding, ImagePredictor, Prediction

MAX_BATCH = 32  # boxes decoded at once; clicks wait for no more than these


def batches(prompts: Sequence[PixelPrompt]) -> Iterator[list[int]]:
    """The positions of prompts to be answered together: up to ``MAX_BATCH`` bare boxes, or one
    prompt of another kind."""
    boxes = [number for number, prompt in enumerate(prompts) if _is_bare_box(prompt)]
    for start in range(0, len(boxes), MAX_BATCH):
        yield boxes[start : start + MAX_BATCH]
    for number, prompt in enumerate(prompts):
        if not _is_bare_box(prompt):
            yield [number]


def segment_batch(
    predictor: ImagePredictor,
    image: ImageEmbedding,
    prompts: Sequence[PixelPrompt],
    speck_share: float,
) -> list[Segment]:
    """One mask for each prompt of a batch, in order; see ``batches``."""
    if len(prompts) > 1:
        boxes = [prompt.box for prompt in prompts if prompt.box is not None]
        found = predictor.predict_boxes(image, np.stack(boxes))
    else:
        found = [_predict(predictor, image, prompt) for prompt in prompts]
    return [
        Segment(clean(one.masks[0], speck_share), float(one.scores[0]), one.logits[0:1])
        for one in found
    ]


def _is_bare_box(prompt: PixelPrompt) -> bool:
    others = prompt.mask is not None or prompt.logits is not None or len(prompt.points) > 0
    return prompt.box is not None and not others


def _predict(predictor: ImagePredictor, image: ImageEmbedding, prompt: PixelPrompt) -> Prediction:
    one_click = len(prompt.points) == 1 and prompt.box is None
    ambiguous = one_click and prompt.mask is None and prompt.logits is None
    logits = prompt.logits
    if logits is None and prompt.mask is not None:
        logits = _mask_logits(prompt.mask, predictor.model.image_size // 4)
    has_points = len(prompt.points) > 0
    return predictor.predict(
        image,
        points=prompt.points if has_points else None,
        labels=prompt.positive.astype(np.int32) if has_points else None,
        box=prompt.box,
        mask=logits,
        multimask=ambiguous,
    )


def _mask_logits(mask: np.ndarray, side: int) -> np.ndarray:
    """A drawn mask, bool ``[H, W]``, as the mask prompt float32 ``[1, side, side]`` it stands
    for: logits between -10 and 10, the range that SAM 2 gives to masks drawn by hand."""
    small = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return (small * 20.0 - 10.0)[None]
