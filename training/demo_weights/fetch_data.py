"""Fetch the training pictures and pack them into one file with a manifest.

    python -m training.demo_weights.fetch_data [--data DIRECTORY]

Needs ``apt-get`` and ``dpkg-deb`` (a Debian system) and ``npm``. Writes ``pieces.bin``
(raw pixels one after the other) and ``manifest.csv`` (one row per picture: kind, family,
split, package, file, licence, attribution, place and shape in ``pieces.bin``).
"""

import argparse
import csv
import logging
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from backend.files import replacing
from training.demo_weights.library import DEFAULT_DIRECTORY, MANIFEST, PIXELS
from training.demo_weights.sources import SOURCES, Source

_log = logging.getLogger(__name__)

_COLUMNS = (
    "kind",
    "family",
    "split",
    "package",
    "file",
    "licence",
    "attribution",
    "offset",
    "height",
    "width",
    "channels",
)


def unpack(source: Source, directory: Path) -> Path:
    """Download one package with its registry's client and unpack it (once).

    Raises:
        subprocess.CalledProcessError: the client failed; its message is on standard error.
    """
    name = source.package.replace("/", "_").replace("@", "")
    target = directory / "unpacked" / name
    if target.is_dir():
        return target
    downloads = directory / "downloads" / name
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir(parents=True)
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if source.registry == "debian":
        _run(["apt-get", "download", source.package], downloads)
        _run(["dpkg-deb", "-x", str(_only_file(downloads)), str(partial)], downloads)
    else:
        _run(["npm", "pack", f"{source.package}@{source.version}"], downloads)
        shutil.unpack_archive(_only_file(downloads), partial, format="gztar", filter="data")
    partial.rename(target)
    return target


def pack(directory: Path) -> Counter[str]:
    """Extract all sources into ``pieces.bin`` and ``manifest.csv``; returns counts by kind."""
    counts: Counter[str] = Counter()
    pixels, manifest = directory / PIXELS, directory / MANIFEST
    with (
        replacing(pixels) as partial,
        partial.open("wb") as blob,
        manifest.open("w", newline="", encoding="utf-8") as table,
    ):
        writer = csv.writer(table)
        writer.writerow(_COLUMNS)
        for source in SOURCES:
            for piece, image in source.extract(unpack(source, directory)):
                split = "held-out" if piece.held_out else "train"
                writer.writerow(
                    (
                        piece.kind,
                        piece.family,
                        split,
                        piece.package,
                        piece.file,
                        piece.licence,
                        piece.attribution,
                        blob.tell(),
                        *image.shape,
                    )
                )
                blob.write(image.tobytes())
                counts[f"{piece.kind} {split}"] += 1
            _log.info("%s done: %s", source.package, dict(counts))
    return counts


def _only_file(directory: Path) -> Path:
    (file,) = directory.iterdir()
    return file


def _run(command: list[str], directory: Path) -> None:
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY)
    directory = parser.parse_args().data
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    directory.mkdir(parents=True, exist_ok=True)
    pack(directory)


if __name__ == "__main__":
    main()
