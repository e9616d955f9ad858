"""One way to print a table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown, with columns as wide as they must be."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def earlier_rows(
    path: Path | None, head: Sequence[str], renewed: Collection[str]
) -> list[list[str]]:
    """The rows of a table in a document of an earlier run that are not measured anew.

    Args:
        path: of the document; None, or a file that is not there, for no rows.
        head: of the table; rows of another one are left out.
        renewed: first cells of the rows that are measured anew.
    """
    if path is None or not path.exists():
        return []
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    if list(head) not in rows:
        return []
    below = takewhile(bool, rows[rows.index(list(head)) + 2 :])  # up to the end of this table
    return [row for row in below if row[0] not in renewed]
