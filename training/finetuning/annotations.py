"""Accepted annotations of Label Studio tasks as pictures with masks.

What counts is the newest annotation of a task that was submitted and not cancelled: brush masks,
bitmasks, polygons, vectors and ellipses, on pictures and on the pages of frame sequences.
Predictions and drafts do not count: nobody has accepted them.

A box says where an object is, not which pixels are its own, so a box alone is never trained on.
Where an annotator drew a box around an object that has a mask too, the box is kept as a prompt:
people draw boxes less tightly than a computer does. The boxes of videos are passed over; the masks
behind them are the model's own, and it would learn its mistakes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from backend.export.masks import MaskPage, MaskReader, Media, ObjectMask, Origin
from backend.labelstudio.geometry import Box, box_iou, box_to_pixels, mask_to_box
from backend.labelstudio.label_config import LabelConfigError
from backend.labelstudio.media_refs import MissingMedia, media_uri
from backend.labelstudio.read_results import Region, joined_labels, newest_results, read_results
from backend.media.cache import MediaFile
from backend.media.errors import MediaError
from backend.pixels.pixel_resolver import Decoder
from backend.runs.command_line import CommandError
from backend.runs.projects import Project
from backend.tracking.store import TrackStore
from training.finetuning.dataset import AnnotatedObject, AnnotatedPage

_log = logging.getLogger(__name__)

MAX_PAGES = 200
"""Pages of one sequence that are used, the first ones with masks."""
_SAME_OBJECT = 0.5  # IoU of a drawn box and the box around a mask


class Fetcher(Protocol):
    """``MediaResolver`` as this module uses it."""

    def fetch(self, uri: str, *, task_id: int | None = None) -> MediaFile: ...


@dataclass
class Reader:
    """Reads tasks, and counts what it passes over.

    Attributes:
        project: whose label config says what is what.
        decoder: of pictures and masks.
        store: knows which regions of different pages are one object.
        passed_over: by reason, how many tasks or boxes.
    """

    project: Project
    store: TrackStore
    fetcher: Fetcher
    decoder: Decoder
    passed_over: Counter[str] = field(default_factory=Counter)

    def pages(self, tasks: Iterable[Mapping[str, Any]]) -> Iterator[AnnotatedPage]:
        """The pages of tasks that have masks, one at a time."""
        for task in tasks:
            try:
                yield from self._task(task)
            except (MissingMedia, MediaError, CommandError, LabelConfigError) as error:
                self.passed_over["tasks that could not be read"] += 1
                _log.warning("task %s is passed over: %s", task.get("id"), error)

    def _task(self, task: Mapping[str, Any]) -> Iterator[AnnotatedPage]:
        results = newest_results(task, "annotations")
        boxes = [
            region
            for region in read_results(results, self.project.config).regions
            if isinstance(region.geometry, Box)
        ]
        # The store names objects by the model; whose they are does not matter here.
        media = MaskReader(self.store, "", self.decoder.masks).pictures(
            self.project.with_task(task), results
        )
        for each in media:
            for page in islice(each.pages(), MAX_PAGES):
                yield from self._page(task, each, page, boxes)

    def _page(
        self, task: Mapping[str, Any], media: Media, page: MaskPage, boxes: list[Region]
    ) -> Iterator[AnnotatedPage]:
        drawn = [each for each in page.masks if each.origin is not Origin.BOX]
        self.passed_over["boxes without a mask"] += len(page.masks) - len(drawn)
        if not drawn:
            return
        tag = self.project.config.image(media.tag)
        if tag is None:
            raise MissingMedia(f"the label config has no <Image name={media.tag}>")
        sequence = len(media.names) > 1
        uri = media_uri(task.get("data") or {}, tag, page.index if sequence else None)
        file = self.fetcher.fetch(uri, task_id=int(task["id"]))
        near = [
            each
            for each in boxes
            if each.image == media.tag and (each.item_index or 0) == page.index
        ]
        yield AnnotatedPage(
            task=int(task["id"]),
            page=page.index,
            is_sequence=sequence,
            content=file.content_key,
            pixels=self.decoder.load(Path(file.path)),
            objects=[_object(each, near) for each in drawn],
        )


def _object(found: ObjectMask, boxes: list[Region]) -> AnnotatedObject:
    """A mask, with the box around it that the annotator drew, if there is one."""
    height, width = found.mask.shape
    hull = mask_to_box(found.mask)
    best, best_iou = None, _SAME_OBJECT
    for region in boxes:
        if hull is None or not isinstance(region.geometry, Box):
            continue
        if region.labels and found.label and joined_labels(region.labels) != found.label:
            continue
        overlap = box_iou(
            box_to_pixels(region.geometry, width, height), box_to_pixels(hull, width, height)
        )
        if overlap >= best_iou:
            best, best_iou = region.geometry, overlap
    if best is None:
        return AnnotatedObject(found.object_id, found.mask)
    x0, y0, x1, y1 = (box_to_pixels(best, width, height) / (width, height, width, height)).tolist()
    return AnnotatedObject(found.object_id, found.mask, (x0, y0, x1, y1))
