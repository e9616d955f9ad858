"""Random composed clips with exact masks, deterministic in the generator passed in.

Objects move, turn, grow, bend and hide behind others; some leave and come back, so that a
model sees enough frames on which the object is absent.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.demo_weights.composites import (
    Canvas,
    is_target,
    photographed,
    random_background,
    random_placement,
    random_side,
    softened,
)
from training.demo_weights.library import Library
from training.demo_weights.sprites import HARD, Recipe, Sprite, random_sprite

_ABSENCE = 0.6  # share of objects that are made to leave


@dataclass(frozen=True)
class Clip:
    """A clip with the masks of some of its objects.

    Attributes:
        frames: uint8 RGB ``[T, S, S, 3]``.
        masks: bool ``[O, T, S, S]``, O >= 1, each object visible on frame 0.
    """

    frames: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class _Actor:
    """A sprite and where it is on every frame.

    Attributes:
        sprite: what it looks like.
        placements: ``[T, 2, 3]`` affine matrices.
        wave: amplitude (fraction of the sprite), frequency and phases ``[T]`` of bending.
    """

    sprite: Sprite
    placements: np.ndarray
    wave: tuple[float, float, np.ndarray]


def compose_clip(
    size: int,
    length: int,
    library: Library,
    rng: np.random.Generator,
    occluder: bool | None = None,
    recipe: Recipe = HARD,
) -> Clip:
    """Compose one clip.

    Args:
        size: side of the frames, pixels.
        length: number of frames.
        library: pictures.
        rng: decides everything.
        occluder: whether something passes in front of the first object; None: in 35 %.
        recipe: how hard.
    """
    while True:
        passes = bool(rng.random() < 0.35) if occluder is None else occluder
        stage = _Stage.random(size, length, library, rng, recipe)
        actors = _cast(size, length, library, rng, stage.still, passes, recipe)
        clip = _film(stage, actors, size, length, rng, 1 if passes else 0)
        if clip is not None:
            return clip


@dataclass(frozen=True)
class _Stage:
    """A background larger than the frame, over which the camera moves."""

    still: np.ndarray
    camera: np.ndarray  # [T, 2, 3]: frame pixels to background pixels

    @staticmethod
    def random(
        size: int, length: int, library: Library, rng: np.random.Generator, recipe: Recipe
    ) -> "_Stage":
        large = int(size * 1.4)
        still, _ = random_background(large, library, rng, recipe)
        room = large - size
        speed = rng.uniform(0, 0.012) * size if rng.random() < 0.6 else 0.0
        path = room / 2 + np.cumsum(_smooth(rng.normal(0, max(speed, 1e-9), (length, 2))), axis=0)
        path = np.clip(path, 0, room)
        camera = np.zeros((length, 2, 3))
        camera[:, 0, 0] = camera[:, 1, 1] = 1
        camera[:, :, 2] = path
        return _Stage(still, camera)


def _cast(
    size: int,
    length: int,
    library: Library,
    rng: np.random.Generator,
    background: np.ndarray,
    occluder: bool,
    recipe: Recipe,
) -> list[_Actor]:
    """Actors back to front; with an occluder, the last one crosses the first one's path."""
    sides = sorted(
        (random_side(size, rng, recipe) for _ in range(int(rng.integers(1, 5)))), reverse=True
    )
    actors = []
    for side in sides:
        sprite = softened(
            random_sprite(max(side, size // 10), library, rng, background, recipe), rng
        )
        leaves = rng.random() < _ABSENCE
        actors.append(_Actor(sprite, _path(sprite, size, length, rng, leaves), _wave(length, rng)))
    if occluder:
        target = actors[0].placements
        side = int(max(actors[0].sprite.alpha.shape) * rng.uniform(0.6, 1.6))
        sprite = random_sprite(min(side, size), library, rng, background, recipe)
        actors.append(_Actor(sprite, _crossing(sprite, target, size, rng), _wave(length, rng)))
    return actors


def _path(
    sprite: Sprite, size: int, length: int, rng: np.random.Generator, leaves: bool
) -> np.ndarray:
    """Random-walk motion, rotation and scale; ``leaves``: out of the frame for a while."""
    start = random_placement(sprite, size, rng, rng.uniform(0.15, 0.85, 2) * size)
    speed = rng.uniform(0.002, 0.035) * size
    velocity = rng.normal(0, speed, 2) + _smooth(rng.normal(0, speed, (length, 2)))
    turn = np.cumsum(_smooth(rng.normal(0, rng.uniform(0, 0.09), (length, 1)))[:, 0])
    growth = np.exp(np.cumsum(_smooth(rng.normal(0, rng.uniform(0, 0.03), (length, 1)))[:, 0]))
    shift = np.cumsum(velocity, axis=0)
    shift, turn, growth = shift - shift[0], turn - turn[0], growth / growth[0]
    if leaves:
        angle = rng.uniform(0, 2 * np.pi)
        away = np.array([np.cos(angle), np.sin(angle)]) * (size + max(sprite.alpha.shape))
        begin = int(rng.integers(1, max(2, length // 2)))
        gone = int(rng.integers(max(1, length // 3), max(2, length - 1)))
        ramp = np.clip((np.arange(length) - begin + 1) / rng.uniform(1, 3), 0, 1)
        back = np.clip((np.arange(length) - begin - gone + 1) / rng.uniform(1, 3), 0, 1)
        shift = shift + (ramp - back)[:, None] * away
    middle = np.array(sprite.alpha.shape[::-1]) / 2
    placements = np.empty((length, 2, 3))
    for t in range(length):
        cos, sin = np.cos(turn[t]) * growth[t], np.sin(turn[t]) * growth[t]
        linear = np.array([[cos, -sin], [sin, cos]]) @ start[:, :2]
        centre = start[:, :2] @ middle + start[:, 2] + shift[t]
        placements[t] = np.concatenate((linear, (centre - linear @ middle)[:, None]), axis=1)
    return placements


def _crossing(
    sprite: Sprite, target: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """A straight path that meets the target's path after frame 0."""
    length = len(target)
    meeting = int(rng.integers(max(1, length // 4), max(2, length - length // 4)))
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    step = direction * size * rng.uniform(1.0, 2.2) / max(length, 4)
    start = random_placement(sprite, size, rng, np.zeros(2))
    steps = (np.arange(length) - meeting)[:, None] * step
    placements = np.repeat(start[None], length, axis=0)
    placements[:, :, 2] += _centre_of(target[meeting], sprite) + steps
    return placements


def _centre_of(placement: np.ndarray, sprite: Sprite) -> np.ndarray:
    middle = np.array(sprite.alpha.shape[::-1]) / 2
    return placement[:, :2] @ middle + placement[:, 2]


def _wave(length: int, rng: np.random.Generator) -> tuple[float, float, np.ndarray]:
    amplitude = rng.uniform(0.01, 0.06) if rng.random() < 0.35 else 0.0
    phases = np.cumsum(np.full(length, rng.uniform(0.1, 0.6))) + rng.uniform(0, 6.3)
    return float(amplitude), float(rng.uniform(2, 7)), phases


def _film(
    stage: _Stage,
    actors: list[_Actor],
    size: int,
    length: int,
    rng: np.random.Generator,
    untracked: int,
) -> Clip | None:
    """Paint all frames; None where no object can be seen on the first."""
    frames = np.empty((length, size, size, 3), np.uint8)
    masks = np.zeros((len(actors), length, size, size), bool)
    own_areas = [int((actor.sprite.alpha > 127).sum()) for actor in actors]
    camera_style = int(rng.integers(2**31))
    for t in range(length):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        canvas = Canvas(cv2.warpAffine(stage.still, stage.camera[t], (size, size), flags=flags))
        for actor in actors:
            canvas.paint(_bent(actor, t), actor.placements[t])
        for index in range(len(actors)):
            masks[index, t] = canvas.visible(index)
        # One camera films the whole clip: the same seed gives every frame the same treatment.
        frames[t] = photographed(canvas.image, np.random.default_rng(camera_style))
    tracked = [
        index
        for index in range(len(actors) - untracked)
        if is_target(masks[index, 0], min(own_areas[index], size * size // 4))
    ]
    return Clip(frames, masks[tracked]) if tracked else None


def _bent(actor: _Actor, t: int) -> Sprite:
    """The sprite with a travelling wave through it."""
    amplitude, frequency, phases = actor.wave
    if amplitude == 0:
        return actor.sprite
    height, width = actor.sprite.alpha.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    reach = amplitude * max(height, width)
    dx = reach * np.sin(frequency * y / height + phases[t])
    dy = reach * np.cos(frequency * x / width + phases[t])
    at = ((x + dx).astype(np.float32), (y + dy).astype(np.float32))
    return Sprite(
        cv2.remap(actor.sprite.rgb, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        cv2.remap(actor.sprite.alpha, *at, cv2.INTER_LINEAR),
    )


def _smooth(steps: np.ndarray) -> np.ndarray:
    """Running mean over time of ``[T, n]``: motion has inertia."""
    padded = np.concatenate((steps[:1], steps, steps[-1:]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3
