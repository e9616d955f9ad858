"""Writes the generated part of the documentation: docs/settings.md.

``python docs/generate.py`` rewrites it; ``--check`` fails if it is out of date.
"""

from __future__ import annotations

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


def settings_table() -> str:
    """A Markdown table of every variable, its default and its meaning."""
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    lines += [
        f"| `{variable}` | {f'`{value}`' if value else ''} | {meaning} |"
        for variable, value, meaning in Settings().rows()
    ]
    return "\n".join(lines)


def main() -> int:
    """Rewrite or check; returns the exit code."""
    path = ROOT / "docs" / "settings.md"
    wanted = f"{HEAD}{settings_table()}\n"
    if "--check" in sys.argv[1:]:
        return 0 if wanted == path.read_text(encoding="utf-8") else 1
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
