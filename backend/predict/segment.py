"""From a prompt to Label Studio regions: the one path that clicks and batches share."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.engine.engine import Embedded, Engine, Segment
from backend.engine.pixel_prompts import pixel_prompt
from backend.engine.scheduler import Priority
from backend.labelstudio.json_values import task_name
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.write_results import region_results
from backend.metrics import Metrics
from backend.pixels.recipes import ImageSource, TaskPictures
from backend.predict.zoom import Window, window_for
from backend.threads.fair_queue import Busy

logger = logging.getLogger(__name__)


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


class Segmenter:
    """Runs prompts on the pages of a task."""

    def __init__(
        self, engine: Engine, images: TaskPictures, metrics: Metrics, *, zoom: bool = True
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
            MissingMedia, MediaError, EngineError: see ``TaskPictures.source``, ``Engine.embed``.
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
        pixels = pixel_prompt(prompt, page.width, page.height)

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
        pixels = [pixel_prompt(prompt, page.width, page.height) for prompt in prompts]
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
