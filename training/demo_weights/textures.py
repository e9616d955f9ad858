"""Procedural textures: uint8 RGB ``[size, size, 3]``, as varied as can be had for nothing."""

from collections.abc import Callable

import cv2
import numpy as np

_Field = np.ndarray  # float32 [size, size]


def procedural_texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random texture: one or two patterns coloured with a random palette, and some grain."""
    field = _pattern(size, rng)
    if rng.random() < 0.4:
        weight = rng.uniform(0.2, 0.8)
        field = weight * field + (1 - weight) * _pattern(size, rng)
    field = _normalised(field)
    palette = _palette(rng)
    stops = np.linspace(0, 1, len(palette))
    table = np.stack([np.interp(np.linspace(0, 1, 256), stops, palette[:, c]) for c in range(3)], 1)
    image = table.astype(np.float32)[(field * 255).astype(np.uint8)]
    grain = rng.uniform(0, 12) if rng.random() < 0.6 else 0.0
    if grain:
        image = image + grain * rng.standard_normal((size, size, 1), dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def plain_or_gradient(size: int, rng: np.random.Generator) -> np.ndarray:
    """One colour, or a smooth passage between two or more."""
    palette = _palette(rng)
    if rng.random() < 0.35:
        return np.full((size, size, 3), palette[0], np.uint8)
    field = _gradient(size, rng)
    stops = np.linspace(0, 1, len(palette))
    channels = [np.interp(field.ravel(), stops, palette[:, c]) for c in range(3)]
    return np.stack(channels, 1).reshape(size, size, 3).astype(np.uint8)


def noise_field(size: int, rng: np.random.Generator, cells: int, octaves: int = 4) -> _Field:
    """Fractal value noise, about ``cells`` bumps across, float32 in [0, 1]."""
    field = np.zeros((size, size), np.float32)
    strength = 1.0
    for octave in range(octaves):
        side = min(size, max(2, cells * 2**octave) + 2)
        grid = rng.random((side, side), dtype=np.float32)
        field += strength * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        strength *= 0.5
    return _normalised(field)


def _pattern(size: int, rng: np.random.Generator) -> _Field:
    patterns: tuple[Callable[[int, np.random.Generator], _Field], ...] = (
        _clouds,
        _clouds,
        _stripes,
        _checks,
        _cells,
        _dots,
        _bricks,
        _marble,
        _streaks,
        _gradient,
    )
    return patterns[rng.integers(len(patterns))](size, rng)


def _clouds(size: int, rng: np.random.Generator) -> _Field:
    return noise_field(size, rng, int(rng.integers(1, 24)), int(rng.integers(2, 6)))


def _gradient(size: int, rng: np.random.Generator) -> _Field:
    x, y = _coordinates(size, rng)
    if rng.random() < 0.4:
        cx, cy = rng.uniform(-0.7, 0.7, 2)
        return _normalised(np.hypot(x - cx, y - cy))
    return _normalised(x)


def _stripes(size: int, rng: np.random.Generator) -> _Field:
    x, y = _coordinates(size, rng)
    wobble = rng.uniform(0, 0.3) * noise_field(size, rng, 3, 2) if rng.random() < 0.5 else 0.0
    wave = np.sin((x + wobble) * rng.uniform(6, 70))
    sharp = rng.uniform(0.5, 12)
    return np.tanh(wave * sharp) + 0.1 * y


def _checks(size: int, rng: np.random.Generator) -> _Field:
    x, y = _coordinates(size, rng)
    frequency = rng.uniform(4, 40)
    return np.tanh(8 * np.sin(x * frequency) * np.sin(y * frequency * rng.uniform(0.5, 2)))


def _cells(size: int, rng: np.random.Generator) -> _Field:
    """Distances to scattered points (Worley noise): pebbles, leather, scales."""
    canvas = np.full((size, size), 255, np.uint8)
    count = int(rng.integers(8, 250))
    points = rng.integers(0, size, (count, 2))
    canvas[points[:, 1], points[:, 0]] = 0
    distance, labels = cv2.distanceTransformWithLabels(canvas, cv2.DIST_L2, 3)
    if rng.random() < 0.5:
        return distance
    shade = rng.random(int(labels.max()) + 1, dtype=np.float32)
    return shade[labels]


def _dots(size: int, rng: np.random.Generator) -> _Field:
    x, y = _coordinates(size, rng)
    frequency = rng.uniform(8, 50)
    bumps = np.cos(x * frequency) + np.cos(y * frequency)
    return np.tanh((bumps - rng.uniform(-0.5, 1.2)) * rng.uniform(1, 8))


def _bricks(size: int, rng: np.random.Generator) -> _Field:
    x, y = _coordinates(size, rng)
    rows = y * rng.uniform(3, 14)
    row = np.floor(rows)
    columns = x * rng.uniform(2, 8) + 0.5 * (row % 2)
    joint = rng.uniform(0.03, 0.12)
    inside = ((rows - row) > joint) & ((columns - np.floor(columns)) > joint)
    shade = np.sin(row * 12.9898 + np.floor(columns) * 78.233) * 43758.5453
    return inside * (0.6 + 0.4 * (shade - np.floor(shade))).astype(np.float32)


def _marble(size: int, rng: np.random.Generator) -> _Field:
    x, _ = _coordinates(size, rng)
    turbulence = noise_field(size, rng, int(rng.integers(2, 8)), 5)
    return np.sin(x * rng.uniform(2, 20) + turbulence * rng.uniform(4, 20))


def _streaks(size: int, rng: np.random.Generator) -> _Field:
    """Noise stretched in one direction: grass, fur, wood, brushed metal."""
    noise = rng.random((size, size), dtype=np.float32)
    length = int(rng.integers(9, 61)) | 1
    angle = rng.uniform(0, 180)
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    centre = (length / 2 - 0.5, length / 2 - 0.5)
    turn = cv2.getRotationMatrix2D(centre, angle, 1)
    turned = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), np.float32)
    turned /= max(float(turned.sum()), 1e-6)
    streaks = cv2.filter2D(noise, -1, turned)
    return _normalised(streaks) + rng.uniform(0, 1) * noise_field(size, rng, 3, 2)


def _coordinates(size: int, rng: np.random.Generator) -> tuple[_Field, _Field]:
    """Turned and bent coordinates, about -1 to 1."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    if rng.random() < 0.3:  # perspective
        depth = 1.2 + rng.uniform(0.2, 0.8) * y
        x, y = x / depth, y / depth
    return x.astype(np.float32), y.astype(np.float32)


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Two to five RGB colours, float64 ``[n, 3]``: related more often than not."""
    count = int(rng.integers(2, 6))
    if rng.random() < 0.35:
        return rng.uniform(0, 255, (count, 3))
    hue, spread = rng.uniform(0, 180), rng.uniform(2, 40)
    hsv = np.empty((1, count, 3), np.uint8)
    hsv[..., 0] = (hue + rng.normal(0, spread, count)) % 180
    hsv[..., 1] = np.clip(rng.uniform(0, 255) + rng.normal(0, 40, count), 0, 255)
    hsv[..., 2] = np.clip(rng.uniform(40, 230) + rng.normal(0, 55, count), 5, 255)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0].astype(np.float64)


def _normalised(field: _Field) -> _Field:
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)
