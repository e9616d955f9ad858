"""Pictures of a domain that the demo weights do not know: branching cracks in rough surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SIZE = 256
_SQUARE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class CrackPicture:
    """One picture.

    Attributes:
        image: uint8 RGB ``[SIZE, SIZE, 3]``.
        masks: bool ``[N, SIZE, SIZE]``, one per crack with its branches, N from 1 to 2.
    """

    image: np.ndarray
    masks: np.ndarray


def crack_picture(number: int) -> CrackPicture:
    """The picture of a number; always the same."""
    rng = np.random.default_rng([73, number])
    surface = _surface(rng)
    masks = []
    taken = np.zeros((SIZE, SIZE), bool)
    for _ in range(int(rng.integers(1, 3))):
        mask = _crack(rng)
        if (
            mask.sum() > 600
            and not (
                mask & cv2.dilate(taken.astype(np.uint8), _SQUARE, iterations=6).astype(bool)
            ).any()
        ):
            masks.append(mask)
            taken |= mask
    if not masks:
        masks.append(_crack(rng, full=True))
    for mask in masks:
        surface = _darken(surface, mask, rng)
    noise = rng.normal(0, rng.uniform(2, 8), surface.shape)
    image = np.clip(surface + noise, 0, 255).astype(np.uint8)
    return CrackPicture(image, np.stack(masks))


def _surface(rng: np.random.Generator) -> np.ndarray:
    """Stone, plaster or asphalt: noise of several scales, stains, and joints that are no cracks."""
    grain = np.zeros((SIZE, SIZE), np.float32)
    for cells, weight in (
        (4, 1.0),
        (16, rng.uniform(0.3, 1.0)),
        (64, rng.uniform(0.3, 1.2)),
        (128, rng.uniform(0.3, 1.5)),
    ):
        layer = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        grain += weight * cv2.resize(layer, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    base = rng.uniform(90, 190) + rng.normal(0, 12, 3)
    surface = base[None, None] + rng.uniform(8, 16) * grain[..., None]
    for _ in range(int(rng.integers(0, 3))):  # joints between slabs: straight, light or dark
        angle = rng.uniform(0, np.pi)
        centre = rng.uniform(0.1, 0.9, 2) * SIZE
        reach = SIZE * np.array([np.cos(angle), np.sin(angle)])
        ends = [tuple(int(v) for v in centre + side * reach) for side in (-1, 1)]
        line = np.zeros((SIZE, SIZE), np.float32)
        cv2.line(line, ends[0], ends[1], 1.0, int(rng.integers(2, 7)), cv2.LINE_AA)
        surface += rng.choice([-1, 1]) * rng.uniform(20, 45) * line[..., None]
    for _ in range(int(rng.integers(0, 4))):  # dark stains
        stain = np.zeros((SIZE, SIZE), np.float32)
        x, y = (int(v) for v in rng.uniform(0, SIZE, 2))
        axes = [int(v) for v in rng.uniform(8, 40, 2)]
        cv2.ellipse(stain, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        surface -= rng.uniform(15, 40) * cv2.GaussianBlur(stain, (0, 0), 4)[..., None]
    return surface


def _crack(rng: np.random.Generator, *, full: bool = False) -> np.ndarray:
    """A random walk with inertia from one side to another, with branches that taper."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    heading = rng.uniform(0, 2 * np.pi)
    middle = np.full(2, SIZE / 2) if full else rng.uniform(0.25, 0.75, 2) * SIZE
    start = middle - 0.45 * SIZE * np.array([np.cos(heading), np.sin(heading)])
    _walk(
        mask,
        np.clip(start, 4, SIZE - 4),
        heading,
        rng.uniform(5.0, 9.0),
        int(rng.integers(28, 48)),
        rng,
        branches=3,
    )
    return mask.astype(bool)


def _walk(
    mask: np.ndarray,
    at: np.ndarray,
    heading: float,
    width: float,
    steps: int,
    rng: np.random.Generator,
    branches: int,
) -> None:
    general, turn = heading, 0.0
    for step in range(steps):
        turn = 0.35 * turn + rng.normal(0, 0.2)
        heading += turn - 0.1 * (heading - general)  # it wanders, and finds its way back
        to = at + rng.uniform(4, 8) * np.array([np.cos(heading), np.sin(heading)])
        thickness = max(3, round(width * (1 - 0.6 * step / steps)))
        cv2.line(
            mask,
            tuple(np.rint(at).astype(int).tolist()),
            tuple(np.rint(to).astype(int).tolist()),
            1,
            thickness,
        )
        at = to
        if not (0 <= at[0] < SIZE and 0 <= at[1] < SIZE):
            return
        if branches > 0 and step > 3 and rng.random() < 0.1:
            side = rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
            _walk(
                mask, at, heading + side, 0.75 * width, int(rng.integers(8, 20)), rng, branches - 2
            )


def _darken(surface: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint a crack: darker inside, uneven along its length, with a faint light rim."""
    depth = rng.uniform(40, 85) * (0.7 + 0.3 * cv2.resize(rng.random((6, 6)), (SIZE, SIZE)))
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)
    rim = cv2.dilate(mask.astype(np.uint8), _SQUARE).astype(np.float32) - mask
    return surface - (depth * soft)[..., None] + rng.uniform(0, 10) * rim[..., None]
