"""The formats by name, and all but COCO's: DAVIS, YOLO, and those of which every page or medium has
a file of its own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from backend.export.coco import CocoWriter, YoutubeVisWriter
from backend.export.ledger import Ledger, Pages
from backend.export.masks import Kind, MaskPage, Media, ObjectMask
from backend.export.polygons import LEAST_IOU, yolo_polygons
from backend.export.writer import (
    LINES_AT_ONCE,
    Options,
    Writer,
    about,
    flat_name,
    frame_file,
    label_of,
    page_name,
    sequence_name,
)
from backend.labelstudio.brush_rle import encode_brush
from backend.runs.command_line import CommandError

RESOLUTION = "Full-Resolution"  # the folder of what was not scaled to 480 rows
MAX_OBJECTS = 254  # 255 means "not known" to what reads the format


class DavisWriter(Writer):
    """Of every frame a PNG of 8 bits with DAVIS's palette, whose values are the numbers of the
    objects, 0 the background; where they overlap the smaller is on top. ``ImageSets/2017`` says
    which sequences train and validate, ``meta.json`` what the objects are, as YouTube-VOS has it.

    https://davischallenge.org/davis2017/code.html
    """

    every_frame = True
    jpeg_only = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._palette = davis_palette()

    def begin(self) -> None:
        self._objects: dict[int, tuple[ObjectMask, list[str]]] = {}

    def picture(self, media: Media, index: int) -> str:
        return f"JPEGImages/{RESOLUTION}/{sequence_name(media)}/{frame_file(media, index)}"

    def page(self, media: Media, page: MaskPage, picture: str | None, to: Pages) -> None:
        frame = frame_file(media, page.index)
        name = f"Annotations/{RESOLUTION}/{sequence_name(media)}/{frame}.png"
        for each in page.masks:
            if each.track > MAX_OBJECTS:
                raise CommandError(
                    f"task {media.task} has more than {MAX_OBJECTS} objects: use coco."
                )
            self._objects.setdefault(each.track, (each, []))[1].append(frame)
        values = np.zeros((page.height, page.width), np.uint8)
        paint(values, page)
        from PIL import Image  # a decoder too: the service, which imports this module, has none

        image = Image.fromarray(values)
        image.putpalette(self._palette)
        png = io.BytesIO()
        image.save(png, "PNG")
        to.file(name, png.getvalue())

    def end(self, media: Media, to: Pages) -> None:
        objects = {
            str(track): {"category": label_of(first), "frames": frames, **about(first)}
            for track, (first, frames) in sorted(self._objects.items())
        }
        first = next(iter(media.names))
        entry = {
            "name": sequence_name(media),
            "split": self.options.split(media, first),
            "task": media.task,
            "tag": media.tag,
            str(media.kind): {frame_file(media, index): index for index in media.names},
            "objects": objects,
        }
        if objects:
            to.entry("sequence", entry)
            to.summary[str(entry["split"])] += 1

    def close(self, ledger: Ledger) -> Iterator[None]:
        with ledger.outlet.open("meta.json") as file:
            file.write(b'{"videos": {')
            for number, entry in enumerate(self._sequences(ledger)):
                name = entry.pop("name")
                text = f"{',' if number else ''}\n{json.dumps(name)}: {json.dumps(entry)}"
                file.write(text.encode())
                if number % LINES_AT_ONCE == 0:
                    yield
            file.write(b"\n}}\n")
        for split in ("train", "val"):
            with ledger.outlet.open(f"ImageSets/2017/{split}.txt") as file:
                for entry in self._sequences(ledger):
                    if entry["split"] == split:
                        file.write(f"{entry['name']}\n".encode())
            yield

    def _sequences(self, ledger: Ledger) -> Iterator[dict[str, Any]]:
        for _, entry in ledger.entries("sequence"):
            yield entry


def paint(values: np.ndarray, page: MaskPage) -> None:
    """Give the pixels of every object its number; of two that overlap the smaller is on top."""
    for each in sorted(page.masks, key=lambda each: -np.count_nonzero(each.mask)):
        values[each.mask] = each.track


def davis_palette() -> list[int]:
    """The colours of DAVIS's PNGs, those of Pascal VOC: the bits of a number, three at a time, are
    the highest bits of red, green and blue."""
    colours = []
    for number in range(256):
        for channel in range(3):
            bits = [(number >> (3 * level + channel)) & 1 for level in range(8)]
            colours.append(sum(bit << (7 - level) for level, bit in enumerate(bits)))
    return colours


_PICTURES = (
    "file", "split", "media", "task", "tag", "page", "frame", "time", "width", "height",
)  # fmt: skip
_OBJECTS = ("file", "line", "class", "track", "label", "object", "origin", "score", "area")


class YoloWriter(Writer):
    """YOLO's segments: of each page a text file, of each object a line, its class and then its
    outline in shares of width and height.

    https://docs.ultralytics.com/datasets/segment/
    """

    def picture(self, media: Media, index: int) -> str:
        return f"images/{self.options.split(media, index)}/{flat_name(media, index)}"

    def page(self, media: Media, page: MaskPage, picture: str | None, to: Pages) -> None:
        split = self.options.split(media, page.index)
        name = f"labels/{split}/{flat_name(media, page.index)}.txt"
        lines: list[str] = []
        for each in page.masks:
            number = to.class_of(label_of(each))
            rings, fits = yolo_polygons(each.mask, self.options.detail)
            to.summary["rough"] += fits < LEAST_IOU
            to.summary["apart"] += len(rings) > 1
            row = {"class": number, "track": each.track, "label": label_of(each), **about(each)}
            row |= {"file": name, "area": int(each.mask.sum())}
            for ring in rings:
                shares = (ring / (page.width, page.height)).ravel()
                lines.append(" ".join([str(number), *(f"{share:.7f}" for share in shares)]))
                to.entry("object", {**row, "line": len(lines)})
        to.file(name, "".join(f"{line}\n" for line in lines).encode())
        place = {**media.place(page.index), "media": media.names[page.index], "split": split}
        size = {"width": page.width, "height": page.height}
        to.entry(
            "picture", {"file": picture or f"{self.picture(media, page.index)}.*", **place, **size}
        )
        to.summary[split] += 1

    def close(self, ledger: Ledger) -> Iterator[None]:
        names = "".join(
            f"  {number}: {json.dumps(label, ensure_ascii=False)}\n"
            for number, label in enumerate(ledger.classes())
        )
        with ledger.outlet.open("data.yaml") as file:
            file.write(f"train: images/train\nval: images/val\nnames:\n{names}".encode())
        yield from _table(ledger, "pictures.csv", _PICTURES, "picture")
        yield from _table(ledger, "objects.csv", _OBJECTS, "object")


def _table(ledger: Ledger, name: str, columns: Sequence[str], kind: str) -> Iterator[None]:
    with ledger.outlet.open(name) as file:
        file.write(csv_lines(columns, [dict(zip(columns, columns, strict=True))]))
        for number, (_, row) in enumerate(ledger.entries(kind), 1):
            file.write(csv_lines(columns, [row]))
            if number % LINES_AT_ONCE == 0:
                yield


def csv_lines(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows of a CSV file."""
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


MAX_TRACKS = 65535  # a PNG of 16 bits tells that many objects apart


class PngWriter(Writer):
    """One PNG for each page, 16 bits grey: 0 is background, else the object's number in its task.
    ``legend.csv`` says what the numbers are.

    Where objects overlap the smaller one is on top.
    """

    COLUMNS = (
        "file", "value", "label", "task", "tag", "page", "frame", "time", "media", "object",
        "origin", "score", "area",
    )  # fmt: skip

    def page(self, media: Media, page: MaskPage, picture: str | None, to: Pages) -> None:
        values = np.zeros((page.height, page.width), np.uint16)
        name = page_file(media, page.index, ".png")
        if max(each.track for each in page.masks) > MAX_TRACKS:
            raise CommandError(f"task {media.task} has more than {MAX_TRACKS} objects: use coco.")
        shown = picture or media.names[page.index]
        place = {**media.place(page.index), "media": shown, "file": name}
        for each in page.masks:
            row = {**about(each), "value": each.track, "label": each.label}
            to.entry("mask", {**place, **row, "area": int(np.count_nonzero(each.mask))})
        paint(values, page)
        done, data = cv2.imencode(".png", values)
        if not done:
            raise CommandError(f"OpenCV cannot write a PNG of {page.width} x {page.height}.")
        to.file(name, data.tobytes())

    def close(self, ledger: Ledger) -> Iterator[None]:
        with ledger.outlet.open("legend.csv") as file:
            file.write(
                csv_lines(self.COLUMNS, [dict(zip(self.COLUMNS, self.COLUMNS, strict=True))])
            )
            for number, (_, row) in enumerate(ledger.entries("mask"), 1):
                file.write(csv_lines(self.COLUMNS, [row]))
                if number % LINES_AT_ONCE == 0:
                    yield


class NpzWriter(Writer):
    """One npz for each page: ``masks`` bool [N, H, W], ``tracks`` int32 [N], and, [N] as text,
    ``labels``, ``objects``, ``origins``; ``scores`` float32 [N], NaN where none is known; ``place``
    the JSON of where the page is."""

    def page(self, media: Media, page: MaskPage, picture: str | None, to: Pages) -> None:
        place = {**media.place(page.index), "media": picture or media.names[page.index]}
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
        to.file(page_file(media, page.index, ".npz"), buffer.getvalue())


class BrushWriter(Writer):
    """One JSON for each medium: Label Studio's brush results, to be read by what reads those, with
    ``track``, ``origin`` and the place of the page beside them."""

    def begin(self) -> None:
        self._results: list[dict[str, Any]] = []

    def page(self, media: Media, page: MaskPage, picture: str | None, to: Pages) -> None:
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
                **about(each),
                **media.place(page.index),
            }
            if media.kind is Kind.SEQUENCE:
                result["item_index"] = page.index
            self._results.append(result)

    def end(self, media: Media, to: Pages) -> None:
        to.file(f"{sequence_name(media)}.json", json.dumps(self._results).encode())


WRITERS: dict[str, type[Writer]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "davis": DavisWriter,
    "youtube-vis": YoutubeVisWriter,
    "png": PngWriter,
    "npz": NpzWriter,
    "brush": BrushWriter,
}
"""By name of the format."""


def page_file(media: Media, index: int, suffix: str) -> str:
    """Where the masks of a page are, below the folder of the export."""
    return f"task_{media.task}/{page_name(media, index)}{suffix}"
