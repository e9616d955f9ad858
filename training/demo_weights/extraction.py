"""Get pieces (cut-outs, photos, textures, silhouettes, matcaps) out of unpacked packages.

Every function takes the folder of an unpacked package and yields ``(Piece, pixels)``.
A piece's family joins what must not be split between training and held-out pictures:
colour variants of one drawing, the same emoji drawn by two foundries.
"""

import base64
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from debian.copyright import Copyright
from PIL import Image, ImageDraw, ImageFont

from training.demo_weights.qt_resources import read_resources

CUTOUT_SIDE = 256
PHOTO_SIDE = 640
_GLYPH_SIDE = 192
_MATCAP_SIDE = 128
_MAX_PER_FAMILY = 10
_HELD_OUT_PERCENT = 10

_SHIPPABLE = re.compile(
    r"(public-domain|CC0|CC-BY-\d|Apache-2|OFL|SIL|Expat|MIT)(?!.*\band\b.*GPL)", re.IGNORECASE
)
_COLOURS = frozenset(
    [
        *("red", "green", "blue", "yellow", "orange", "purple", "violet", "pink", "black"),
        *("white", "grey", "gray", "brown", "cyan", "magenta", "dark", "light", "gold"),
        *("golden", "silver", "small", "big", "large", "mini", "colored", "coloured", "color"),
        *("colour", "bw", "the", "simple", "icon", "and", "with", "for", "tango", "crystal"),
        *("theme", "flat", "lemon", "etiquette", "architetto"),
    ]
)


@dataclass(frozen=True)
class FileLicence:
    """Who made a file and under which licence it comes."""

    licence: str
    copyright: str

    @property
    def shippable(self) -> bool:
        """Whether weights trained on such material may be shipped as ours are."""
        return _SHIPPABLE.match(self.licence) is not None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One picture and its origin.

    Attributes:
        kind: "cutout" (RGBA), "photo" or "texture" (RGB), "matcap" (RGB, a shaded sphere)
            or "glyph" (one channel, 255 inside).
        family: pieces of one family fall on the same side of the split.
        package: registry name of the package.
        file: path inside the package.
        licence: as its package states it.
        attribution: the copyright line, where the package has one per file.
    """

    kind: str
    family: str
    package: str
    file: str
    licence: str
    attribution: str = ""

    @property
    def held_out(self) -> bool:
        """Whether the family is kept for evaluation, decided by a hash of its name."""
        digest = hashlib.sha256(self.family.encode()).digest()
        return int.from_bytes(digest[:4], "big") % 100 < _HELD_OUT_PERCENT


def openclipart(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """Cut-outs; names are ``<words>_<author>.png`` in folders of subjects."""
    counts: Counter[str] = Counter()
    for path in sorted((root / "usr/share/openclipart/png").rglob("*.png")):
        family = "clipart-" + _first_word(path.stem)
        if counts[family] >= _MAX_PER_FAMILY or path.is_symlink():
            continue
        try:
            image = Image.open(path)
        except Image.DecompressionBombError:
            continue  # a drawing of more than 178 megapixels adds nothing at 256 pixels
        image.thumbnail((4 * CUTOUT_SIDE, 4 * CUTOUT_SIDE))
        cutout = cutout_from(np.asarray(image.convert("RGBA")))
        if cutout is None:
            continue
        counts[family] += 1
        yield _piece(path, root, "cutout", family, "openclipart-png", "public-domain"), cutout


def noto_emoji(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """Colour emoji, rendered at the font's only bitmap size."""
    path = next(root.rglob("NotoColorEmoji.ttf"))
    font = ImageFont.truetype(str(path), 109)
    for code in (*range(0x2600, 0x27C0), *range(0x1F300, 0x1FB00)):
        image = Image.new("RGBA", (136, 128))
        ImageDraw.Draw(image).text((0, 0), chr(code), font=font, embedded_color=True)
        cutout = cutout_from(np.asarray(image))
        if cutout is not None:
            yield (
                _piece(
                    path,
                    root,
                    "cutout",
                    f"emoji-{code:x}",
                    "fonts-noto-color-emoji",
                    "Apache-2.0 / OFL-1.1",
                    part=f"U+{code:X}",
                ),
                cutout,
            )


def fluent_emoji(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """Emoji rendered in 3D; file names are code points joined by hyphens."""
    counts: Counter[str] = Counter()
    for path in sorted((root / "package/assets").glob("*.webp")):
        codes = path.stem.split("-")
        # Skin tones (1f3fb to 1f3ff) are variants of one drawing.
        if any(re.fullmatch(r"1f3f[b-f]", code) for code in codes[1:]):
            continue
        family = "emoji-" + codes[0]
        if counts[family] >= _MAX_PER_FAMILY:
            continue
        cutout = cutout_from(np.asarray(Image.open(path).convert("RGBA")))
        if cutout is None:
            continue
        counts[family] += 1
        yield _piece(path, root, "cutout", family, "@lobehub/fluent-emoji-3d", "MIT"), cutout


def gcompris(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """Photos and photographic cut-outs whose own licence, stated per file, is shippable."""
    package = "gcompris-qt-data"
    licences = file_licences(root / f"usr/share/doc/{package}/copyright")
    exact = {
        pattern.rsplit(".", 1)[0]: licence
        for pattern, licence in licences
        if "*" not in pattern and pattern.endswith((".jpg", ".jpeg", ".png", ".webp"))
    }
    for collection in sorted(root.rglob("*.rcc")):
        for name, contents in read_resources(collection):
            stem = "src/" + name.partition("/src/")[2].rsplit(".", 1)[0]
            licence = exact.get(stem)
            if not name.endswith((".webp", ".png", ".jpg")) or licence is None:
                continue
            if not licence.shippable:
                continue
            image = np.asarray(Image.open(io.BytesIO(contents)).convert("RGBA"))
            cutout = cutout_from(image)
            piece = Piece(
                kind="photo" if cutout is None else "cutout",
                family="gcompris-" + stem,
                package=package,
                file=f"{collection.relative_to(root)}:{name}",
                licence=licence.licence,
                attribution=licence.copyright,
            )
            if cutout is not None:
                yield piece, cutout
            elif image[..., 3].min() == 255 and min(image.shape[:2]) >= 128:
                yield piece, _limit(image[..., :3], PHOTO_SIDE)


def wallpapers(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """Photos among wallpapers, chosen by the licence of each file."""
    copyright_file = next(root.rglob("copyright"))
    package = copyright_file.parent.name
    licences = file_licences(copyright_file)
    for path in sorted(root.rglob("*.jpg")):
        if path.is_symlink():
            continue
        matching = [lic for pattern, lic in licences if pattern.endswith("/" + path.name)]
        if not matching or not matching[0].shippable:
            continue
        photo = _limit(np.asarray(Image.open(path).convert("RGB")), 2 * PHOTO_SIDE)
        yield (
            Piece(
                kind="photo",
                family="wallpaper-" + path.stem,
                package=package,
                file=str(path.relative_to(root)),
                licence=matching[0].licence,
                attribution=matching[0].copyright,
            ),
            photo,
        )


def blender_lights(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """CC0 panoramas (as photos) and CC0 matcaps; their folders' license.txt say so."""
    lights = root / "usr/share/blender/datafiles/studiolights"
    for path in sorted((lights / "world").glob("*.exr")):
        photo = tone_mapped(path.read_bytes())
        # The same panoramas are in @pmndrs/assets under the same names.
        yield _piece(path, root, "photo", "panorama-" + path.stem, "blender-data", "CC0-1.0"), photo
    for path in sorted((lights / "matcap").glob("*.exr")):
        if path.stem.startswith(("check", "reflection")):
            continue
        matcap = _resize(tone_mapped(path.read_bytes()), _MATCAP_SIDE)
        yield (
            _piece(path, root, "matcap", "matcap-" + path.stem, "blender-data", "CC0-1.0"),
            matcap,
        )


def mypaint_papers(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """Paper and canvas textures; both folders are CC0 by the copyright file."""
    for path in sorted((root / "usr/share/mypaint/backgrounds").rglob("*.png")):
        texture = _limit(np.asarray(Image.open(path).convert("RGB")), 512)
        family = "paper-" + path.stem
        yield _piece(path, root, "texture", family, "mypaint-data-extras", "CC0-1.0"), texture


def material_icons(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """Silhouettes of an icon font (OFL-1.1 / CC-BY)."""
    path = next(root.rglob("materialdesignicons-webfont.ttf"))
    codes = range(0xF000, 0xF900)
    return _glyphs(path, root, "fonts-materialdesignicons-webfont", "OFL-1.1 / CC-BY", codes)


def noto_glyphs(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """Silhouettes of letters, of symbols and of hieroglyphs (animals, people, tools)."""
    wanted: dict[str, Iterable[int]] = {
        "NotoSans-Bold.ttf": range(0x30, 0x250),
        "NotoSerif-BlackItalic.ttf": range(0x30, 0x17F),
        "NotoSansEgyptianHieroglyphs-Regular.ttf": range(0x13000, 0x13430),
        "NotoSansAnatolianHieroglyphs-Regular.ttf": range(0x14400, 0x14650),
        "NotoSansSymbols2-Regular.ttf": (*range(0x2600, 0x27C0), *range(0x1F300, 0x1FB00)),
    }
    for name, codes in wanted.items():
        for path in sorted(root.rglob(name)):
            yield from _glyphs(path, root, "fonts-noto-core", "OFL-1.1", codes)


def pmndrs_assets(root: Path) -> Iterator[tuple[Piece, np.ndarray]]:
    """CC0 panoramas and matcaps, each a base64 text in a JavaScript module."""
    package = "@pmndrs/assets"
    for path in sorted((root / "package/hdri").glob("*.exr.js")):
        family = "panorama-" + path.name.removesuffix(".exr.js")
        yield _piece(path, root, "photo", family, package, "CC0-1.0"), tone_mapped(_embedded(path))
    for path in sorted((root / "package/matcaps").glob("*.webp.js")):
        image = np.asarray(Image.open(io.BytesIO(_embedded(path))).convert("RGB"))
        family = "matcap-" + path.name.removesuffix(".webp.js")
        yield (
            _piece(path, root, "matcap", family, package, "CC0-1.0"),
            _resize(image, _MATCAP_SIDE),
        )


def file_licences(path: Path) -> list[tuple[str, FileLicence]]:
    """Each pattern of a package's machine-readable copyright file, with its licence, in order.

    Raises:
        OSError: the file cannot be read.
        debian.copyright.Error: it is not machine-readable.
    """
    with path.open(encoding="utf-8") as lines:
        paragraphs = list(Copyright(lines).all_files_paragraphs())
    found = []
    for paragraph in paragraphs:
        licence = FileLicence(
            licence=paragraph["License"].partition("\n")[0],
            copyright=" ".join(paragraph["Copyright"].split()),
        )
        found += [(pattern, licence) for pattern in paragraph["Files"].split()]
    return found


def cutout_from(rgba: np.ndarray) -> np.ndarray | None:
    """Trim to the opaque part, at most ``CUTOUT_SIDE`` pixels; None if it is no object.

    No object: tiny, nearly a full rectangle (a photo or a flag), faint, or in pieces,
    because a click on one piece would not tell of the others.
    """
    solid = (rgba[..., 3] > 127).astype(np.uint8)
    ys, xs = np.nonzero(solid)
    if len(ys) < 400:
        return None
    y0, y1, x0, x1 = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    solid, rgba = solid[y0:y1, x0:x1], rgba[y0:y1, x0:x1]
    if min(solid.shape) < 24 or not 0.12 < solid.mean() < 0.985:
        return None
    _, _, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    if stats[1:, cv2.CC_STAT_AREA].max() < 0.85 * solid.sum():
        return None
    if (rgba[..., 3] > 0).sum() > 1.5 * solid.sum():
        return None
    return _limit(rgba, CUTOUT_SIDE)


def tone_mapped(exr: bytes) -> np.ndarray:
    """A high-dynamic-range OpenEXR image as 8-bit RGB.

    Raises:
        av.FFmpegError: it is none.
    """
    linear = np.maximum(_linear(exr), 0)
    exposed = linear * (0.18 / max(float(np.median(linear)), 1e-4))
    curved = exposed * (1 + exposed / 16) / (1 + exposed)  # Reinhard 2002, white point 4
    return (np.clip(curved, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8)


def _linear(exr: bytes) -> np.ndarray:
    """The colours of an OpenEXR image, float32 RGB ``[H, W, 3]``."""
    # OpenCV's wheels are built without OpenEXR from 5.0 on.
    with av.open(io.BytesIO(exr), "r", format="exr_pipe") as file:
        [frame] = file.decode(video=0)
    kind = np.dtype(np.float16 if "f16" in frame.format.name else np.float32)
    planes = [
        np.frombuffer(bytes(plane), kind).reshape(plane.height, -1)[:, : plane.width]
        for plane in frame.planes
    ]
    if len(planes) < 3:  # grey
        planes = [planes[0]] * 3
    green, blue, red = planes[:3]
    return np.stack([red, green, blue], axis=-1).astype(np.float32)


def _glyphs(
    path: Path, root: Path, package: str, licence: str, codes: Iterable[int]
) -> Iterator[tuple[Piece, np.ndarray]]:
    font = ImageFont.truetype(str(path), _GLYPH_SIDE, layout_engine=ImageFont.Layout.BASIC)
    missing = bytes(font.getmask("\U0010fffe"))
    seen: set[bytes] = set()
    for code in codes:
        mask = font.getmask(chr(code))
        drawn = bytes(mask)
        if drawn == missing or drawn in seen or min(mask.size) < 24:
            continue
        seen.add(drawn)
        alpha = np.frombuffer(drawn, np.uint8).reshape(mask.size[::-1])
        rgba = cutout_from(np.repeat(alpha[..., None], 4, axis=2))
        if rgba is not None:
            family = f"glyph-{path.stem}-{code:x}"
            yield (
                _piece(path, root, "glyph", family, package, licence, part=f"U+{code:X}"),
                np.ascontiguousarray(rgba[..., 3:]),
            )


def _piece(
    path: Path, root: Path, kind: str, family: str, package: str, licence: str, part: str = ""
) -> Piece:
    file = str(path.relative_to(root)) + (f":{part}" if part else "")
    return Piece(kind=kind, family=family, package=package, file=file, licence=licence)


def _first_word(stem: str) -> str:
    """The first word of a file name that is neither a colour nor an adornment."""
    words = re.findall(r"[a-z]{3,}", stem.lower())
    return next((word for word in words if word not in _COLOURS), stem.lower())


def _limit(image: np.ndarray, side: int) -> np.ndarray:
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return np.ascontiguousarray(image)
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _resize(image: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def _embedded(path: Path) -> bytes:
    found = re.search(r"base64,([A-Za-z0-9+/=]+)", path.read_text(encoding="ascii"))
    if found is None:
        raise ValueError(f"no base64 data in {path}")
    return base64.b64decode(found.group(1))
