"""Writes the generated parts of the documentation: docs/settings.md, and the steps of the demo,
which the overview of the backend shows, too.

``python docs/generate.py`` rewrites them; ``--check`` fails if one is out of date.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from backend.settings import Settings  # noqa: E402
from demo.guide import HOW, PHOTOS, WALKS, as_html, as_markdown  # noqa: E402

START, END = "<!-- steps: demo/guide.py -->", "<!-- end of steps -->"

HEAD = """# Settings

Environment variables, read once at the start. `python -m backend settings` prints the values in
effect, with secrets hidden. Each secret may come from a file instead: `LABEL_STUDIO_API_KEY_FILE`,
`BASIC_AUTH_PASS_FILE`, `AUTH_TOKEN_FILE`, `DETECTOR_PASS_FILE`. The five that you need are in
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


def pages() -> dict[Path, str]:
    """The pages with generated parts, as they must be."""
    walks = "\n\n".join(f"### {walk.title.capitalize()}\n\n{as_markdown(walk)}" for walk in WALKS)
    return {
        ROOT / "docs/settings.md": f"{HEAD}{settings_tables()}\n",
        ROOT / "docs/annotating.md": with_steps("docs/annotating.md", f"{HOW}\n\n{walks}"),
        ROOT / "backend/web/templates/first_steps.html": first_steps(),
        ROOT / "README.md": with_steps("README.md", as_markdown(PHOTOS)),
    }


def first_steps() -> str:
    """The steps for the backend's overview."""
    walks = (f"<h3>{walk.title.capitalize()}</h3>\n{as_html(walk)}\n" for walk in WALKS)
    return "{# Written by docs/generate.py from demo/guide.py. #}\n" + "".join(walks)


def with_steps(page: str, steps: str) -> str:
    """A page with ``steps`` between its marks."""
    before, found, rest = (ROOT / page).read_text(encoding="utf-8").partition(START)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"{page} has no {START}...{END}")
    return f"{before}{START}\n\n{steps}\n\n{END}{after}"


def main() -> int:
    """Rewrite or check; returns the exit code."""
    wanted = pages()
    if "--check" in sys.argv[1:]:
        return int(any(path.read_text("utf-8") != text for path, text in wanted.items()))
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
