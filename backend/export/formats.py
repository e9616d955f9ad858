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


def _segmentation(mask: Mask) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": run_lengths(mask)}


def _bbox(mask: Mask) -> list[int]:
    """x, y, width, height in pixels; zeros for an empty mask."""
    left, top, right, bottom = mask_bounds(mask) or (0, 0, 0, 0)
    return [left, top, right - left, bottom - top]


def _about(mask: ObjectMask) -> dict[str, Any]:
    score = None if mask.score is None else round(mask.score, 4)
    return {"object": mask.object_id, "origin": str(mask.origin), "score": score}


class _Categories:
    """Category ids from 1: labels of the label config first, others as they come."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._ids = {label: number for number, label in enumerate(labels, 1)}

    def id(self, label: str) -> int:
        return self._ids.setdefault(label or UNLABELLED, len(self._ids) + 1)

    def entries(self) -> list[dict[str, Any]]:
        return [{"id": number, "name": label} for label, number in self._ids.items()]


class _JsonFile:
    """``{"annotations": [...], ...}`` of any length: the annotations go to disk one by one."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, ExitStack()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._stack.enter_context(replacing(path))
            self._file: IO[str] = self._stack.enter_context(partial.open("w"))
            self._file.write('{"annotations": [')
        self.count = 0

    def add(self, annotation: Mapping[str, Any]) -> None:
        with writing(self._path):
            self._file.write(",\n" if self.count else "\n")
            json.dump(annotation, self._file, separators=(",", ":"))
        self.count += 1

    def close(self, others: Mapping[str, Any]) -> None:
        with writing(self._path):
            self._file.write("\n]")
            for name, value in others.items():
                self._file.write(f",\n{json.dumps(name)}: {json.dumps(value)}")
            self._file.write("}\n")
            self._stack.close()


class CocoWriter(Writer):
    """``annotations.json``: COCO instances, one image for each page with masks.

    https://cocodataset.org/#format-data; the RLE is the uncompressed one, which ``pycocotools``
    reads (``annToRLE``). ``track_id`` is the object's number in its task.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        super().__init__(folder, labels)
        self._file = _JsonFile(folder / "annotations.json")
        self._categories = _Categories(labels)
        self._images: list[dict[str, Any]] = []

    def page(self, media: Media, page: MaskPage) -> None:
        number = len(self._images) + 1
        size = {"width": page.width, "height": page.height}
        name = media.name(page.index)
        self._images.append({"id": number, "file_name": name, **size, **media.place(page.index)})
        for each in page.masks:
            self._file.add(
                {
                    "id": self._file.count + 1,
                    "image_id": number,
                    "category_id": self._categories.id(each.label),
                    "segmentation": _segmentation(each.mask),
                    "area": int(np.count_nonzero(each.mask)),
                    "bbox": _bbox(each.mask),
                    "iscrowd": 0,
                    "track_id": each.track,
                    **_about(each),
                }
            )

    def close(self) -> None:
        self._file.close({"images": self._images, "categories": self._categories.entries()})


class YoutubeVisWriter(Writer):
    """``annotations.json`` as YouTube-VIS has it: one annotation for each object of a video, with
    a segmentation, box and area for each frame, null where the object is absent.

    https://youtube-vos.org/dataset/vis/
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        super().__init__(folder, labels)
        self._file = _JsonFile(folder / "annotations.json")
        self._categories = _Categories(labels)
        self._videos: list[dict[str, Any]] = []
        self._size: tuple[int, int] | None = None
        self._objects: dict[int, ObjectMask] = {}
        self._found: dict[int, dict[int, tuple[dict[str, Any], list[int], int, str]]] = {}

    def page(self, media: Media, page: MaskPage) -> None:
        """All frames of a video have one size: that of its first page with masks."""
        self._size = self._size or (page.width, page.height)
        for each in page.masks:
            mask = resize_mask(each.mask, *self._size)
            if mask.any():
                self._objects.setdefault(each.track, each)
                area = int(np.count_nonzero(mask))
                found = (_segmentation(mask), _bbox(mask), area, str(each.origin))
                self._found.setdefault(each.track, {})[page.index] = found

    def end(self, media: Media) -> None:
        if self._size is None:
            return
        number = len(self._videos) + 1
        self._videos.append(
            {
                "id": number,
                "width": self._size[0],
                "height": self._size[1],
                "length": len(media.indices),
                "file_names": list(media.names),
                "task": media.task,
                "tag": media.tag,
                "indices": list(media.indices),
            }
        )
        for track, found in sorted(self._found.items()):
            frames = [found.get(index, (None, None, None, None)) for index in media.indices]
            self._file.add(
                {
                    "id": self._file.count + 1,
                    "video_id": number,
                    "category_id": self._categories.id(self._objects[track].label),
                    "segmentations": [frame[0] for frame in frames],
                    "bboxes": [frame[1] for frame in frames],
                    "areas": [frame[2] for frame in frames],
                    "origins": [frame[3] for frame in frames],
                    "iscrowd": 0,
                    "track_id": track,
                    "object": self._objects[track].object_id,
                }
            )
        self._size, self._objects, self._found = None, {}, {}

    def close(self) -> None:
        self._file.close({"videos": self._videos, "categories": self._categories.entries()})


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
        for each in sorted(page.masks, key=lambda each: -np.count_nonzero(each.mask)):
            if each.track > MAX_TRACKS:
                raise CommandError(
                    f"task {media.task} has more than {MAX_TRACKS} objects: use coco."
                )
            picture[each.mask] = each.track
        for each in page.masks:
            about = {**_about(each), "value": each.track, "label": each.label, "file": name}
            area = int(np.count_nonzero(each.mask))
            place = media.place(page.index)
            self._rows.writerow({**place, **about, "media": media.name(page.index), "area": area})
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
        found = page.masks
        place = {**media.place(page.index), "media": media.name(page.index)}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            masks=np.stack([each.mask for each in found]),
            tracks=np.array([each.track for each in found], np.int32),
            labels=np.array([each.label for each in found]),
            objects=np.array([each.object_id for each in found]),
            origins=np.array([str(each.origin) for each in found]),
            scores=np.array([_or_nan(each.score) for each in found], np.float32),
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


def _or_nan(score: float | None) -> float:
    return float("nan") if score is None else score


def _write(path: Path, content: bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
