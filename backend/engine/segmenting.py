"""Prompts on an encoded image: boxes decoded many at once, all else one by one; masks without
specks and far-off islands, that hold what was clicked as the object and nothing of what was
clicked as background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from backend.engine.pixel_prompts import PixelPrompt
from backend.labelstudio.geometry import mask_bounds

if TYPE_CHECKING:
    from sam2model import ImageEmbedding, ImagePredictor, Prediction

MAX_BATCH = 32  # boxes decoded at once; clicks wait for no more than these
MAX_BATCH_PIXELS = 1 << 25  # of their masks together: a byte each, and time in which clicks wait
# Pieces of an answer that hold no click are islands where they lie farther from those that do than
# this, in sides of a square as large as these, and the model is nowhere surer of them than by this
# share of the highest logit of these.
ISLAND_GAP = 0.75
ISLAND_DOUBT = 0.3
# Where a track has gone over to another thing, so has its memory, and it speaks against the clicks:
# the answer without it counts where the model is surer of that one by so much predicted IoU. See
# benchmarks/quality/corrections.py.
MEMORY_DOUBT = 0.2
# Radius of what a click says by itself, as a share of the longer side of the picture.
SPOT = 0.01


@dataclass(frozen=True)
class Segment:
    """One mask: bool ``[H, W]``, predicted IoU in 0..1, low-resolution logits ``[1, h, w]``."""

    mask: np.ndarray
    score: float
    logits: np.ndarray


@dataclass(frozen=True)
class Clicks:
    """What was clicked on a picture.

    Attributes:
        xy: int ``[N, 2]``, column and row of each clicked pixel.
        positive: bool ``[N]``, False for background. Where one pixel was clicked more than once,
            the last click counts.
    """

    xy: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(cls, prompt: PixelPrompt, height: int, width: int) -> Clicks:
        """The clicks of ``prompt`` that fall on the picture."""
        count = len(prompt.points) - prompt.hints
        points, size = prompt.points[:count], np.array([width, height])
        inside = ((points >= 0) & (points <= size)).all(axis=1)
        xy = np.minimum(points[inside].astype(int), size - 1)
        last = {
            tuple(pixel): sign
            for pixel, sign in zip(xy.tolist(), prompt.positive[:count][inside], strict=True)
        }
        return cls(np.array(list(last), int).reshape(-1, 2), np.array(list(last.values()), bool))

    def within(self, bounds: tuple[int, int, int, int]) -> Clicks:
        """Those within ``bounds`` (left, top, right, bottom; the last two exclusive), counted from
        their corner."""
        corner, end = np.array(bounds[:2]), np.array(bounds[2:])
        inside = ((self.xy >= corner) & (self.xy < end)).all(axis=1)
        return Clicks(self.xy[inside] - corner, self.positive[inside])

    def on(self, values: np.ndarray) -> np.ndarray:
        """``values`` ``[H, W]`` at the clicked pixels: ``[N]``."""
        return values[self.xy[:, 1], self.xy[:, 0]]

    def agree(self, mask: np.ndarray) -> bool:
        """Whether ``mask``, bool ``[H, W]``, holds what was clicked and no clicked background."""
        return bool((self.on(mask) == self.positive).all())


def batch_size(width: int, height: int) -> int:
    """Boxes on a picture of that size that are decoded at once, at least one."""
    return max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // (width * height)))


def batches(
    prompts: Iterable[tuple[int, PixelPrompt]], size: int
) -> Iterator[list[tuple[int, PixelPrompt]]]:
    """Numbered prompts to be answered together: up to ``size`` bare boxes, or one prompt of another
    kind. ``prompts`` are asked for as they are needed."""
    boxes = []
    for number, prompt in prompts:
        if not _is_bare_box(prompt):
            yield [(number, prompt)]
            continue
        boxes.append((number, prompt))
        if len(boxes) >= size:
            yield boxes
            boxes = []
    if boxes:
        yield boxes


def segment_batch(
    predictor: ImagePredictor,
    image: ImageEmbedding,
    prompts: Sequence[PixelPrompt],
    speck_share: float,
) -> list[Segment]:
    """One mask for each prompt of a batch, in order; see ``batches``."""
    if len(prompts) == 1:
        return [_segment(predictor, image, prompts[0], speck_share)]
    boxes = [prompt.box for prompt in prompts if prompt.box is not None]
    return [
        Segment(clean(one.masks[0], speck_share), float(one.scores[0]), one.logits[0:1])
        for one in predictor.predict_boxes(image, np.stack(boxes))
    ]


def _segment(
    predictor: ImagePredictor, image: ImageEmbedding, prompt: PixelPrompt, speck_share: float
) -> Segment:
    """The best answer that agrees with every click; where none does, the best one, settled by
    the clicks."""
    # Neither three candidates for several clicks nor another pass over the answer's logits does
    # better than settling it: see benchmarks/quality/clicks.py.
    clicks = Clicks.of(prompt, *image.original_size)
    found = _predicted(predictor, image, prompt, clicks)
    mask, logits = found.masks[0], found.logits[0]
    mask = clean(mask, speck_share)
    if speck_share > 0 and prompt.box is None:
        mask = without_islands(mask, logits, clicks)
    if mask.any() and not clicks.agree(mask):
        mask = settle(mask, logits, clicks)
    return Segment(mask, float(found.scores[0]), logits[None])


def _is_bare_box(prompt: PixelPrompt) -> bool:
    others = prompt.mask is not None or prompt.logits is not None or len(prompt.points) > 0
    return prompt.box is not None and not others


def _predicted(
    predictor: ImagePredictor, image: ImageEmbedding, prompt: PixelPrompt, clicks: Clicks
) -> Prediction:
    """The model's answer: of the two with and without a memory the better one."""
    if prompt.memory is None:
        return _predict(predictor, image, prompt, clicks)
    alone = _predict(predictor, image, replace(prompt, memory=None), clicks)
    found = _predict(predictor, image, prompt, clicks)
    return alone if alone.scores[0] > found.scores[0] + MEMORY_DOUBT else found


def _predict(
    predictor: ImagePredictor, image: ImageEmbedding, prompt: PixelPrompt, clicks: Clicks
) -> Prediction:
    one_click = len(prompt.points) == 1 and prompt.box is None
    starts = prompt.mask is None and prompt.logits is None
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
        multimask=one_click and (starts or prompt.memory is not None),
        memory=prompt.memory,
        heed=(clicks.xy, clicks.positive),
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


def without_islands(mask: np.ndarray, logits: np.ndarray, clicks: Clicks) -> np.ndarray:
    """``mask`` without doubtful pieces that lie far off what was clicked, see ``ISLAND_GAP``.

    An object in parts keeps them: they lie near, or the model is sure of them.

    Args:
        mask: bool ``[H, W]``.
        logits: float ``[h, w]``, what it comes from.

    Returns:
        bool ``[H, W]``; ``mask`` itself where nothing leaves.
    """
    bounds = mask_bounds(mask)
    if bounds is None:
        return mask
    left, top, right, bottom = bounds
    window = np.s_[top:bottom, left:right]
    inside = np.ascontiguousarray(mask[window])
    count, pieces = cv2.connectedComponents(inside.view(np.uint8))
    if count < 3:
        return mask
    nearby = clicks.within(bounds)
    clicked = np.zeros(count, bool)
    clicked[nearby.on(pieces)[nearby.positive]] = True
    clicked[0] = False
    if not clicked.any():
        return mask
    held = clicked[pieces]
    distances = cv2.distanceTransform((~held).view(np.uint8), cv2.DIST_L2, 3)
    gap = ISLAND_GAP * np.sqrt(np.count_nonzero(held))
    sure = cv2.resize(logits.astype(np.float32), mask.shape[::-1])[window]
    near = (distances <= gap) | (sure > ISLAND_DOUBT * sure[held].max())
    stays = np.bincount(pieces[near & inside], minlength=count) > 0
    kept = mask.copy()
    kept[window] &= stays[pieces]
    return kept


def settle(mask: np.ndarray, logits: np.ndarray, clicks: Clicks) -> np.ndarray:
    """``mask`` changed where it disagrees with a click.

    A piece that holds background and nothing of the object leaves (where no click says what the
    object is, the largest piece is taken for it). Else the model's own doubts say
    how much does: what hangs together with the clicked pixel and is no surer to be the object than
    that pixel, up to half the way to the nearest click of the other kind; and a small disc in any
    case. What is missing around a click on the object comes in by the same rule.

    Args:
        mask: bool ``[H, W]``.
        logits: float ``[h, w]``, what it comes from.

    Returns:
        bool ``[H, W]`` that agrees with every click.
    """
    mask = mask.copy()
    count, pieces = cv2.connectedComponents(mask.view(np.uint8))
    leaves = np.zeros(count, bool)
    leaves[clicks.on(pieces)[~clicks.positive]] = True
    meant = clicks.on(pieces)[clicks.positive]
    leaves[meant if meant.any() else 1 + np.bincount(pieces[mask])[1:].argmax()] = False
    if leaves[1:].any():
        mask &= ~leaves[pieces]
    height, width = mask.shape
    sure = cv2.resize(logits.astype(np.float32), (width, height))
    spot = max(1.0, SPOT * max(height, width))
    for pixel, positive in zip(clicks.xy, clicks.positive, strict=True):
        if mask[pixel[1], pixel[0]] != positive:
            opposite = clicks.xy[clicks.positive != positive]
            reach = min(np.linalg.norm(opposite - pixel, axis=1), default=np.sqrt(mask.sum())) / 2
            window, around = _around(pixel, reach, sure if positive else -sure, spot)
            mask[window][around] = positive
    return mask


def _around(
    pixel: np.ndarray, reach: float, sure: np.ndarray, spot: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """What a click on ``pixel`` says something of: a window of the picture, and a bool mask of its
    size; see ``settle``.

    Args:
        pixel: column and row.
        reach: pixels; nothing farther away counts.
        sure: float ``[H, W]``, the higher the more likely what the click says.
        spot: radius of the disc that counts in any case, pixels.
    """
    column, row = pixel
    room = int(reach) + 1
    left, top = max(column - room, 0), max(row - room, 0)
    window = np.s_[top : row + room + 1, left : column + room + 1]
    column, row, sure = column - left, row - top, sure[window]
    rows, columns = np.ogrid[: sure.shape[0], : sure.shape[1]]
    distances = np.hypot(rows - row, columns - column)
    as_sure = ((sure >= sure[row, column]) & (distances < reach)).view(np.uint8)
    as_sure[row, column] = 1
    _, parts = cv2.connectedComponents(as_sure, connectivity=4)
    found: np.ndarray = (parts == parts[row, column]) | (distances < min(spot, reach))
    return window, found
