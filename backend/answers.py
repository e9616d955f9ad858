"""From a prompt to Label Studio regions: the one path that clicks and batches share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.engine.engine import Embedded, Engine, PixelPrompt, Segment
from backend.engine.scheduler import Priority
from backend.labelstudio import geometry
from backend.labelstudio.label_config import LabelConfig
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.results import region_results
from backend.metrics import Metrics
from backend.task_images import TaskImages


@dataclass(frozen=True)
class Page:
    """One encoded image of a task; ``key`` names its content."""

    key: str
    embedded: Embedded


class Answers:
    """Runs prompts on the pages of a task."""

    def __init__(self, engine: Engine, images: TaskImages, metrics: Metrics) -> None:
        self._engine = engine
        self._images = images
        self._metrics = metrics

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
        source = self._images.source(task, tag, prompt.item_index, deadline)
        embedded = self._engine.embed(source, priority, deadline - time.monotonic())
        return Page(source.key, embedded)

    def segment(
        self,
        page: Page,
        prompts: Sequence[ObjectPrompt],
        priority: Priority,
        deadline: float,
        logits: Sequence[np.ndarray | None] | None = None,
    ) -> list[Segment]:
        """One mask for each of ``prompts``, which all belong to ``page``."""
        pixels = [to_pixels(prompt, page.embedded) for prompt in prompts]
        if logits is not None:
            pixels = [
                replace(pixel, logits=earlier)
                for pixel, earlier in zip(pixels, logits, strict=True)
            ]
        timeout = deadline - time.monotonic()
        return self._engine.segment(page.embedded, pixels, priority, timeout)

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


def to_pixels(prompt: ObjectPrompt, image: Embedded) -> PixelPrompt:
    """``prompt`` in pixels of the image as decoded.

    Percentages hold for any size, so a wrong ``original_width`` does no harm here. Of a
    rotated rectangle the network gets the upright hull, its centre as an object point and
    the hull's corners, which lie outside the rectangle, as background points.
    """
    width, height = image.width, image.height
    points, positive = geometry.points_to_pixels(prompt.points, width, height)
    box = None
    if prompt.box is not None:
        box = geometry.box_to_pixels(prompt.box, width, height)
        if prompt.box.rotation % 90:
            extra, signs = geometry.rotation_points(prompt.box, width, height)
            points, positive = np.concatenate([points, extra]), np.concatenate([positive, signs])
    mask = None
    if prompt.shape is not None:
        mask = geometry.shape_to_mask(prompt.shape, width, height)
        if box is None and mask.any():
            box = geometry.mask_box(mask)
    return PixelPrompt(points=points, positive=positive, box=box, mask=mask)
