"""From a prompt to the model's mask: the one place that asks the engine for masks of pictures.

SAM 2 sees every picture scaled to one small square: 40 pixels of an 8,000 pixel scan are five
there, and a mask of five pixels is no outline. Where a click or a box is on such an object, it is
segmented once more in a window around it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from backend.engine.engine import Embedded, Engine, Segment
from backend.engine.pixel_prompts import PixelPrompt, pixel_prompt
from backend.engine.scheduler import Priority
from backend.labelstudio.json_values import Results
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.write_results import region_results
from backend.metrics import Metrics
from backend.pixels.recipes import ImageSource, TaskPictures
from backend.predict.recent import Recent
from backend.threads.fair_queue import Busy

logger = logging.getLogger(__name__)

KEPT_LOGITS = 128  # of 256 KiB at 1024 px
LOGITS_SECONDS = 600.0

LARGE = 2.0  # a picture this many times the network's input loses detail worth fetching
SMALL = 1 / 6  # side of an object, as a share of the picture's, below which it is done again
_ROOM = 3.0  # sides of the object that the window shows: SAM 2 needs the surroundings
_STEPS = 4  # windows start at multiples of a quarter of their side: the next click finds them again


class Segmenter:
    """Runs prompts on the pictures of tasks and on frames.

    Args:
        zoom: segment small objects of large pictures in a window around them.
    """

    def __init__(
        self, engine: Engine, pictures: TaskPictures, metrics: Metrics, *, zoom: bool = True
    ) -> None:
        self._engine = engine
        self._pictures = pictures
        self._metrics = metrics
        self._zoom = zoom
        self._logits: Recent[np.ndarray] = Recent(entries=KEPT_LOGITS, seconds=LOGITS_SECONDS)

    def encode(
        self,
        task: ProjectTask,
        prompt: ObjectPrompt,
        priority: Priority,
        deadline: float,
    ) -> tuple[ImageSource, Embedded]:
        """The picture that ``prompt`` was made on, encoded.

        Args:
            deadline: on ``time.monotonic``.

        Raises:
            MissingMedia, MediaError, EngineError, Busy: see ``TaskPictures.source`` and
                ``Engine.embed``.
        """
        tag = task.config.image(prompt.image)
        if tag is None:
            raise MissingMedia(f"the label config has no <Image name={prompt.image}>")
        source = self._pictures.source(task.task, tag, prompt.item_index, deadline)
        image = self._embed(source, priority, deadline)
        _warn_of_other_size(task, prompt, image)
        return source, image

    def answer(
        self,
        task: ProjectTask,
        prompts: Sequence[ObjectPrompt],
        priority: Priority,
        deadline: float,
    ) -> list[Segment]:
        """One mask for each of ``prompts``, which all belong to one picture of ``task``.

        Raises:
            UnusableShape: a drawn mask cannot be decoded.
            MissingMedia, MediaError, EngineError, Busy: as ``encode``.
        """
        _, image = self.encode(task, prompts[0], priority, deadline)
        return self._segment(image, _in_pixels(prompts, image), priority, deadline)

    def answer_frame(self, source: ImageSource, prompt: ObjectPrompt, deadline: float) -> Segment:
        """The mask for a prompt on a frame of a video; raises as ``answer`` does."""
        image = self._embed(source, Priority.CLICK, deadline)
        [segment] = self._segment(image, _in_pixels([prompt], image), Priority.CLICK, deadline)
        return segment

    def answer_click(self, task: ProjectTask, prompt: ObjectPrompt, deadline: float) -> Segment:
        """The mask for a click or a box of an annotator, as good as the model makes it: with a
        closer look at a small object, and as a correction of the answer before the last click.

        Raises as ``answer`` does.
        """
        source, image = self.encode(task, prompt, Priority.CLICK, deadline)
        [pixels] = _in_pixels([prompt], image)
        window = self._window(image, pixels, deadline) if self._zoom else None
        if window is not None:
            part = window.source(source)
            try:
                inside = self._embed(part, Priority.CLICK, deadline)
            except Busy:
                logger.warning("no time to look closer at %s; the whole image answers", part.key)
            else:
                found = self._correct(part, inside, prompt, window.prompt(pixels), deadline)
                return window.segment(found, image.width, image.height)
        return self._correct(source, image, prompt, pixels, deadline)

    def regions(
        self, prompt: ObjectPrompt, segment: Segment, config: LabelConfig, region_id: str
    ) -> Results:
        """``segment`` as Label Studio results; none for an empty mask.

        Raises:
            LabelMismatch: no answer control of the image has the prompt's label.
        """
        with self._metrics.stage("answer"):
            return region_results(
                prompt, segment.mask, score=segment.score, config=config, region_id=region_id
            )

    def _window(self, image: Embedded, pixels: PixelPrompt, deadline: float) -> Window | None:
        def look() -> np.ndarray:
            [segment] = self._segment(image, [pixels], Priority.CLICK, deadline)
            return segment.logits[0]

        return window_for(pixels, look, image.width, image.height, image.side)

    def _correct(
        self,
        source: ImageSource,
        image: Embedded,
        prompt: ObjectPrompt,
        pixels: PixelPrompt,
        deadline: float,
    ) -> Segment:
        """The mask for ``prompt``, ``pixels`` on ``image``; its last click corrects the answer to
        those before it."""
        if prompt.points:
            earlier = self._logits.get(_answer_key(source, prompt, prompt.points[:-1]))
            pixels = replace(pixels, logits=earlier)
        [segment] = self._segment(image, [pixels], Priority.CLICK, deadline)
        if prompt.shape is None:
            self._logits.put(_answer_key(source, prompt, prompt.points), segment.logits)
        return segment

    def _embed(self, source: ImageSource, priority: Priority, deadline: float) -> Embedded:
        return self._engine.embed(source, priority, deadline - time.monotonic())

    def _segment(
        self, image: Embedded, prompts: Sequence[PixelPrompt], priority: Priority, deadline: float
    ) -> list[Segment]:
        return self._engine.segment(image, prompts, priority, deadline - time.monotonic())


def _in_pixels(prompts: Sequence[ObjectPrompt], image: Embedded) -> list[PixelPrompt]:
    return [pixel_prompt(prompt, image.width, image.height) for prompt in prompts]


def _answer_key(
    source: ImageSource, prompt: ObjectPrompt, points: Sequence[PointPrompt]
) -> Hashable:
    """Names the answer to ``points`` and the box of ``prompt`` on a picture."""
    return source.key, prompt.box, tuple((point.x, point.y, point.positive) for point in points)


def _warn_of_other_size(task: ProjectTask, prompt: ObjectPrompt, image: Embedded) -> None:
    """The editor saw another size than the file has: masks are rescaled to what it saw."""
    seen = (prompt.original_width, prompt.original_height)
    if None not in seen and seen != (image.width, image.height):
        logger.warning(
            "task %s: the editor shows %sx%s pixels, the file has %dx%d; masks are rescaled",
            task.task_id,
            *seen,
            image.width,
            image.height,
        )


@dataclass(frozen=True)
class Window:
    """A part of a picture, in its pixels."""

    x: int
    y: int
    width: int
    height: int

    def prompt(self, prompt: PixelPrompt) -> PixelPrompt:
        """``prompt`` in pixels of the window."""
        corner = np.array([self.x, self.y], prompt.points.dtype)
        return replace(
            prompt,
            points=prompt.points - corner,
            box=None if prompt.box is None else prompt.box - np.tile(corner, 2),
            mask=None if prompt.mask is None else prompt.mask[self._part].copy(),
        )

    def segment(self, found: Segment, width: int, height: int) -> Segment:
        """What was ``found`` in the window, as a mask of the whole picture."""
        mask = np.zeros((height, width), dtype=bool)
        mask[self._part] = found.mask
        return Segment(mask, found.score, found.logits)

    def source(self, image: ImageSource) -> ImageSource:
        """The window as a picture of its own."""

        def load() -> np.ndarray:
            return np.ascontiguousarray(image.load()[self._part])

        return ImageSource(f"{image.key}@{self.x},{self.y},{self.width}x{self.height}", load)

    @property
    def _part(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def window_for(
    prompt: PixelPrompt,
    look: Callable[[], np.ndarray],
    width: int,
    height: int,
    side: int,
) -> Window | None:
    """Where to look again, None where the whole picture does.

    Args:
        prompt: in pixels of the picture.
        look: logits of the mask found on the whole picture, float ``[h, w]`` at any scale;
            asked for only where no box or shape says how large the object is.
        width, height: of the picture.
        side: of the network's input, pixels.
    """
    longest = max(width, height)
    if longest < LARGE * side:
        return None
    extent = _extent(prompt, look, width, height)
    if extent is None:
        return None
    x0, y0, x1, y1 = extent
    size = max(x1 - x0, y1 - y0)
    if size > SMALL * longest:
        return None
    wanted = _window_side(max(size * _ROOM, side), longest)
    (x, across), (y, down) = _span(x0, x1, wanted, width), _span(y0, y1, wanted, height)
    return Window(x, y, across, down)


def _extent(
    prompt: PixelPrompt, look: Callable[[], np.ndarray], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """The hull of the object: x0, y0, x1, y1 in pixels; None where nothing is known of it."""
    if prompt.box is not None:  # a drawn shape comes with its box
        x0, y0, x1, y1 = (float(value) for value in prompt.box)
        return x0, y0, x1, y1
    logits = look()
    scale = np.array([width / logits.shape[1], height / logits.shape[0]])
    clicks = prompt.points[prompt.positive]
    cells = np.clip((clicks / scale).astype(int), 0, np.array(logits.shape[::-1]) - 1)
    _, parts = cv2.connectedComponents((logits > 0).astype(np.uint8))
    clicked = np.setdiff1d(parts[cells[:, 1], cells[:, 0]], [0])
    rows, columns = np.nonzero(np.isin(parts, clicked))
    # Where a click met nothing, the object may be too small to be seen: its cell counts.
    columns, rows = np.append(columns, cells[:, 0]), np.append(rows, cells[:, 1])
    if len(rows) == 0:
        return None
    x0, y0 = np.array([columns.min(), rows.min()]) * scale
    x1, y1 = np.array([columns.max() + 1, rows.max() + 1]) * scale
    return float(x0), float(y0), float(x1), float(y1)


def _window_side(wanted: float, longest: int) -> int:
    """The picture's longer side, halved as often as ``wanted`` allows: few different windows."""
    return math.ceil(longest / 2 ** math.floor(math.log2(longest / wanted)))


def _span(low: float, high: float, side: int, length: int) -> tuple[int, int]:
    """Start and length of a window of ``side`` around [low, high] within [0, length]."""
    if side >= length:
        return 0, length
    step = side / _STEPS
    start = round(((low + high - side) / 2) / step) * step
    return min(max(round(start), 0), length - side), side
