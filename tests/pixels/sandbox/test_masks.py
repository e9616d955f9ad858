"""The masks that regions hold, decoded in other processes: what they cover, and no fault that
spreads."""

from __future__ import annotations

import ast
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.read_results import (
    Bitmask,
    BrushStrokes,
    UnreadableMask,
    rasterise,
    read_geometry,
)
from backend.pixels.sandbox.image_decoding import ImageDecoder
from benchmarks.support.fuzz_masks import HEIGHT, WIDTH, masks
from tests.pixels.sandbox.conftest import FAULTY
from tests.waiting import PATIENCE

BACKEND = Path(__file__).parents[3] / "backend"
# Where bytes that others wrote are decoded; only decoding processes call what stands there.
DECODERS = {"images.py", "serve_images.py", "brush_rle.py", "containers.py"}
SOME = np.arange(7 * 11).reshape(7, 11) % 5 == 0


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    made = ImageDecoder(max_pixels=1_000_000, warm=1, seconds=PATIENCE)
    yield made
    made.close()


@pytest.fixture
def faulty() -> Iterator[ImageDecoder]:
    made = ImageDecoder(max_pixels=1_000_000, warm=1, seconds=PATIENCE, module=FAULTY)
    yield made
    made.close()


def png(image: Image.Image, **options: object) -> Bitmask:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return Bitmask(file.getvalue())


def with_alpha(alpha: np.ndarray) -> Image.Image:
    image = Image.new("RGBA", alpha.shape[::-1], (0, 0, 0, 0))
    image.putalpha(Image.fromarray(alpha))
    return image


GREY = Image.fromarray(SOME * np.uint8(200))
BITMASKS = {
    "black on transparent": png(with_alpha(SOME * np.uint8(255))),
    "hardly opaque": png(with_alpha(SOME.astype(np.uint8))),
    "grey": png(GREY),
    "black and white": png(GREY.convert("1")),
    "grey with alpha": png(with_alpha(SOME * np.uint8(255)).convert("LA")),
    "colours": png(GREY.convert("RGB")),
    "16 bits": png(Image.fromarray(SOME * np.uint16(1))),
    "palette": png(GREY.convert("P")),
    "palette with a transparent colour": png(GREY.convert("P"), transparency=0),
    "several frames": png(GREY, save_all=True, append_images=[GREY.convert("1")]),
    "turned by EXIF, which no mask heeds": png(GREY, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"
                                               b"\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BITMASKS)
def test_what_a_bitmask_covers(decoder: ImageDecoder, kind: str) -> None:
    found = decoder.masks()(BITMASKS[kind])
    assert found.dtype == bool
    assert np.array_equal(found, SOME)


def test_what_a_brush_covers(decoder: ImageDecoder) -> None:
    big = np.random.default_rng(0).random((1_000, 1_001)) < 0.1
    for mask in (SOME, big):
        brush = BrushStrokes(bytes(encode_brush(mask)), mask.shape[1], mask.shape[0])
        assert np.array_equal(decoder.masks()(brush), mask)


def test_what_is_no_mask_says_why(decoder: ImageDecoder) -> None:
    decode = decoder.masks()
    jpeg = io.BytesIO()
    GREY.save(jpeg, "JPEG")
    with pytest.raises(UnreadableMask, match="not an image of a known format"):
        decode(Bitmask(jpeg.getvalue()))
    with pytest.raises(UnreadableMask, match="damaged"):
        decode(Bitmask(BITMASKS["grey"].png[:50]))
    with pytest.raises(UnreadableMask, match="ends before the picture is complete"):
        decode(BrushStrokes(bytes(encode_brush(SOME))[:9], 11, 7))
    assert np.array_equal(decode(BITMASKS["grey"]), SOME)
    assert decoder.failures == 0


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


@pytest.mark.parametrize("second", [(2**31 - 1, 2**31 - 1), (30_000, 3_000)])
def test_a_second_header_buys_no_memory(decoder: ImageDecoder, second: tuple[int, int]) -> None:
    body = BITMASKS["grey"].png
    header = struct.pack(">II", *second) + b"\x08\x06\0\0\0"
    attack = body[:33] + chunk(b"acTL", bytes(8)) + chunk(b"IHDR", header) + body[33:]
    with suppress(UnreadableMask):
        assert decoder.masks()(Bitmask(attack)).shape == SOME.shape  # the first one counts
    assert np.array_equal(decoder.masks()(BITMASKS["grey"]), SOME)


@pytest.mark.parametrize("claimed", [(2**31 - 1, 2**31 - 1), (10_001, 10_000), (0, 5)])
def test_a_size_that_no_mask_has_is_refused_before_anything_is_decoded(
    claimed: tuple[int, int],
) -> None:
    def decode(encoded: object) -> np.ndarray:
        pytest.fail("it was to be decoded")

    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">II", *claimed) + b"\x08\x06\0\0\0")
    for encoded in (Bitmask(body), BrushStrokes(b"\0" * 20, *claimed)):
        with pytest.raises(UnreadableMask, match="outside 1 to"):
            rasterise(encoded, 10, 10, decode)


@pytest.mark.parametrize(("fault", "told"), [("crash", "crash"), ("eat", "more memory")])
def test_only_the_mask_that_ends_its_decoder_is_lost(
    faulty: ImageDecoder, fault: str, told: str
) -> None:
    decode = faulty.masks()
    assert np.array_equal(decode(BITMASKS["grey"]), SOME)
    with pytest.raises(UnreadableMask, match=told):
        decode(Bitmask(f"{fault}:".encode()))
    assert np.array_equal(decode(BITMASKS["grey"]), SOME)
    assert faulty.failures == 1


def test_five_hundred_masks_cost_few_processes(faulty: ImageDecoder) -> None:
    """One process for all that are well; of those that end theirs, the first three."""
    decode = faulty.masks()
    for _ in range(250):
        assert np.array_equal(decode(BITMASKS["palette"]), SOME)
        assert np.array_equal(decode(BITMASKS["grey"]), SOME)
    assert faulty.failures == 0
    for number in range(500):
        with pytest.raises(UnreadableMask, match="crash"):
            decode(Bitmask(f"crash:{number}".encode()))
    assert faulty.failures == 3
    assert np.array_equal(faulty.masks()(BITMASKS["grey"]), SOME)  # the next request


def test_a_mask_is_decoded_once_however_often_it_is_asked_for(faulty: ImageDecoder) -> None:
    decode = faulty.masks()
    for _ in range(5):
        with pytest.raises(UnreadableMask, match="crash"):
            decode(Bitmask(b"crash:"))
    assert faulty.failures == 1


def test_masks_have_a_time_for_all_of_them(faulty: ImageDecoder) -> None:
    with pytest.raises(UnreadableMask, match="no time left"):
        faulty.masks(0.0)(BITMASKS["grey"])
    with pytest.raises(UnreadableMask, match="too long"):
        faulty.masks(1.0)(Bitmask(b"hang:"))


def test_broken_masks_of_all_kinds(decoder: ImageDecoder) -> None:
    """A few of those that ``benchmarks/load/fuzz.py`` sends."""
    read = 0
    for value in islice(masks(seed=1), 1_000):
        try:
            geometry = read_geometry(value, WIDTH, HEIGHT)
            found = rasterise(geometry, WIDTH, HEIGHT, decoder.masks())
        except ValueError as error:
            assert str(error)
        else:
            assert (found.shape, found.dtype) == ((HEIGHT, WIDTH), bool)
            read += 1
    assert 100 < read < 900


def test_nothing_in_the_serving_process_decodes_what_others_wrote() -> None:
    """Decoders are called in the files of the decoding processes only."""
    called = {
        f"{path.name}: {name}"
        for path in BACKEND.rglob("*.py")
        if path.name not in DECODERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for name in [ast.unparse(node.func)]
        if name.rpartition(".")[2] in {"imdecode", "imread", "decode_brush", "opened_image"}
        or name in {"Image.open", "av.open"}
    }
    assert called == set()
