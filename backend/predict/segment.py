"""From a prompt to Label Studio regions: the one path that clicks and batches share."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.engine.engine import Embedded, Engine, ImageSource, PixelPrompt, Segment
from backend.engine.scheduler import Priority
from backend.labelstudio.geometry import (
    Box,
    box_corners,
    box_to_pixels,
    mask_to_box,
    points_to_pixels,
)
from backend.labelstudio.json_values import task_name
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.regions import rasterise
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.write_results import region_results
from backend.media.task_media import TaskImages
from backend.metrics import Metrics
from backend.predict.zoom import Window, window_for
from backend.threads.fair_queue import Busy

logger = logging.getLogger(__name__)


class UnusableShape(ValueError):
    """A region of the task that is no picture of an area; the message is one line."""


@dataclass(frozen=True)
class Page:
    """One encoded image of a task, or of a window of it.

    Attributes:
        image: what was encoded; its key names the content.
        embedded: its encoding.
        width, height: of the whole image, in pixels.
        window: the part that was encoded; None: all of it.
    """

    image: ImageSource
    embedded: Embedded
    width: int
    height: int
    window: Window | None = None


class Answers:
    """Runs prompts on the pages of a task."""

    def __init__(
        self, engine: Engine, images: TaskImages, metrics: Metrics, *, zoom: bool = True
    ) -> None:
        """
        Args:
            zoom: look closer at small objects of large images, see ``closer``.
        """
        self._engine = engine
        self._images = images
        self._metrics = metrics
        self._zoom = zoom

    def page(
        self,
        task: Mapping[str, Any],
        config: LabelConfig,
        prompt: ObjectPrompt,
        priority: Priority,
        deadline: float,
    ) -> Page:
        """The encoded image that ``prompt`` was made on.

        Raises:
            MissingMedia, MediaError, EngineError: see ``TaskImages.source``, ``Engine.embed``.
        """
        tag = config.image(prompt.image)
        if tag is None:
            raise MissingMedia(f"the label config has no <Image name={prompt.image}>")
        source = self._images.source(task, tag, prompt.item_index, deadline)
        embedded = self._engine.embed(source, priority, deadline - time.monotonic())
        _warn_of_other_size(task, prompt, embedded)
        return Page(source, embedded, embedded.width, embedded.height)

    def closer(self, page: Page, prompt: ObjectPrompt, priority: Priority, deadline: float) -> Page:
        """``page``, or a window of it where ``prompt`` means something too small for the whole.

        Raises:
            UnusableShape, EngineError: as ``segment``.
        """
        if not self._zoom:
            return page
        pixels = to_pixels(prompt, page.width, page.height)

        def look() -> np.ndarray:
            left = deadline - time.monotonic()
            return self._engine.segment(page.embedded, [pixels], priority, left)[0].logits[0]

        window = window_for(pixels, look, page.width, page.height, page.embedded.side)
        if window is None:
            return page
        source = window.source(page.image)
        try:
            embedded = self._engine.embed(source, priority, deadline - time.monotonic())
        except Busy:
            logger.warning("no time to look closer at %s; the whole image answers", source.key)
            return page
        return Page(source, embedded, page.width, page.height, window)

    def segment(
        self,
        page: Page,
        prompts: Sequence[ObjectPrompt],
        priority: Priority,
        deadline: float,
        logits: Sequence[np.ndarray | None] | None = None,
    ) -> list[Segment]:
        """One mask for each of ``prompts``, which all belong to ``page``."""
        pixels = [to_pixels(prompt, page.width, page.height) for prompt in prompts]
        if logits is not None:
            pixels = [
                replace(pixel, logits=earlier)
                for pixel, earlier in zip(pixels, logits, strict=True)
            ]
        timeout = deadline - time.monotonic()
        window = page.window
        if window is None:
            return self._engine.segment(page.embedded, pixels, priority, timeout)
        pixels = [window.prompt(pixel) for pixel in pixels]
        found = self._engine.segment(page.embedded, pixels, priority, timeout)
        return [window.segment(one, page.width, page.height) for one in found]

    def regions(
        self, prompt: ObjectPrompt, segment: Segment, config: LabelConfig, region_id: str
    ) -> list[dict[str, Any]]:
        """``segment`` as Label Studio results; none for an empty mask.

        Raises:
            LabelMismatch: no answer control of the image has the prompt's label.
        """
        with self._metrics.stage("answer"):
            return region_results(
                prompt, segment.mask, score=segment.score, config=config, region_id=region_id
            )


def to_pixels(prompt: ObjectPrompt, width: int, height: int) -> PixelPrompt:
    """``prompt`` in pixels of an image of ``width`` and ``height``.

    Percentages hold for any size, so a wrong ``original_width`` does no harm here.

    Raises:
        UnusableShape: a drawn mask that cannot be decoded.
    """
    clicks = [(point.x, point.y) for point in prompt.points]
    points = points_to_pixels(clicks, width, height)
    positive = np.array([point.positive for point in prompt.points], dtype=bool)
    box = mask = None
    if prompt.box is not None:
        box = box_to_pixels(prompt.box, width, height)
        extra, signs = _rotation_points(prompt.box, width, height)
        points, positive = np.concatenate([points, extra]), np.concatenate([positive, signs])
    if prompt.shape is not None:
        try:
            mask = rasterise(prompt.shape, width, height)
        except ValueError as error:
            raise UnusableShape(f"a region cannot be read: {error}") from error
        hull = mask_to_box(mask)
        if box is None and hull is not None:
            box = box_to_pixels(hull, width, height)
    return PixelPrompt(points=points, positive=positive, box=box, mask=mask)


def _warn_of_other_size(task: Mapping[str, Any], prompt: ObjectPrompt, image: Embedded) -> None:
    """The editor saw another size than the file has: masks are rescaled to what it saw."""
    seen = (prompt.original_width, prompt.original_height)
    if None not in seen and seen != (image.width, image.height):
        logger.warning(
            "task %s: the editor shows %sx%s pixels, the file has %dx%d; masks are rescaled",
            task_name(task),
            *seen,
            image.width,
            image.height,
        )


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
