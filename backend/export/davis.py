"""DAVIS 2017, which trackers train on and are measured with: palette PNGs in a folder for each
sequence."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from backend.export.ledger import Ledger, Pages
from backend.export.masks import MaskPage, Media, ObjectMask
from backend.export.writer import (
    LINES_AT_ONCE,
    Options,
    Writer,
    about,
    frame_file,
    label_of,
    sequence_name,
)
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
