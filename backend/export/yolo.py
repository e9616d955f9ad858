"""What Ultralytics trains on: a folder of pictures, one of label files, and ``data.yaml``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from backend.export.ledger import Ledger, Pages
from backend.export.masks import MaskPage, Media
from backend.export.polygons import LEAST_IOU, yolo_polygons
from backend.export.writer import LINES_AT_ONCE, Writer, about, flat_name, label_of

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
