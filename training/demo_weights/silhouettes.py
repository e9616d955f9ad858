"""Random shapes as alpha masks: uint8 ``[side, side]``, 255 inside, anti-aliased."""

import cv2
import numpy as np

from training.demo_weights.library import Library

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_ONE = 1 << _SHIFT


def random_silhouette(side: int, library: Library, rng: np.random.Generator) -> np.ndarray:
    """A glyph, blob, polygon, ellipse, rounded rectangle, ring, stroke or lattice."""
    kinds = ("glyph", "blob", "polygon", "ellipse", "box", "ring", "stroke", "lattice", "limbs")
    weights = np.array([0.3, 0.2, 0.08, 0.1, 0.1, 0.04, 0.06, 0.02, 0.1])
    kind = rng.choice(kinds, p=weights / weights.sum())
    if kind == "glyph" and library.count("glyph"):
        return _glyph(side, library, rng)
    mask = np.zeros((side, side), np.uint8)
    if kind == "polygon":
        _fill(mask, _star_polygon(side, rng))
    elif kind == "ellipse":
        axes = (0.47 * side, 0.47 * side * rng.uniform(0.25, 1))
        _ellipse(mask, axes, rng.uniform(0, 180), -1)
    elif kind == "box":
        _rounded_box(mask, rng)
    elif kind == "ring":
        thickness = max(2, int(side * rng.uniform(0.03, 0.15)))
        radius = 0.45 * side - thickness / 2
        _ellipse(mask, (radius, radius * rng.uniform(0.4, 1)), rng.uniform(0, 180), thickness)
    elif kind == "stroke":
        _stroke(mask, rng)
    elif kind == "lattice":
        _lattice(mask, rng)
    elif kind == "limbs":
        _limbs(mask, rng)
    else:
        _fill(mask, _blob_outline(side, rng))
    return mask


def _glyph(side: int, library: Library, rng: np.random.Generator) -> np.ndarray:
    glyph = library.draw("glyph", rng)[..., 0]
    if rng.random() < 0.5:  # the outer silhouette
        outlines, _ = cv2.findContours(
            (glyph > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        glyph = glyph.copy()
        cv2.drawContours(glyph, outlines, -1, 255, -1)
    factor = side / max(glyph.shape)
    size = (max(1, int(glyph.shape[1] * factor)), max(1, int(glyph.shape[0] * factor)))
    glyph = cv2.resize(glyph, size, interpolation=cv2.INTER_AREA)
    mask = np.zeros((side, side), np.uint8)
    y, x = (side - size[1]) // 2, (side - size[0]) // 2
    mask[y : y + size[1], x : x + size[0]] = glyph
    return mask


def _blob_outline(side: int, rng: np.random.Generator) -> np.ndarray:
    """A closed curve whose radius is a random Fourier series."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = np.ones_like(angle)
    decay = rng.uniform(0.8, 2.0)
    for wave in range(2, 12):
        radius += rng.normal(0, 0.45 / wave**decay) * np.cos(wave * angle + rng.uniform(0, 6.3))
    radius = np.maximum(radius, 0.15)
    points = np.stack((np.cos(angle), np.sin(angle) * rng.uniform(0.4, 1)), 1) * radius[:, None]
    return _fitted(points, side, rng)


def _star_polygon(side: int, rng: np.random.Generator) -> np.ndarray:
    corners = int(rng.integers(3, 10))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.35, 1, corners)
    return _fitted(np.stack((np.cos(angle), np.sin(angle)), 1) * radius[:, None], side, rng)


def _fitted(points: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = points @ turn
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) * (0.95 * side / (high - low).max()) + side / 2


def _fill(mask: np.ndarray, points: np.ndarray) -> None:
    cv2.fillPoly(mask, [np.round(points * _ONE).astype(np.int32)], 255, cv2.LINE_AA, _SHIFT)


def _ellipse(mask: np.ndarray, axes: tuple[float, float], angle: float, thickness: int) -> None:
    centre = mask.shape[0] * _ONE // 2
    sizes = (int(axes[0] * _ONE), int(axes[1] * _ONE))
    cv2.ellipse(mask, (centre, centre), sizes, angle, 0, 360, 255, thickness, cv2.LINE_AA, _SHIFT)


def _rounded_box(mask: np.ndarray, rng: np.random.Generator) -> None:
    side = mask.shape[0]
    half = np.array([0.44 * side, 0.44 * side * rng.uniform(0.15, 1)])
    corner = rng.uniform(0, 0.9) * half.min()
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False) + np.pi / 64
    circle = np.stack((np.cos(angle), np.sin(angle)), 1)
    _fill(mask, _turned(np.sign(circle) * (half - corner) + circle * corner, rng) + side / 2)


def _turned(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.6 else 0.0
    return points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _stroke(mask: np.ndarray, rng: np.random.Generator) -> None:
    """A smooth curve of some thickness: cables, worms, handles."""
    side = mask.shape[0]
    knots = rng.uniform(0.08, 0.92, (int(rng.integers(2, 6)), 2))
    t = np.linspace(0, 1, 60)[:, None]
    curve = np.zeros((60, 2))
    degree = len(knots) - 1
    coefficient = 1.0
    for i, knot in enumerate(knots):  # Bezier
        curve += coefficient * t**i * (1 - t) ** (degree - i) * knot
        coefficient = coefficient * (degree - i) / (i + 1)
    thickness = max(2, int(side * rng.uniform(0.02, 0.12)))
    points = np.round(curve * side * _ONE).astype(np.int32)
    cv2.polylines(mask, [points], False, 255, thickness, cv2.LINE_AA, _SHIFT)


def _lattice(mask: np.ndarray, rng: np.random.Generator) -> None:
    side = mask.shape[0]
    thickness = max(2, int(side * rng.uniform(0.015, 0.05)))
    edge = int(0.06 * side)
    for position in np.linspace(edge, side - edge, int(rng.integers(3, 7))).astype(int):
        cv2.line(mask, (edge, int(position)), (side - edge, int(position)), 255, thickness)
        cv2.line(mask, (int(position), edge), (int(position), side - edge), 255, thickness)


def _limbs(mask: np.ndarray, rng: np.random.Generator) -> None:
    """A trunk with tapering limbs: something like an animal, a plant or a piece of furniture."""
    side = mask.shape[0]
    centre = side * rng.uniform(0.4, 0.6, 2)
    axes = (side * rng.uniform(0.12, 0.28), side * rng.uniform(0.08, 0.2))
    cv2.ellipse(
        mask,
        (int(centre[0]), int(centre[1])),
        (int(axes[0]), int(axes[1])),
        rng.uniform(0, 180),
        0,
        360,
        255,
        -1,
        cv2.LINE_AA,
    )
    for _ in range(int(rng.integers(2, 7))):
        position, angle = centre.copy(), rng.uniform(0, 2 * np.pi)
        width = side * rng.uniform(0.04, 0.1)
        for _ in range(int(rng.integers(2, 5))):
            step = side * rng.uniform(0.08, 0.2) * np.array([np.cos(angle), np.sin(angle)])
            end = np.clip(position + step, 0.04 * side, 0.96 * side)
            start_px, end_px = position.astype(int), end.astype(int)
            cv2.line(
                mask,
                (int(start_px[0]), int(start_px[1])),
                (int(end_px[0]), int(end_px[1])),
                255,
                max(2, int(width)),
                cv2.LINE_AA,
            )
            position, angle, width = end, angle + rng.normal(0, 0.7), width * 0.8
        if rng.random() < 0.4:
            cv2.circle(mask, tuple(position.astype(int).tolist()), int(width * 1.6), 255, -1)
