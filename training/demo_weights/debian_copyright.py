"""Per-file licences from a Debian machine-readable copyright file (DEP-5)."""

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

_SHIPPABLE = re.compile(
    r"(public-domain|CC0|CC-BY-\d|Apache-2|OFL|SIL|Expat|MIT)(?!.*\band\b.*GPL)", re.IGNORECASE
)


@dataclass(frozen=True)
class FileLicence:
    """Who made a file and under which licence it comes."""

    licence: str
    copyright: str


def is_shippable(licence: str) -> bool:
    """Whether weights trained on material under this licence may be shipped as ours are."""
    return _SHIPPABLE.match(licence) is not None


def parse(path: Path) -> list[tuple[str, FileLicence]]:
    """Read ``Files`` paragraphs: (pattern, licence) in the order of the file.

    Raises:
        OSError: the file cannot be read.
    """
    rules = []
    for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        fields = _fields(paragraph)
        if "Files" not in fields or "License" not in fields:
            continue
        licence = FileLicence(
            licence=fields["License"].split("\n")[0].strip(),
            copyright=" ".join(fields.get("Copyright", "").split()),
        )
        rules += [(pattern, licence) for pattern in fields["Files"].split()]
    return rules


def licence_of(name: str, rules: list[tuple[str, FileLicence]]) -> FileLicence | None:
    """The last paragraph whose pattern matches decides, as the format says."""
    found = None
    for pattern, licence in rules:
        if fnmatch.fnmatchcase(name, pattern):
            found = licence
    return found


def _fields(paragraph: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.split("\n"):
        head = re.match(r"([A-Za-z-]+):\s*(.*)", line)
        if head and not line.startswith(" "):
            name = head.group(1)
            fields[name] = head.group(2)
        elif name:
            fields[name] += "\n" + line.strip()
    return fields
