"""``annotations.json`` of any length: as COCO and as YouTube-VIS have it."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from backend.export.ledger import Ledger, Pages
from backend.export.masks import MaskPage, Media, ObjectMask
from backend.export.polygons import LEAST_IOU, coco_polygons
from backend.export.writer import (
    LINES_AT_ONCE,
    Writer,
    about,
    frame_file,
    label_of,
    sequence_name,
)
from backend.labelstudio.geometry import Mask, mask_bounds, resize_mask

ANNOTATION = "annotation"


def run_lengths(mask: Mask) -> list[int]:
    """COCO's uncompressed RLE: lengths of runs of 0 and 1 in turn, beginning with 0 (the first
    may be 0), down the columns."""
    pixels = np.concatenate(([False], mask.T.ravel()))
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    edges = np.concatenate(([0], changes, [mask.size]))
    lengths: list[int] = np.diff(edges).tolist()
    return lengths


class _AnnotationsWriter(Writer):
    """The annotations go to disk one by one, then what they refer to. Category ids begin with 1:
    labels of the label config first, others as they come."""

    referred: str  # what annotations refer to beside categories, and the kind of its entries

    def shape(self, mask: Mask, to: Pages) -> dict[str, Any]:
        """A mask that is not empty, as COCO has it; ``bbox`` is x, y, width, height in pixels."""
        left, top, right, bottom = mask_bounds(mask) or (0, 0, 0, 0)
        segmentation: Any = {"size": list(mask.shape), "counts": run_lengths(mask)}
        if self.options.polygons:
            rings, fits = coco_polygons(mask, self.options.detail)
            segmentation = [ring.ravel().tolist() for ring in rings]
            to.summary["rough"] += fits < LEAST_IOU
        return {
            "segmentation": segmentation,
            "area": int(np.count_nonzero(mask)),
            "bbox": [left, top, right - left, bottom - top],
        }

    def close(self, ledger: Ledger) -> Iterator[None]:
        with ledger.outlet.open("annotations.json") as file:
            _put(file, '{"annotations": [')
            yield from self._annotations(file, ledger)
            _put(file, f"\n],\n{json.dumps(self.referred)}: [")
            for number, (_, entry) in enumerate(ledger.entries(self.referred), 1):
                _put_item(file, {"id": number, **entry}, number)
                if number % LINES_AT_ONCE == 0:
                    yield
            categories = [{"id": n, "name": label} for n, label in enumerate(ledger.classes(), 1)]
            _put(file, f'\n],\n"categories": {json.dumps(categories)}}}\n')

    def _annotations(self, file: IO[bytes], ledger: Ledger) -> Iterator[None]:
        refers = self.reference
        owner = count = 0
        for kind, entry in ledger.entries(self.referred, ANNOTATION):
            if kind == self.referred:
                owner += 1
                continue
            count += 1
            category = ledger.class_of(entry.pop("label")) + 1
            head = {"id": count, "category_id": category, "iscrowd": 0, refers: owner}
            _put_item(file, {**head, **entry}, count)
            if count % LINES_AT_ONCE == 0:
                yield

    @property
    @abstractmethod
    def reference(self) -> str:
        """The name of what an annotation belongs to, in the annotation."""


class CocoWriter(_AnnotationsWriter):
    """COCO instances, one image for each page with masks.

    https://cocodataset.org/#format-data; the RLE is the uncompressed one, which ``pycocotools``
    reads (``annToRLE``). ``track_id`` is the object's number in its task.
    """

    referred = "images"
    reference = "image_id"

    def page(self, media: Media, page: MaskPage, picture: str | None, to: Pages) -> None:
        size = {"width": page.width, "height": page.height}
        name = picture or media.names[page.index]
        to.entry(self.referred, {"file_name": name, **size, **media.place(page.index)})
        for each in page.masks:
            owner = {"label": label_of(each), "track_id": each.track}
            to.entry(ANNOTATION, {**owner, **self.shape(each.mask, to), **about(each)})


class YoutubeVisWriter(_AnnotationsWriter):
    """As YouTube-VIS has it: one annotation for each object of a video, with a segmentation, box
    and area for each frame, null where the object is absent.

    https://youtube-vos.org/dataset/vis/
    """

    referred = "videos"
    reference = "video_id"
    every_frame = True
    jpeg_only = True

    def begin(self) -> None:
        self._size: tuple[int, int] | None = None
        self._pictures: dict[int, str] = {}
        self._tracks: dict[int, tuple[ObjectMask, dict[int, dict[str, Any]]]] = {}

    def picture(self, media: Media, index: int) -> str:
        return f"JPEGImages/{sequence_name(media)}/{frame_file(media, index)}"

    def page(self, media: Media, page: MaskPage, picture: str | None, to: Pages) -> None:
        """All frames of a video have one size: that of its first page with masks."""
        if picture is not None:
            self._pictures[page.index] = picture.removeprefix("JPEGImages/")
        if not page.masks:
            return
        self._size = self._size or (page.width, page.height)
        for each in page.masks:
            mask = resize_mask(each.mask, *self._size)
            if mask.any():
                _, frames = self._tracks.setdefault(each.track, (each, {}))
                frames[page.index] = {**self.shape(mask, to), "origin": each.origin}

    def end(self, media: Media, to: Pages) -> None:
        if self._size is not None:
            to.entry(self.referred, self._video(media, self._size))
        for track, (first, found) in sorted(self._tracks.items()):
            frames = [found.get(index, {}) for index in media.names]
            entry = {
                "label": label_of(first),
                "track_id": track,
                "object": first.object_id,
                "segmentations": [frame.get("segmentation") for frame in frames],
                "bboxes": [frame.get("bbox") for frame in frames],
                "areas": [frame.get("area") for frame in frames],
                "origins": [frame.get("origin") for frame in frames],
            }
            to.entry(ANNOTATION, entry)

    def _video(self, media: Media, size: tuple[int, int]) -> dict[str, Any]:
        names = [self._pictures.get(index, name) for index, name in media.names.items()]
        return {
            "width": size[0],
            "height": size[1],
            "length": len(names),
            "file_names": names,
            "task": media.task,
            "tag": media.tag,
            "indices": list(media.names),
        }


def _put(file: IO[bytes], text: str) -> None:
    file.write(text.encode())


def _put_item(file: IO[bytes], item: Mapping[str, Any], number: int) -> None:
    _put(file, (",\n" if number > 1 else "\n") + json.dumps(item, separators=(",", ":")))
