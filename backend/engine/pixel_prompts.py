"""Prompts in pixels: what the model is asked, made from what Label Studio sends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from backend.expected import ExpectedError
from backend.labelstudio.geometry import (
    Box,
    box_corners,
    box_to_pixels,
    mask_to_box,
    points_to_pixels,
)
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.read_results import DecodeMask, rasterise

if TYPE_CHECKING:
    from sam2model import ObjectMemory


class UnusableShape(ExpectedError):
    """A region of the task that is no picture of an area; the message is one line."""


@dataclass(frozen=True)
class PixelPrompt:
    """What gives one mask, in pixels of the image.

    Attributes:
        points: float32 ``[N, 2]``, x and y.
        positive: bool ``[N]``, False for a click on the background.
        box: float32 ``[4]``, x0, y0, x1, y1; None where there is none.
        mask: bool ``[H, W]`` of a drawn shape; None where there is none.
        logits: float32 ``[1, h, w]``, an earlier ``Segment.logits`` to refine, or None.
        hints: how many of the last points nobody clicked: they help to find the object, but the
            answer need not agree with them.
        memory: of the object on other frames, where ``mask`` is what was tracked on this one.
    """

    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    positive: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    box: np.ndarray | None = None
    mask: np.ndarray | None = None
    logits: np.ndarray | None = None
    hints: int = 0
    memory: ObjectMemory | None = None


def pixel_prompt(prompt: ObjectPrompt, width: int, height: int, decode: DecodeMask) -> PixelPrompt:
    """``prompt`` in pixels of an image of ``width`` and ``height``.

    Percentages hold for any size, so a wrong ``original_width`` does no harm here.

    Args:
        decode: a drawn mask.

    Raises:
        UnusableShape: a drawn mask that cannot be decoded.
    """
    clicks = [(point.x, point.y) for point in prompt.points]
    points = points_to_pixels(clicks, width, height)
    positive = np.array([point.positive for point in prompt.points], dtype=bool)
    box = mask = None
    hints = 0
    if prompt.box is not None:
        box = box_to_pixels(prompt.box, width, height)
        extra, signs = _rotation_points(prompt.box, width, height)
        points, positive = np.concatenate([points, extra]), np.concatenate([positive, signs])
        hints = len(extra)
    if prompt.shape is not None:
        try:
            mask = rasterise(prompt.shape, width, height, decode)
        except ValueError as error:
            raise UnusableShape(f"a region cannot be read: {error}") from error
        hull = mask_to_box(mask)
        if box is None and hull is not None:
            box = box_to_pixels(hull, width, height)
    return PixelPrompt(points=points, positive=positive, box=box, mask=mask, hints=hints)


def _rotation_points(box: Box, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """What a rotated rectangle says beyond its upright hull: points ``[N, 2]``, signs ``[N]``.

    SAM 2 knows upright boxes only. The object is in the rectangle's middle, and not in those
    corners of the hull that the rectangle leaves well outside.
    """
    corners = box_corners(box, width, height)
    x0, y0, x1, y1 = box_to_pixels(box, width, height)
    hull = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    gaps = np.linalg.norm(hull[:, None] - corners[None], axis=2).min(axis=1)
    outside = hull[gaps > 0.15 * np.hypot(x1 - x0, y1 - y0)]
    if len(outside) == 0:
        return np.zeros((0, 2)), np.zeros(0, dtype=bool)
    middle = corners.mean(axis=0, keepdims=True)
    return np.concatenate([middle, outside]), np.array([True] + [False] * len(outside))
