"""Files that hold masks over pages, with object and label."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from backend.export.folders import writing
from backend.export.masks import Kind, MaskPage, Media, ObjectMask, safe_name
from backend.files import replacing
from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.geometry import Mask, mask_bounds, resize_mask
from backend.runs.command_line import CommandError

UNLABELLED = "unlabelled"
MAX_TRACKS = 65535  # a PNG of 16 bits tells that many objects apart


class Writer(ABC):
    """Takes the pages of one medium after the other.

    Args:
        folder: where the files go.
        labels: of the label config, in its order.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._folder = folder

    @abstractmethod
    def page(self, media: Media, page: MaskPage) -> None:
        """Write the masks of a page."""

    def end(self, media: Media) -> None:  # noqa: B027 - most formats do nothing here
        """All pages of a medium have been written."""

    def close(self) -> None:  # noqa: B027 - likewise
        """Everything has been written."""


def run_lengths(mask: Mask) -> list[int]:
    """COCO's uncompressed RLE: lengths of runs of 0 and 1 in turn, beginning with 0 (the first
    may be 0), down the columns."""
    pixels = np.concatenate(([False], mask.T.ravel()))
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    edges = np.concatenate(([0], changes, [mask.size]))
    lengths: list[int] = np.diff(edges).tolist()
    return lengths


def _shape(mask: Mask) -> dict[str, Any]:
    """A mask that is not empty, as COCO has it; ``bbox`` is x, y, width, height in pixels."""
    left, top, right, bottom = mask_bounds(mask) or (0, 0, 0, 0)
    return {
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
        "area": int(np.count_nonzero(mask)),
        "bbox": [left, top, right - left, bottom - top],
    }


def _about(mask: ObjectMask) -> dict[str, Any]:
    score = None if mask.score is None else round(mask.score, 4)
    return {"object": mask.object_id, "origin": str(mask.origin), "score": score}


class _AnnotationsWriter(Writer):
    """``annotations.json`` of any length: the annotations go to disk one by one, then what they
    refer to. Category ids begin with 1: labels of the label config first, others as they come."""

    referred: str  # the name of what annotations refer to beside categories

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        super().__init__(folder, labels)
        self._categories = {label: number for number, label in enumerate(labels, 1)}
        self._referred: list[dict[str, Any]] = []
        self._count = 0
        self._path, self._stack = folder / "annotations.json", ExitStack()
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            partial = self._stack.enter_context(replacing(self._path))
            self._file: IO[str] = self._stack.enter_context(partial.open("w"))
            self._file.write('{"annotations": [')

    def _add(self, label: str, annotation: Mapping[str, Any]) -> None:
        category = self._categories.setdefault(label or UNLABELLED, len(self._categories) + 1)
        with writing(self._path):
            self._file.write(",\n" if self._count else "\n")
            self._count += 1
            entry = {"id": self._count, "category_id": category, "iscrowd": 0, **annotation}
            json.dump(entry, self._file, separators=(",", ":"))

    def close(self) -> None:
        categories = [{"id": number, "name": label} for label, number in self._categories.items()]
        with writing(self._path):
            self._file.write("\n]")
            for name, value in ((self.referred, self._referred), ("categories", categories)):
                self._file.write(f",\n{json.dumps(name)}: {json.dumps(value)}")
            self._file.write("}\n")
            self._stack.close()


class CocoWriter(_AnnotationsWriter):
    """``annotations.json``: COCO instances, one image for each page with masks.

    https://cocodataset.org/#format-data; the RLE is the uncompressed one, which ``pycocotools``
    reads (``annToRLE``). ``track_id`` is the object's number in its task.
    """

    referred = "images"

    def page(self, media: Media, page: MaskPage) -> None:
        number = len(self._referred) + 1
        size = {"width": page.width, "height": page.height}
        about = {"file_name": media.names[page.index], **size, **media.place(page.index)}
        self._referred.append({"id": number, **about})
        for each in page.masks:
            owner = {"image_id": number, "track_id": each.track}
            self._add(each.label, {**owner, **_shape(each.mask), **_about(each)})


class YoutubeVisWriter(_AnnotationsWriter):
    """``annotations.json`` as YouTube-VIS has it: one annotation for each object of a video, with
    a segmentation, box and area for each frame, null where the object is absent.

    https://youtube-vos.org/dataset/vis/
    """

    referred = "videos"

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        super().__init__(folder, labels)
        self._size: tuple[int, int] | None = None
        self._tracks: dict[int, tuple[ObjectMask, dict[int, dict[str, Any]]]] = {}

    def page(self, media: Media, page: MaskPage) -> None:
        """All frames of a video have one size: that of its first page with masks."""
        self._size = self._size or (page.width, page.height)
        for each in page.masks:
            mask = resize_mask(each.mask, *self._size)
            if mask.any():
                _, frames = self._tracks.setdefault(each.track, (each, {}))
                frames[page.index] = {**_shape(mask), "origin": each.origin}

    def end(self, media: Media) -> None:
        if self._size is None:
            return
        number = len(self._referred) + 1
        self._referred.append(
            {
                "id": number,
                "width": self._size[0],
                "height": self._size[1],
                "length": len(media.names),
                "file_names": list(media.names.values()),
                "task": media.task,
                "tag": media.tag,
                "indices": list(media.names),
            }
        )
        for track, (first, found) in sorted(self._tracks.items()):
            frames = [found.get(index, {}) for index in media.names]
            self._add(
                first.label,
                {
                    "video_id": number,
                    "track_id": track,
                    "object": first.object_id,
                    "segmentations": [frame.get("segmentation") for frame in frames],
                    "bboxes": [frame.get("bbox") for frame in frames],
                    "areas": [frame.get("area") for frame in frames],
                    "origins": [frame.get("origin") for frame in frames],
                },
            )
        self._size, self._tracks = None, {}


class PngWriter(Writer):
    """One PNG for each page, 16 bits grey: 0 is background, else the object's number in its task.
    ``legend.csv`` says what the numbers are.

    Where objects overlap the smaller one is on top.
    """

    COLUMNS = (
        "file", "value", "label", "task", "tag", "page", "frame", "time", "media", "object",
        "origin", "score", "area",
    )  # fmt: skip

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        super().__init__(folder, labels)
        self._legend = io.StringIO()
        self._rows = csv.DictWriter(self._legend, self.COLUMNS, lineterminator="\n")
        self._rows.writeheader()

    def page(self, media: Media, page: MaskPage) -> None:
        picture = np.zeros((page.height, page.width), np.uint16)
        name = page_file(media, page.index, ".png")
        if max(each.track for each in page.masks) > MAX_TRACKS:
            raise CommandError(f"task {media.task} has more than {MAX_TRACKS} objects: use coco.")
        place = {**media.place(page.index), "media": media.names[page.index], "file": name}
        for each in page.masks:
            about = {**_about(each), "value": each.track, "label": each.label}
            self._rows.writerow({**place, **about, "area": int(np.count_nonzero(each.mask))})
        for each in sorted(page.masks, key=lambda each: -np.count_nonzero(each.mask)):
            picture[each.mask] = each.track
        done, data = cv2.imencode(".png", picture)
        if not done:
            raise CommandError(f"OpenCV cannot write a PNG of {page.width} x {page.height}.")
        _write(self._folder / name, data.tobytes())

    def close(self) -> None:
        _write(self._folder / "legend.csv", self._legend.getvalue().encode())


class NpzWriter(Writer):
    """One npz for each page: ``masks`` bool [N, H, W], ``tracks`` int32 [N], and, [N] as text,
    ``labels``, ``objects``, ``origins``; ``scores`` float32 [N], NaN where none is known; ``place``
    the JSON of where the page is."""

    def page(self, media: Media, page: MaskPage) -> None:
        place = {**media.place(page.index), "media": media.names[page.index]}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            masks=np.stack([each.mask for each in page.masks]),
            tracks=np.array([each.track for each in page.masks], np.int32),
            labels=np.array([each.label for each in page.masks]),
            objects=np.array([each.object_id for each in page.masks]),
            origins=np.array([str(each.origin) for each in page.masks]),
            scores=np.array([each.score for each in page.masks], np.float32),  # None becomes NaN
            place=np.array(json.dumps(place)),
        )
        _write(self._folder / page_file(media, page.index, ".npz"), buffer.getvalue())


class BrushWriter(Writer):
    """One JSON for each medium: Label Studio's brush results, to be read by what reads those, with
    ``track``, ``origin`` and the place of the page beside them."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        super().__init__(folder, labels)
        self._results: list[dict[str, Any]] = []

    def page(self, media: Media, page: MaskPage) -> None:
        for each in page.masks:
            height, width = each.mask.shape
            labels = each.label.split("+") if each.label else []
            value = {"format": "rle", "rle": encode_brush(each.mask), "brushlabels": labels}
            result: dict[str, Any] = {
                "type": "brushlabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": value,
                "track": each.track,
                **_about(each),
                **media.place(page.index),
            }
            if media.kind is Kind.SEQUENCE:
                result["item_index"] = page.index
            self._results.append(result)

    def end(self, media: Media) -> None:
        name = f"task_{media.task}_{safe_name(media.tag)}.json"
        _write(self._folder / name, json.dumps(self._results).encode())
        self._results = []


WRITERS: dict[str, type[Writer]] = {
    "coco": CocoWriter,
    "png": PngWriter,
    "npz": NpzWriter,
    "brush": BrushWriter,
    "youtube-vis": YoutubeVisWriter,
}
"""By name of the format."""


def page_file(media: Media, index: int, suffix: str) -> str:
    """Where the masks of a page are, below the folder of the export."""
    name = safe_name(media.tag)
    if media.kind is not Kind.IMAGE:
        name += f"_{media.kind}_{index:06d}"
    return f"task_{media.task}/{name}{suffix}"


def _write(path: Path, content: bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
