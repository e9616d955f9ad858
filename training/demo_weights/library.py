"""The fetched pictures, read from disk as they are needed."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PIXELS = "pieces.bin"
MANIFEST = "manifest.csv"
DEFAULT_DIRECTORY = Path("~/.cache/label-studio-sam2/training-data").expanduser()


@dataclass(frozen=True)
class _Entry:
    family: str
    offset: int
    shape: tuple[int, int, int]


class Library:
    """Pictures of one split by kind, memory-mapped: processes share the page cache.

    Args:
        directory: what :mod:`training.demo_weights.fetch_data` wrote.
        split: "train" or "held-out".

    Raises:
        FileNotFoundError: the directory holds no fetched pictures.
    """

    def __init__(self, directory: Path, split: str) -> None:
        manifest = directory / MANIFEST
        if not manifest.is_file():
            raise FileNotFoundError(
                f"{manifest} is missing; run: "
                f"python -m training.demo_weights.fetch_data --data {directory}"
            )
        self._pixels = np.memmap(directory / PIXELS, dtype=np.uint8, mode="r")
        families: dict[str, dict[str, list[_Entry]]] = defaultdict(lambda: defaultdict(list))
        with manifest.open(newline="", encoding="utf-8") as table:
            for row in csv.DictReader(table):
                if row["split"] == split:
                    shape = (int(row["height"]), int(row["width"]), int(row["channels"]))
                    entry = _Entry(row["family"], int(row["offset"]), shape)
                    families[row["kind"]][row["family"]].append(entry)
        self._counts = {kind: sum(map(len, groups.values())) for kind, groups in families.items()}
        self._families = {kind: list(groups.values()) for kind, groups in families.items()}

    def count(self, kind: str) -> int:
        """Number of pictures of a kind."""
        return self._counts.get(kind, 0)

    def draw(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        """A random picture, uint8 ``[H, W, C]``: a random family first, then one of it.

        Raises:
            ValueError: there is none of that kind.
        """
        groups = self._families.get(kind)
        if not groups:
            raise ValueError(f"the library has no {kind!r} pictures")
        group = groups[rng.integers(len(groups))]
        entry = group[rng.integers(len(group))]
        size = int(np.prod(entry.shape))
        return self._pixels[entry.offset : entry.offset + size].reshape(entry.shape)
