"""Writes the generated part of the documentation: docs/settings.md.

``python docs/generate.py`` rewrites it; ``--check`` fails if it is out of date.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from backend.settings import Settings  # noqa: E402

HEAD = """# Settings

Environment variables, read once at the start. `python -m backend settings` prints the values in
effect, with secrets hidden. Each secret may come from a file instead: `LABEL_STUDIO_API_KEY_FILE`,
`BASIC_AUTH_PASS_FILE`, `AUTH_TOKEN_FILE`. The five that you need are in
[operating.md](operating.md#the-settings-that-you-need). This page is written by
`python docs/generate.py`.

"""


def settings_tables() -> str:
    """For each group a heading, and a table of its variables, their defaults and meanings."""
    parts = []
    for group, rows in itertools.groupby(Settings().rows(), key=lambda row: row.group):
        lines = [f"## {group}", "", "| variable | default | meaning |", "| --- | --- | --- |"]
        for row in rows:
            default = f"`{row.value}`" if row.value else ""
            lines.append(f"| `{row.variable}` | {default} | {row.meaning} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> int:
    """Rewrite or check; returns the exit code."""
    path = ROOT / "docs" / "settings.md"
    wanted = f"{HEAD}{settings_tables()}\n"
    if "--check" in sys.argv[1:]:
        return 0 if wanted == path.read_text(encoding="utf-8") else 1
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
