"""Tables of measurements in documents that hold other text as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_section(path: Path | None, name: str, lines: Sequence[str]) -> None:
    """Print lines, and put them between ``<!-- name -->`` and ``<!-- end of name -->`` of a
    document, if one is given."""
    text = "\n".join(lines)
    print(text)
    if path is None:
        return
    before, found, rest = path.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, ended, after = rest.partition(f"<!-- end of {name} -->")
    if not found or not ended:
        raise SystemExit(f"{path} has no section {name}")
    end = f"<!-- end of {name} -->"
    path.write_text(f"{before}{found}{text}\n{end}{after}", encoding="utf-8")
