"""The formats by name, and those of which every page or medium has a file of its own."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from backend.export.coco import CocoWriter, YoutubeVisWriter
from backend.export.davis import DavisWriter, paint
from backend.export.ledger import Ledger, Pages
from backend.export.masks import Kind, MaskPage, Media
from backend.export.writer import LINES_AT_ONCE, Writer, about, page_name, sequence_name
from backend.export.yolo import YoloWriter, csv_lines
from backend.labelstudio.brush_rle import encode_brush
from backend.runs.command_line import CommandError

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
