"""Prompts on an encoded image: boxes decoded many at once, all else one by one; masks without
specks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from backend.engine.pixel_prompts import PixelPrompt
from backend.labelstudio.geometry import mask_bounds

if TYPE_CHECKING:
    from sam2model import ImageEmbedding, ImagePredictor, Prediction

MAX_BATCH = 32  # boxes decoded at once; clicks wait for no more than these


@dataclass(frozen=True)
class Segment:
    """One mask: bool ``[H, W]``, predicted IoU in 0..1, low-resolution logits ``[1, h, w]``."""

    mask: np.ndarray
    score: float
    logits: np.ndarray


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


def clean(mask: np.ndarray, share: float) -> np.ndarray:
    """``mask`` without specks and holes smaller than ``share`` of its area.

    An object that is split by something in front of it keeps all its parts, unlike with a
    filter that keeps the largest one.

    Args:
        mask: bool ``[H, W]``.
        share: 0 to 1; 0 changes nothing.

    Returns:
        bool ``[H, W]``; empty only if ``mask`` is.
    """
    bounds = mask_bounds(mask)
    if share <= 0 or bounds is None:
        return mask
    left, top, right, bottom = bounds
    window = np.s_[top:bottom, left:right]
    # A rim of background, so that what is outside the object is one large part, not a hole.
    inside = np.pad(mask[window].view(np.uint8), 1)
    outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if len(outlines) == 1:  # one part without holes, as most masks are: nothing to label
        return mask
    limit = share * np.count_nonzero(inside)
    _flip_small_parts(inside, inside, limit)
    _flip_small_parts(inside, 1 - inside, limit)
    cleaned = np.zeros_like(mask)
    cleaned[window] = inside[1:-1, 1:-1]
    return cleaned


def _flip_small_parts(pixels: np.ndarray, mask: np.ndarray, limit: float) -> None:
    """Flip ``pixels`` on the connected parts of ``mask`` smaller than ``limit``, in place.

    Parts are connected by edges or corners; the largest one always stays.

    Args:
        pixels, mask: uint8 ``[H, W]``, 0 and 1.
        limit: pixels.
    """
    count, labels = cv2.connectedComponents(mask)
    if count < 3:  # what is not in the mask, and one part
        return
    # Counted here: connectedComponentsWithStats takes twice as long since OpenCV 4.13.
    areas = np.bincount(labels.ravel(), minlength=count)
    small = areas < limit
    small[[0, 1 + int(areas[1:].argmax())]] = False
    if small.any():
        pixels ^= small[labels]
