"""All objects of a picture, or of a part of it, without prompts: a search that can be taken up
again.

A grid of points asks for masks, a coarse one first and finer ones between, so that a search whose
time ends has looked everywhere. What lies in a mask already, found or labelled, is not asked for
again: of masks that overlap only one is wanted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np

from backend.engine.engine import MOST_OBJECTS, Answer, Everything
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import UnusableShape
from backend.engine.scheduler import Stopped
from backend.engine.segmenting import clean
from backend.engine.zoom import Window
from backend.labelstudio.geometry import Box, box_to_pixels
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.read_results import DecodeMask, rasterise
from backend.pixels.pixel_resolver import ImageSource
from backend.recent_values import Recent
from backend.threads.fair_queue import Busy

if TYPE_CHECKING:
    from sam2model import AutomaticMask, AutomaticMaskGenerator, ImageEmbedding, ImagePredictor

logger = logging.getLogger(__name__)

# A mask of which a larger share is taken already, by a region or by a better mask, is left out.
OVERLAP = 0.2
LARGE = 0.5  # share of what is looked at; such a mask is background rather than an object
ONE_PIECE = 0.8  # share of a mask that hangs together, where it is of one piece
MARGIN = 0.1  # of a box, beyond it, as a share of its sides: what is cut off is no object
MARGIN_PIXELS = 24
DRAWING = 0.15  # share of the time that is for drawing what was found
KEPT_SEARCHES = 16  # of a few MB each
SEARCH_SECONDS = 600.0
_MAP_SIDE = 1024  # of the picture of what is taken, at most
_CPU_POINTS, _GPU_POINTS = 16, 32  # per side of the grid
# The edge of a small mask is a larger part of it: a network for smaller pictures than this is less
# stable, and less sure.
_SMALL_SIDE = 512
_THRESHOLDS, _THRESHOLDS_OF_SMALL = (0.8, 0.9), (0.65, 0.5)  # predicted IoU, stability

T = TypeVar("T")


class Run(Protocol):
    """Executes a call on the inference thread, until ``stopped`` says that it is not wanted any
    more."""

    def __call__(self, call: Callable[[], T], stopped: Callable[[], bool], /) -> T:
        """Raises ``Stopped`` or ``Busy``."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for, see ``Engine.everything``.

    Attributes:
        decode: the masks of regions.
        deadline: on ``time.monotonic``.
    """

    within: Box | None
    taken: Sequence[ObjectPrompt]
    most: int
    decode: DecodeMask
    deadline: float
    stopped: Callable[[], bool]


class Searches:
    """The searches of the last minutes, each of which goes on where it was left."""

    def __init__(self, speck_share: float) -> None:
        self._speck_share = speck_share
        self._recent: Recent[Search] = Recent(entries=KEPT_SEARCHES, seconds=SEARCH_SECONDS)

    def forget(self) -> None:
        """Drop them all, and the model that they ask."""
        self._recent.forget(lambda key: True)

    def find(
        self,
        predictor: ImagePredictor,
        image: ImageSource,
        wanted: Wanted,
        embed: Callable[[ImageSource], ImageEmbedding],
        run: Run,
    ) -> Everything:
        """See ``Engine.everything``."""
        embedding = embed(image)
        part = Part.of(embedding.original_size, wanted.within)
        taken = taken_map(wanted.taken, part, wanted.decode)
        if not part.is_whole:
            image = part.window.source(image)
            embedding = embed(image)
        key = predictor, image.key, part
        search = self._recent.get(key) or Search(build_generator(predictor), part)
        self._recent.put(key, search)
        seconds = wanted.deadline - time.monotonic()
        ask_until = wanted.deadline - DRAWING * seconds

        def late() -> bool:
            return wanted.stopped() or time.monotonic() > ask_until

        search.go_on(embedding, taken, run, late)
        chosen, overlapping = search.chosen(taken)
        answers = self._drawn(chosen[: min(wanted.most, MOST_OBJECTS)], run, wanted.deadline)
        more = len(chosen) - len(answers)
        return Everything(tuple(answers), more, search.looked, overlapping)

    def _drawn(self, masks: Sequence[AutomaticMask], run: Run, deadline: float) -> list[Answer]:
        """Masks as they travel; those for which there is no time are left out, but the first."""
        answers: list[Answer] = []
        for mask in masks:
            if answers and time.monotonic() > deadline:
                break
            try:
                # There, as no other thread is to use torch, see ``LocalEngine.replace``.
                whole = run(lambda mask=mask: mask.mask, lambda: False)  # type: ignore[misc]
            except (Stopped, Busy):
                break
            packed = PackedMask.pack(clean(whole, self._speck_share))
            answers.append(Answer(packed, mask.predicted_iou))
        return answers


def build_generator(predictor: ImagePredictor) -> AutomaticMaskGenerator:
    """What asks for masks, with settings for the model and its device; imports torch."""
    from sam2model import AutomaticMaskGenerator

    model = predictor.model
    least = _THRESHOLDS_OF_SMALL if model.image_size < _SMALL_SIDE else _THRESHOLDS
    return AutomaticMaskGenerator(
        model,
        points_per_side=_CPU_POINTS if model.device.type == "cpu" else _GPU_POINTS,
        pred_iou_thresh=least[0],
        stability_score_thresh=least[1],
        yield_to=predictor.yield_to,
    )


class Part(NamedTuple):
    """What of a picture is searched, in its pixels.

    Attributes:
        window: what the model looks at.
        box: where objects are looked for, x0, y0, x1, y1.
        size: height and width of the picture.
    """

    window: Window
    box: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], within: Box | None) -> Part:
        """The whole picture, or a box on it with its surroundings.

        Raises:
            UnusableShape: the box is too small, or outside.
        """
        height, width = size
        if within is None:
            return cls(Window(0, 0, width, height), (0, 0, width, height), size)
        x0, y0, x1, y1 = (round(float(each)) for each in box_to_pixels(within, width, height))
        if x1 - x0 < 2 or y1 - y0 < 2:
            raise UnusableShape("the box is too small to look for objects in it")
        across, down = (round(MARGIN * side) + MARGIN_PIXELS for side in (x1 - x0, y1 - y0))
        left, top = max(x0 - across, 0), max(y0 - down, 0)
        right, bottom = min(x1 + across, width), min(y1 + down, height)
        return cls(Window(left, top, right - left, bottom - top), (x0, y0, x1, y1), size)

    @property
    def is_whole(self) -> bool:
        return (self.window.height, self.window.width) == self.size


@dataclass
class Search:
    """Looks for objects on one encoded part of a picture; several threads may ask for results.

    Attributes:
        found: the masks so far, duplicates among them.
    """

    generator: AutomaticMaskGenerator
    part: Part
    found: list[AutomaticMask] = field(default_factory=list)

    def __post_init__(self) -> None:
        from sam2model.crops import Crop  # brings torch

        window = self.part.window
        right, bottom = window.x + window.width, window.y + window.height
        self._crop = Crop(window.x, window.y, right, bottom)
        box = Crop(*self.part.box)
        batches = list(self.generator.points_of(box))
        self._batch = len(batches[0])
        points = np.concatenate(batches) + (box.corner - self._crop.corner).astype(np.float32)
        self._left = list(points[coarse_first(round(len(points) ** 0.5))])
        self._total = len(self._left)
        self._lock = threading.Lock()

    @property
    def looked(self) -> float:
        """The share of the points that need not be asked about any more."""
        return 1 - len(self._left) / self._total

    def go_on(
        self, embedding: ImageEmbedding, taken: np.ndarray, run: Run, late: Callable[[], bool]
    ) -> None:
        """Ask about the points that are left.

        Args:
            taken: bool map of the part, of any size: what is labelled already.
            late: whether to leave off.
        """
        covered, seen = taken, 0
        while not late():
            for mask in self.found[seen:]:
                shape = _shape(mask)
                if _rank(shape) == 0:
                    covered = covered | _resized(shape, covered.shape)
                seen += 1
            points = self._next_points(covered)
            if not len(points):
                return
            ask = partial(self.generator.ask, embedding, points, self._crop, self.part.size)
            try:
                self.found += run(ask, late)
            except BaseException as error:
                self._put_back(points)
                if isinstance(error, (Stopped, Busy)):
                    return
                raise

    def _next_points(self, covered: np.ndarray) -> np.ndarray:
        """The next batch of points ``[N, 2]`` that are not ``covered``."""
        height, width = self._crop.size
        scale = np.array([covered.shape[1] / width, covered.shape[0] / height])
        batch: list[np.ndarray] = []
        with self._lock:
            while self._left and len(batch) < self._batch:
                point = self._left.pop(0)
                cell = np.minimum(point * scale, np.array(covered.shape[::-1]) - 1)
                column, row = cell.astype(int)
                if not covered[row, column]:
                    batch.append(point)
        return np.array(batch, np.float32).reshape(-1, 2)

    def _put_back(self, points: np.ndarray) -> None:
        with self._lock:
            self._left[:0] = list(points)

    def chosen(self, taken: np.ndarray) -> tuple[list[AutomaticMask], int]:
        """The masks that overlap neither what is ``taken`` nor one another, the best first; after
        what is of one piece what is in several, which may be several objects, and at last what
        covers most of the part. And how many do overlap."""
        masks = self.generator.without_duplicates(self.found)
        shapes = [_shape(mask) for mask in masks]
        order = sorted(range(len(masks)), key=lambda each: _rank(shapes[each]))
        inside = self._inside(shapes[0].shape) if shapes else None
        free = ~_resized(taken, shapes[0].shape) if shapes else ~taken
        chosen = []
        overlapping = 0
        for number in order:
            shape = shapes[number]
            area = np.count_nonzero(shape)
            if not area or np.count_nonzero(shape & inside) < area / 2:
                continue
            if np.count_nonzero(shape & free) >= (1 - OVERLAP) * area:
                chosen.append(masks[number])
                free &= ~shape
            else:
                overlapping += 1
        return chosen, overlapping

    def _inside(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which cells of a map of the window lie in the box."""
        window, (x0, y0, x1, y1) = self.part.window, self.part.box
        rows = window.y + (np.arange(shape[0]) + 0.5) * window.height / shape[0]
        columns = window.x + (np.arange(shape[1]) + 0.5) * window.width / shape[1]
        return ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))


def taken_map(taken: Sequence[ObjectPrompt], part: Part, decode: DecodeMask) -> np.ndarray:
    """What regions cover of a part of a picture: a bool map of it, not larger than needed. Those
    that cannot be decoded cover nothing."""
    height, width = part.size
    scale = min(1.0, _MAP_SIDE / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    covered = np.zeros(small[::-1], bool)
    for prompt in taken:
        shape = prompt.shape or prompt.box
        if shape is not None:
            try:
                covered |= rasterise(shape, *small, decode)
            except ValueError as error:
                logger.warning("a region does not count as labelled: %s", error)
    window = part.window
    rows = np.arange(max(1, round(window.height * scale))) + int(window.y * scale)
    columns = np.arange(max(1, round(window.width * scale))) + int(window.x * scale)
    clipped = np.minimum(rows, small[1] - 1), np.minimum(columns, small[0] - 1)
    return covered[clipped[0]][:, clipped[1]]


def coarse_first(per_side: int) -> np.ndarray:
    """The order in which the points of a grid, numbered row by row, are asked about: every 16th
    row and column, then those between, down to all."""
    rows, columns = np.divmod(np.arange(per_side * per_side), per_side)
    levels = np.zeros(len(rows), int)
    for level, stride in enumerate((1, 2, 4, 8, 16)):
        on_grid = (rows % stride == stride // 2) & (columns % stride == stride // 2)
        levels[on_grid] = level
    return np.argsort(-levels, kind="stable")


def _shape(mask: AutomaticMask) -> np.ndarray:
    """The mask as the model sees it: bool ``[h, w]`` of its crop."""
    count = mask.outline.shape[0] * mask.outline.shape[1]
    return (
        np.unpackbits(mask.outline.positive, count=count).reshape(mask.outline.shape).astype(bool)
    )


def _rank(shape: np.ndarray) -> int:
    """0 for what is of one piece, 1 for what is in several, 2 for what covers most of the part."""
    if shape.mean() > LARGE:
        return 2
    _, pieces = cv2.connectedComponents(shape.view(np.uint8))
    areas = np.bincount(pieces.ravel())[1:]
    return 0 if areas.max(initial=0) >= ONE_PIECE * areas.sum() else 1


def _resized(shape: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A bool map at another size, by nearest neighbours."""
    rows, columns = (
        ((np.arange(there) + 0.5) * here / there).astype(int)
        for here, there in zip(shape.shape, size, strict=True)
    )
    return shape[rows][:, columns]
