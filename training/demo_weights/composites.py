"""Random composed images with exact masks, deterministic in the generator passed in.

Measured per image on one core: see ``training/README.md``.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.demo_weights.library import Library
from training.demo_weights.sprites import (
    HARD,
    Recipe,
    Sprite,
    colour_jitter,
    fill,
    photo_crop,
    random_sprite,
)
from training.demo_weights.textures import noise_field, plain_or_gradient, procedural_texture

_MIN_AREA = 0.001  # of the image, for a mask to be a target
_MIN_VISIBLE = 0.2  # of the object's own area


@dataclass(frozen=True)
class Composite:
    """One image with masks.

    Attributes:
        image: uint8 RGB ``[S, S, 3]``.
        masks: bool ``[N, S, S]``, N >= 1: visible pixels of objects, parts and regions.
    """

    image: np.ndarray
    masks: np.ndarray


class Canvas:
    """An image being painted, back to front, which knows what is seen of each object.

    Args:
        image: uint8 ``[S, S, 3]``, the background.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image.astype(np.float32)
        self.size = len(image)
        self._owner = np.zeros((self.size, self.size), np.int16)
        self._own_area: list[int] = []
        self._parts: list[list[np.ndarray]] = []

    def paint(self, sprite: Sprite, placement: np.ndarray) -> None:
        """Paint a sprite as the next object; ``placement`` is a 2 x 3 affine matrix."""
        region, local = self._region(sprite, placement, margin=1)
        size = (region[1].stop - region[1].start, region[0].stop - region[0].start)
        if min(size) <= 0:
            self._own_area.append(0)
            self._parts.append([])
            return
        alpha = cv2.warpAffine(sprite.alpha, local, size, flags=cv2.INTER_LINEAR)
        rgb = cv2.warpAffine(
            sprite.rgb, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        blend = (alpha.astype(np.float32) * np.float32(1 / 255))[..., None]
        self.image[region] += blend * (rgb - self.image[region])
        inside = alpha > 127
        self._own_area.append(int(inside.sum()))
        self._owner[region][inside] = len(self._own_area)
        parts = []
        for part in sprite.parts:
            mask = np.zeros((self.size, self.size), bool)
            mask[region] = cv2.warpAffine(part, local, size, flags=cv2.INTER_LINEAR) > 127
            parts.append(mask)
        self._parts.append(parts)

    def shade(self, sprite: Sprite, placement: np.ndarray, rng: np.random.Generator) -> None:
        """Darken where the sprite's shadow falls; call it before :meth:`paint`."""
        moved = placement.copy()
        moved[:, 2] += rng.normal(0, 0.03 * self.size, 2)
        spread = self.size * rng.uniform(0.004, 0.03)
        darkness = np.float32(rng.uniform(0.15, 0.65) / 255)
        region, local = self._region(sprite, moved, margin=int(3 * spread))
        size = (region[1].stop - region[1].start, region[0].stop - region[0].start)
        if min(size) <= 0:
            return
        shadow = cv2.warpAffine(sprite.alpha, local, size)
        shadow = cv2.GaussianBlur(shadow, (0, 0), spread).astype(np.float32)
        self.image[region] *= 1 - darkness * shadow[..., None]

    def visible(self, index: int) -> np.ndarray:
        """What is seen of the index-th painted object: bool ``[S, S]``."""
        return self._owner == index + 1

    def uncovered(self) -> np.ndarray:
        """Where no object is: bool ``[S, S]``."""
        return self._owner == 0

    def _region(
        self, sprite: Sprite, placement: np.ndarray, margin: int
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part of the canvas a sprite touches, and its placement relative to that."""
        height, width = sprite.alpha.shape
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
        touched = corners @ placement.T
        low = np.clip(np.floor(touched.min(0)).astype(int) - margin, 0, self.size)
        high = np.clip(np.ceil(touched.max(0)).astype(int) + margin, 0, self.size)
        local = placement.copy()
        local[:, 2] -= low
        return (slice(low[1], high[1]), slice(low[0], high[0])), local

    def masks(self) -> list[np.ndarray]:
        """All objects and parts of which enough is seen."""
        found = []
        for index, own_area in enumerate(self._own_area):
            mask = self.visible(index)
            if is_target(mask, own_area):
                found.append(mask)
                candidates = [part & mask for part in self._parts[index]]
                found += [part for part in candidates if is_target(part, int(part.sum()))]
        return found


def is_target(mask: np.ndarray, own_area: int) -> bool:
    """Whether enough of an object of ``own_area`` pixels is visible to ask for it."""
    area = int(mask.sum())
    return area >= max(_MIN_AREA * mask.size, 12) and area >= _MIN_VISIBLE * own_area


def compose(
    size: int, library: Library, rng: np.random.Generator, recipe: Recipe = HARD
) -> Composite:
    """Compose one image of ``size`` x ``size`` pixels with at least one mask."""
    while True:
        background, regions = random_background(size, library, rng, recipe)
        canvas = Canvas(background)
        if rng.random() < recipe.rows:
            _paint_rows(canvas, library, rng, recipe)
        else:
            _paint_scattered(canvas, library, rng, recipe)
        masks = canvas.masks()
        uncovered = canvas.uncovered()
        masks += [m for m in (region & uncovered for region in regions) if is_target(m, 0)]
        if masks:
            return Composite(photographed(canvas.image, rng), np.stack(masks))


def random_background(
    size: int, library: Library, rng: np.random.Generator, recipe: Recipe = HARD
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A background, and those of its regions that are objects to ask for (mostly none)."""
    if rng.random() < recipe.photos and library.count("photo"):
        return photo_crop(size, library, rng), []
    choice = rng.random()
    if choice < 0.36:
        return procedural_texture(size, rng), []
    if choice < 0.64:
        return plain_or_gradient(size, rng), []
    image = fill(size, library, rng)
    regions: list[np.ndarray] = []
    for _ in range(int(rng.integers(1, 4))):
        region = _half_plane(size, rng)
        image = np.where(region[..., None], fill(size, library, rng), image)
        regions = [other & ~region for other in regions]
        regions.append(region)
    return image, regions if rng.random() < recipe.regions else []


def random_placement(
    sprite: Sprite, size: int, rng: np.random.Generator, centre: np.ndarray | None = None
) -> np.ndarray:
    """A 2 x 3 matrix that turns, squeezes and moves a sprite to ``centre`` (x, y)."""
    if centre is None:
        centre = rng.uniform(0.04, 0.96, 2) * size
    angle = rng.normal(0, 25) if rng.random() < 0.7 else rng.uniform(-180, 180)
    height, width = sprite.alpha.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    squeeze = np.array([[rng.uniform(0.75, 1), rng.normal(0, 0.08)], [0, rng.uniform(0.75, 1)]])
    linear = squeeze @ matrix[:, :2]
    offset = centre - linear @ np.array([width / 2, height / 2])
    return np.concatenate((linear, offset[:, None]), axis=1)


def random_side(size: int, rng: np.random.Generator, recipe: Recipe = HARD) -> int:
    """How large an object is: up to 95 % of the image, evenly over the logarithm or so."""
    return int(size * recipe.smallest * (0.95 / recipe.smallest) ** (rng.random() ** 0.8))


def photographed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera and a file format do: light, blur, noise, compression. uint8 RGB."""
    size = len(image)
    if rng.random() < 0.2:
        image = image * (0.6 + 0.7 * noise_field(size, rng, 1, 1))[..., None]
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.4) * size / 256)
    if rng.random() < 0.4:
        deviation = np.float32(rng.uniform(1, 14))
        image = image + deviation * rng.standard_normal(image.shape, dtype=np.float32)
    out = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        out = colour_jitter(out, rng, 0.7)
    if rng.random() < 0.1:
        out = np.repeat(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 96))]
        out = np.asarray(cv2.imdecode(cv2.imencode(".jpg", out, quality)[1], cv2.IMREAD_COLOR))
    return out


def _paint_scattered(
    canvas: Canvas, library: Library, rng: np.random.Generator, recipe: Recipe
) -> None:
    background = canvas.image.astype(np.uint8)
    if recipe.alone:
        count = 1
    else:
        count = int(rng.choice([1, 2, 3, 4, 5, 6, 8], p=[0.15, 0.2, 0.2, 0.18, 0.13, 0.08, 0.06]))
    sides = [random_side(canvas.size, rng, recipe) for _ in range(count)]
    # Large things are behind small ones, mostly: else little is seen of the small.
    if rng.random() < 0.75:
        sides.sort(reverse=True)
    for side in sides:
        sprite = softened(random_sprite(side, library, rng, background, recipe), rng)
        centre = rng.uniform(0.25, 0.75, 2) * canvas.size if count == 1 else None
        placement = random_placement(sprite, canvas.size, rng, centre)
        if rng.random() < 0.35:
            canvas.shade(sprite, placement, rng)
        canvas.paint(sprite, placement)


def _paint_rows(canvas: Canvas, library: Library, rng: np.random.Generator, recipe: Recipe) -> None:
    """The same object many times over, as coins, windows and fruit come."""
    columns, rows = rng.integers(2, 7, 2)
    pitch = canvas.size / max(columns, rows)
    background = canvas.image.astype(np.uint8)
    kinds = [
        random_sprite(int(pitch * rng.uniform(0.5, 0.95)), library, rng, background, recipe)
        for _ in range(int(rng.integers(1, 3)))
    ]
    jitter = rng.uniform(0, 0.25) * pitch
    for row in range(rows):
        for column in range(columns):
            centre = (np.array([column, row]) + 0.5) * pitch + rng.normal(0, jitter, 2)
            sprite = kinds[int(rng.integers(len(kinds)))]
            placement = random_placement(sprite, canvas.size, rng, centre)
            canvas.paint(sprite, placement)


def softened(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """Edges blurred now and then: nothing in a photo is cut out with scissors."""
    if rng.random() < 0.4:
        sprite.alpha = cv2.GaussianBlur(sprite.alpha, (0, 0), rng.uniform(0.4, 1.3))
    return sprite


def _half_plane(size: int, rng: np.random.Generator) -> np.ndarray:
    """One side of a wavy line: bool ``[size, size]``."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    angle = rng.normal(np.pi / 2, 0.6)
    border = rng.uniform(-0.6, 0.6) + rng.uniform(0, 0.6) * (noise_field(size, rng, 4, 3) - 0.5)
    return np.cos(angle) * x + np.sin(angle) * y > border
