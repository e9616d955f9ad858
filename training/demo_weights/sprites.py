"""Objects to be put on a background: cut-outs, and silhouettes filled and shaded."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from training.demo_weights.library import Library
from training.demo_weights.silhouettes import random_silhouette
from training.demo_weights.textures import noise_field, plain_or_gradient, procedural_texture

_MIN_SIDE = 16


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How hard composed pictures are.

    Attributes:
        cutouts: share of drawn and photographed objects; the others are filled silhouettes.
        parts: share of objects that have smaller objects on them, asked for by themselves.
        hiding: share of silhouettes filled with another piece of the background.
        rows: share of images with the same object many times over.
        regions: share of images of several regions whose regions are asked for.
        photos: share of photos among backgrounds.
        smallest: side of the smallest objects, relative to the image.
        alone: every image shows a single object.
    """

    cutouts: float = 0.5
    parts: float = 0.3
    hiding: float = 0.15
    rows: float = 0.12
    regions: float = 0.5
    photos: float = 0.5
    smallest: float = 0.06
    alone: bool = False


HARD = Recipe()
# Separate, visible objects of fair size, mostly on photos: close to the set on which the
# figures of the first rough weights were taken.
PLAIN = Recipe(
    cutouts=0.6, parts=0.0, hiding=0.0, rows=0.0, regions=0.0, photos=0.75, smallest=0.12
)
# One large thing, as a photographer frames it: whatever is clicked means all of it.
PORTRAIT = replace(PLAIN, smallest=0.4, alone=True)


@dataclass
class Sprite:
    """One object before it is placed.

    Attributes:
        rgb: uint8 ``[h, w, 3]``.
        alpha: uint8 ``[h, w]``, 255 inside.
        parts: uint8 ``[h, w]`` each, parts of it that are objects of their own.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    parts: list[np.ndarray] = field(default_factory=list)


def random_sprite(
    side: int,
    library: Library,
    rng: np.random.Generator,
    background: np.ndarray,
    recipe: Recipe = HARD,
) -> Sprite:
    """An object of about ``side`` pixels, alone or with parts on it.

    Args:
        side: longer side, pixels.
        library: where cut-outs, photos and matcaps come from.
        rng: decides everything.
        background: uint8 ``[S, S, 3]``, for objects that hide by looking like it.
        recipe: how hard.
    """
    sprite = _single(max(side, _MIN_SIDE), library, rng, background, recipe)
    if side >= 40 and rng.random() < recipe.parts:
        for _ in range(int(rng.integers(1, 4))):
            _attach_part(sprite, library, rng, background, recipe)
    return sprite


def fill(side: int, library: Library, rng: np.random.Generator) -> np.ndarray:
    """Some picture to fill a shape or a region with: uint8 ``[side, side, 3]``."""
    choice = rng.random()
    if choice < 0.35 and library.count("photo"):
        return photo_crop(side, library, rng)
    if choice < 0.45 and library.count("texture"):
        return _tinted(crop(library.draw("texture", rng), side, rng), rng)
    if choice < 0.75:
        return procedural_texture(side, rng)
    return plain_or_gradient(side, rng)


def photo_crop(side: int, library: Library, rng: np.random.Generator) -> np.ndarray:
    """A random square of a random photo, sometimes mirrored: uint8 ``[side, side, 3]``."""
    return colour_jitter(crop(library.draw("photo", rng), side, rng), rng, 0.5)


def crop(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of at least a third of the picture, resized to ``side`` pixels."""
    height, width = image.shape[:2]
    extent = max(2, int(min(height, width) * rng.uniform(0.33, 1.0)))
    y = int(rng.integers(height - extent + 1))
    x = int(rng.integers(width - extent + 1))
    square = image[y : y + extent, x : x + extent]
    if rng.random() < 0.5:
        square = square[:, ::-1]
    shrinks = extent > side
    return cv2.resize(
        np.ascontiguousarray(square),
        (side, side),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )


def colour_jitter(rgb: np.ndarray, rng: np.random.Generator, amount: float = 1.0) -> np.ndarray:
    """Hue, saturation, contrast and brightness changed at random."""
    if rng.random() < 0.6 * amount:
        hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + int(rng.normal(0, 25 * amount))) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.4, 1.4), 0, 255)
        rgb = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    contrast, brightness = rng.uniform(0.7, 1.25), rng.normal(0, 18)
    return np.clip((rgb.astype(np.float32) - 128) * contrast + 128 + brightness, 0, 255).astype(
        np.uint8
    )


def _single(
    side: int, library: Library, rng: np.random.Generator, background: np.ndarray, recipe: Recipe
) -> Sprite:
    if rng.random() < recipe.cutouts and library.count("cutout"):
        return _cutout(side, library, rng)
    alpha = random_silhouette(side, library, rng)
    hides = rng.random() < recipe.hiding
    rgb = _camouflage(side, background, rng) if hides else fill(side, library, rng)
    if rng.random() < 0.6:
        rgb = _shaded(rgb, alpha, library, rng)
    return Sprite(rgb, alpha)


def _cutout(side: int, library: Library, rng: np.random.Generator) -> Sprite:
    rgba = library.draw("cutout", rng)
    factor = side / max(rgba.shape[:2])
    size = (max(4, int(rgba.shape[1] * factor)), max(4, int(rgba.shape[0] * factor)))
    # Colours under transparent pixels are arbitrary: they must not bleed in by resizing.
    premultiplied = rgba.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    shrinks = factor < 1
    resized = cv2.resize(
        premultiplied, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    alpha = resized[..., 3]
    rgb = resized[..., :3] * (255 / np.maximum(alpha, 1))[..., None]
    rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        rgb, alpha = rgb[:, ::-1], alpha[:, ::-1]
    rgb = colour_jitter(np.ascontiguousarray(rgb), rng)
    if rng.random() < 0.25:
        light = 0.55 + 0.7 * noise_field(max(size), rng, 2, 2)[: size[1], : size[0], None]
        rgb = np.clip(rgb * light, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        texture = procedural_texture(max(size), rng)[: size[1], : size[0]]
        weight = rng.uniform(0.1, 0.5)
        rgb = np.asarray(cv2.addWeighted(rgb, 1 - weight, texture, weight, 0))
    # Stickers may be half transparent inside; objects of photos are not.
    return Sprite(rgb, np.where(alpha > 200, 255, alpha).astype(np.uint8))


def _camouflage(side: int, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another place of the background, a little lighter or darker."""
    piece = crop(background, side, rng) * rng.uniform(0.75, 1.3) + rng.normal(0, 15, 3)
    return np.clip(piece, 0, 255).astype(np.uint8)


def _tinted(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tint = rng.uniform(0.4, 1.2, 3)
    return np.clip(texture * tint, 0, 255).astype(np.uint8)


def _shaded(
    rgb: np.ndarray, alpha: np.ndarray, library: Library, rng: np.random.Generator
) -> np.ndarray:
    """As if the silhouette were inflated to a solid body and lit."""
    inside = np.pad((alpha > 127).astype(np.uint8), 1)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    bulge = np.sqrt(distance * max(float(distance.max()), 1.0))
    bulge = cv2.GaussianBlur(bulge, (0, 0), max(1.0, 0.03 * len(alpha)))
    bulge = bulge * rng.uniform(0.5, 2.5)
    if rng.random() < 0.4:
        bulge = bulge + noise_field(len(alpha), rng, 8, 3) * 0.06 * len(alpha)
    gx = cv2.Sobel(bulge, cv2.CV_32F, 1, 0, scale=0.125)
    gy = cv2.Sobel(bulge, cv2.CV_32F, 0, 1, scale=0.125)
    length = np.sqrt(gx * gx + gy * gy + 1)
    nx, ny = -gx / length, -gy / length
    if rng.random() < 0.5 and library.count("matcap"):
        matcap = library.draw("matcap", rng)
        reach = matcap.shape[0] / 2 - 1
        shine = cv2.remap(
            np.ascontiguousarray(matcap),
            (nx * 0.95 + 1) * reach,
            (ny * 0.95 + 1) * reach,
            cv2.INTER_LINEAR,
        )
        weight = rng.uniform(0.3, 1.0)
        return cv2.addWeighted(shine, weight, rgb, 1 - weight, 0)
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.2)
    light = np.array([np.cos(angle), np.sin(angle), height])
    light /= np.linalg.norm(light)
    diffuse = np.maximum(nx * light[0] + ny * light[1] + light[2] / length, 0)
    lit = rgb * (rng.uniform(0.2, 0.6) + rng.uniform(0.5, 0.9) * diffuse)[..., None]
    gloss = rng.uniform(0, 160) if rng.random() < 0.5 else 0.0
    return np.clip(lit + gloss * (diffuse**20)[..., None], 0, 255).astype(np.uint8)


def _attach_part(
    sprite: Sprite,
    library: Library,
    rng: np.random.Generator,
    background: np.ndarray,
    recipe: Recipe,
) -> None:
    """Paint a smaller object on the sprite; it becomes one of its parts."""
    height, width = sprite.alpha.shape
    ys, xs = np.nonzero(sprite.alpha > 127)
    side = int(min(height, width) * rng.uniform(0.25, 0.65))
    if len(ys) == 0 or side < 10:
        return
    part = _single(side, library, rng, background, recipe)
    at = int(rng.integers(len(ys)))
    part_height, part_width = part.alpha.shape
    y0 = int(np.clip(ys[at] - part_height // 2, 0, max(0, height - part_height)))
    x0 = int(np.clip(xs[at] - part_width // 2, 0, max(0, width - part_width)))
    region = (slice(y0, min(y0 + part_height, height)), slice(x0, min(x0 + part_width, width)))
    rows, columns = region[0].stop - y0, region[1].stop - x0
    alpha = part.alpha[:rows, :columns]
    if rng.random() < 0.5:  # stay on the body, as an eye or a label does
        alpha = np.minimum(alpha, sprite.alpha[region])
    if (alpha > 127).sum() < 30:
        return
    sprite.rgb = sprite.rgb.copy()
    blend = (alpha / 255.0)[..., None]
    sprite.rgb[region] = (
        sprite.rgb[region] * (1 - blend) + part.rgb[:rows, :columns] * blend
    ).astype(np.uint8)
    for other in sprite.parts:
        other[region] = np.where(alpha > 127, 0, other[region])
    whole = np.zeros((height, width), np.uint8)
    whole[region] = alpha
    sprite.parts.append(whole)
    sprite.alpha = np.maximum(sprite.alpha, whole)
