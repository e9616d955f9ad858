"""Licences are read per file, variants stay together, resources are unpacked."""

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av import CodecContext, VideoFrame
from PIL import Image

from training.demo_weights.extraction import (
    FileLicence,
    Piece,
    cutout_from,
    file_licences,
    tone_mapped,
    wallpapers,
)
from training.demo_weights.qt_resources import read_resources

_COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2014, Somebody
License: GPL-3+

Files: images/bee.jpg
 images/toad.jpg
Copyright: John Doe
License: CC-BY-2.0
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "usr/share/doc/pictures"
    folder.mkdir(parents=True)
    (folder / "copyright").write_text(_COPYRIGHT, encoding="utf-8")
    return tmp_path


def test_each_pattern_comes_with_its_licence(package: Path):
    john = FileLicence("CC-BY-2.0", "John Doe")
    assert file_licences(package / "usr/share/doc/pictures/copyright") == [
        ("*", FileLicence("GPL-3+", "2014, Somebody")),
        ("images/bee.jpg", john),
        ("images/toad.jpg", john),
    ]


def test_pictures_are_taken_by_their_own_licence(package: Path):
    for name in ("toad", "cow"):
        Image.new("RGB", (8, 6)).save(package / f"{name}.jpg")
    [(piece, pixels)] = wallpapers(package)
    assert (piece.package, piece.file) == ("pictures", "toad.jpg")
    assert (piece.licence, piece.attribution) == ("CC-BY-2.0", "John Doe")
    assert pixels.shape == (6, 8, 3)


@pytest.mark.parametrize("licence", ["public-domain", "CC0-1.0", "CC-BY-4.0", "OFL-1.1", "Expat"])
def test_licences_that_allow_shipping(licence: str):
    assert FileLicence(licence, "").shippable


@pytest.mark.parametrize(
    "licence", ["GPL-2+", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "LGPL-3", "GFDL-1.2+", "free-art"]
)
def test_licences_that_do_not(licence: str):
    assert not FileLicence(licence, "").shippable


def _piece(family: str) -> Piece:
    return Piece(kind="cutout", family=family, package="p", file="f", licence="CC0-1.0")


def test_a_tenth_of_the_families_is_held_out_whatever_the_file():
    held_out = [_piece(f"family-{i}").held_out for i in range(2000)]
    assert 0.07 < np.mean(held_out) < 0.13
    assert _piece("clipart-apple").held_out == _piece("clipart-apple").held_out


def test_cutouts_are_trimmed_and_rectangles_and_scatter_refused():
    rgba = np.zeros((100, 100, 4), np.uint8)
    rows, columns = np.ogrid[:100, :100]
    disc = (rows - 50) ** 2 + (columns - 40) ** 2 < 30**2
    rgba[disc] = 255
    assert cutout_from(rgba).shape == (59, 59, 4)
    assert cutout_from(np.full((100, 100, 4), 255, np.uint8)) is None
    scattered = np.zeros((100, 100, 4), np.uint8)
    scattered[::10, ::3] = 255
    assert cutout_from(scattered) is None


def test_qt_resources_are_read_with_folders(tmp_path: Path):
    names = b""
    offsets = []
    for name in ("folder", "file.txt"):
        offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    packed = zlib.compress(b"hello")
    content = struct.pack(">I", 5) + packed
    data = struct.pack(">I", len(content)) + content
    tree = struct.pack(">IHII8x", 0, 2, 1, 1)
    tree += struct.pack(">IHII8x", offsets[0], 2, 1, 2)
    tree += struct.pack(">IHHHI8x", offsets[1], 1, 0, 0, 0)
    header = 20
    blob = b"qres" + struct.pack(
        ">4I", 2, header, header + len(tree), header + len(tree) + len(data)
    )
    path = tmp_path / "a.rcc"
    path.write_bytes(blob + tree + data + names)
    assert list(read_resources(path)) == [("folder/file.txt", b"hello")]


def test_other_files_are_no_qt_resources(tmp_path: Path):
    path = tmp_path / "a.rcc"
    path.write_bytes(b"PK\x03\x04" + bytes(20))
    with pytest.raises(ValueError, match="not a Qt resource collection"):
        list(read_resources(path))


@pytest.mark.parametrize("kind", ["half", "float"])
def test_bright_panoramas_are_read_whole(kind: str) -> None:
    """Numbers above 1 count: what is brighter than its neighbour stays so."""
    linear = np.full((8, 10, 3), 0.25, np.float32)
    linear[:, 5:] = (1.0, 2.0, 4.0)  # red, green, blue
    encoder = CodecContext.create("exr", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 10, 8, "gbrpf32le"
    encoder.time_base, encoder.options = Fraction(1), {"format": kind, "compression": "zip16"}
    frame = VideoFrame.from_ndarray(linear, format="gbrpf32le")
    frame.pts = 0
    exr = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    found = tone_mapped(exr)
    assert (found.shape, found.dtype) == ((8, 10, 3), np.uint8)
    dark, bright = found[0, 0].tolist(), found[0, 9].tolist()
    assert dark[0] == dark[1] == dark[2] < bright[0] < bright[1] < bright[2]
