"""Composed clips whose truth is known on every frame: what goes wrong in tracking, on purpose.

Cut-outs of the demo's photos and drawn blobs move over pieces of those photos and drawn textures,
so that anyone can compose them offline in seconds. A clip is the same whenever it is composed: it
follows from ``VERSION``, its family, its split and its number. Whoever changes what is drawn
raises ``VERSION``, and measures anew what was measured on the clips.

The clips for choosing something (``TUNING``) and those for reporting on it (``HELD_OUT``) share no
photo, no blob and no texture; the family ``crowd`` is held out altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.sample_photos import photo_objects, read_photo
from training.demo_weights.textures import procedural_texture

VERSION = 2
WIDTH, HEIGHT = 320, 240
TUNING, HELD_OUT = "tuning", "held-out"
# An object of which less is seen counts as absent; so much of a wrong mask does no harm.
SLIVER = 0.0005  # of the frame

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_CUT_OUTS = {
    TUNING: (("quince.jpg", "bud"), ("quince.jpg", "bee")),
    HELD_OUT: (("dahlia.jpg", "dahlia"), ("bowl.jpg", "bowl")),
}
# Left, top, right, bottom in pixels: parts without the objects that are cut out elsewhere.
_BACKGROUNDS = {
    TUNING: (("bowl.jpg", (0, 390, 230, 677)), ("dandelion.jpg", (0, 0, 1000, 562))),
    HELD_OUT: (("dogs.jpg", (0, 0, 666, 500)), ("dogs.jpg", (0, 500, 666, 1000))),
}


@dataclass(frozen=True)
class ComposedClip:
    """A composed clip.

    Attributes:
        frames: uint8 RGB ``[H, W, 3]`` each.
        masks: by an object's name, what is seen of it: bool ``[number of frames, H, W]``; all of
            it on frame 0.
    """

    family: str
    split: str
    number: int
    frames: Sequence[Picture]
    masks: dict[str, Mask]

    @property
    def name(self) -> str:
        return f"{self.family}-{self.split}-{self.number}"

    def present(self, name: str) -> Mask:
        """On which frames more than a sliver of an object is seen: bool ``[number of frames]``."""
        areas = np.count_nonzero(self.masks[name], axis=(1, 2))
        return areas > SLIVER * WIDTH * HEIGHT


def compose(family: str, split: str, number: int) -> ComposedClip:
    """Draw a clip.

    Args:
        family: one of ``FAMILIES``; "crowd" is for ``HELD_OUT`` only.
        number: which one of the family's, from 0.
    """
    if split not in families_of(family):
        raise ValueError(f"there are no clips {family!r} for {split!r}")
    places = list(FAMILIES).index(family), (TUNING, HELD_OUT).index(split)
    rng = np.random.default_rng([VERSION, *places, number])
    props = _Props(split, rng)
    scenes = FAMILIES[family](props)
    frames, masks = _film(scenes, rng)
    return ComposedClip(family, split, number, frames, masks)


def families_of(family: str) -> tuple[str, ...]:
    """The splits that a family is for."""
    return (HELD_OUT,) if family == "crowd" else (TUNING, HELD_OUT)


def clips(split: str, count: int) -> Iterator[ComposedClip]:
    """``count`` clips of each family of a split."""
    for family in FAMILIES:
        if split in families_of(family):
            for number in range(count):
                yield compose(family, split, number)


def is_bad(found: Mask, truth: Mask) -> bool:
    """Whether a mask is wrong: its IoU with what is seen of the object is below 0.5; where no
    more than a sliver is seen, that it is more than a sliver itself."""
    sliver = SLIVER * truth.size
    if np.count_nonzero(truth) <= sliver:
        return bool(np.count_nonzero(found) > sliver)
    return bool(np.count_nonzero(found & truth) < 0.5 * np.count_nonzero(found | truth))


# What is drawn.


@dataclass(frozen=True)
class _Sprite:
    rgb: Picture
    alpha: Picture

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.alpha.shape[1], self.alpha.shape[0]


@dataclass
class _Actor:
    """A sprite and where it is on every frame of its scene.

    Attributes:
        path: ``[T, 2]``, its centre in pixels.
        name: of a tracked object; the others are in the way only.
        scale, angle: ``[T]``, as a factor and in degrees.
    """

    sprite: _Sprite
    path: NDArray[np.float64]
    name: str = ""
    scale: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    angle: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    def paint(self, picture: NDArray[np.float32], frame: int) -> tuple[tuple[slice, slice], Mask]:
        """Paint it over a picture; returns the part that it touches, and what it covers of that."""
        (width, height), (x, y) = self.sprite.size, self.path[frame]
        turn, factor = self.angle[frame % len(self.angle)], self.scale[frame % len(self.scale)]
        reach = factor * np.hypot(width, height) / 2 + 2
        left, right = np.clip([np.floor(x - reach), np.ceil(x + reach)], 0, WIDTH).astype(int)
        top, bottom = np.clip([np.floor(y - reach), np.ceil(y + reach)], 0, HEIGHT).astype(int)
        part = slice(top, bottom), slice(left, right)
        if left >= right or top >= bottom:
            return part, np.zeros((bottom - top, right - left), bool)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(turn), float(factor))
        matrix[:, 2] += x - width / 2 - left, y - height / 2 - top
        size = (int(right - left), int(bottom - top))
        colours = cv2.warpAffine(self.sprite.rgb, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        cover = cv2.warpAffine(self.sprite.alpha, matrix, size).astype(np.float32) / 255
        picture[part] += (colours - picture[part]) * cover[..., None]
        return part, cover > 0.5


@dataclass
class _Scene:
    """What is filmed without a cut.

    Attributes:
        background: larger than the frame.
        actors: back to front.
        light: ``[T]``, a factor of the brightness.
    """

    background: Picture
    actors: Sequence[_Actor]
    length: int
    light: NDArray[np.float64]
    start: int = 0  # frame of the actors' paths


class _Props:
    """Sprites, backgrounds and numbers of one split."""

    def __init__(self, split: str, rng: np.random.Generator) -> None:
        self.rng = rng
        self._split = split

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self.rng.integers(low, high + 1))

    def perhaps(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def sprite(self, side: float) -> _Sprite:
        """An object whose longer side is ``side`` pixels."""
        if self.perhaps(0.6):
            cut_outs = _CUT_OUTS[self._split]
            whole = _cut_out(*cut_outs[self.whole(0, len(cut_outs) - 1)])
        else:
            whole = _Sprite(procedural_texture(160, self.rng), self._blob(160))
        factor = side / max(whole.size)
        size = tuple(max(8, round(factor * each)) for each in whole.size)
        rgb, alpha = (
            cv2.resize(each, size, interpolation=cv2.INTER_AREA)
            for each in (whole.rgb, whole.alpha)
        )
        return _Sprite(rgb.astype(np.uint8), alpha.astype(np.uint8))

    def look_alike(self, sprite: _Sprite) -> _Sprite:
        """Almost the same, as two bees are: mirrored at times, a little lighter or darker."""
        rgb = sprite.rgb.astype(np.float32) * self.between(0.92, 1.08) + self.rng.normal(0, 5, 3)
        found = _Sprite(np.clip(rgb, 0, 255).astype(np.uint8), sprite.alpha)
        if self.perhaps():
            found = _Sprite(found.rgb[:, ::-1].copy(), found.alpha[:, ::-1].copy())
        return found

    def panel(self, width: float, height: float) -> _Sprite:
        """A board to hide behind."""
        size = max(8, round(width)), max(8, round(height))
        rgb = cv2.resize(procedural_texture(max(size), self.rng)[: size[1], : size[0]], size)
        return _Sprite(rgb.astype(np.uint8), np.full(size[::-1], 255, np.uint8))

    def background(self) -> Picture:
        """A tenth larger than the frame."""
        size = round(1.1 * WIDTH), round(1.1 * HEIGHT)
        if self.perhaps(0.2):
            return cv2.resize(procedural_texture(size[0], self.rng), size).astype(np.uint8)
        parts = _BACKGROUNDS[self._split]
        file, (left, top, right, bottom) = parts[self.whole(0, len(parts) - 1)]
        picture = read_photo(file)[top:bottom, left:right]
        if self.perhaps():
            picture = picture[:, ::-1]
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)

    def wander(self, length: int, reach: float) -> NDArray[np.float64]:
        """Slow irregular motion of up to about ``reach`` pixels, from (0, 0): ``[T, 2]``."""
        time = np.arange(length)[:, None]
        periods, phases = self.rng.uniform(30, 110, (3, 2)), self.rng.uniform(0, 6.3, (3, 2))
        swings = [np.sin(6.283 * time / a + b) for a, b in zip(periods, phases, strict=True)]
        path = np.sum(swings, axis=0) * reach / 2
        return np.asarray(path - path[:1])

    def scene(
        self, actors: Sequence[_Actor], length: int, light: NDArray[np.float64] | None = None
    ) -> _Scene:
        return _Scene(self.background(), actors, length, np.ones(1) if light is None else light)

    def _blob(self, side: int) -> Picture:
        rows, columns = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
        angle, radius = np.arctan2(rows, columns), np.hypot(rows, columns)
        edge = np.full_like(angle, 0.7)
        for wave in range(2, 6):
            swing = self.rng.normal(0, 0.25 / wave)
            edge += swing * np.cos(wave * angle + self.rng.uniform(0, 6.3))
        inside = (radius < np.clip(edge, 0.3, 0.95)).astype(np.uint8) * 255
        x, y, width, height = cv2.boundingRect(inside)
        return cv2.GaussianBlur(inside, (3, 3), 0)[y : y + height, x : x + width]


def _cut_out(file: str, name: str) -> _Sprite:
    found = photo_objects()[file][name]
    alpha = found.mask.astype(np.uint8) * np.uint8(255)
    x, y, width, height = cv2.boundingRect(alpha)
    part = np.s_[y : y + height, x : x + width]
    return _Sprite(found.image[part], alpha[part])


# Families: each gives the scenes of a clip. It is calm at first, as most of a video is; what goes
# wrong does so in the last third or half. Where something is hidden, it is so for 5 to 20 frames.


def _crossing(props: _Props) -> list[_Scene]:
    """Look-alikes pass close in front of one another, and sometimes back again."""
    side, calm = props.between(40, 62), props.whole(50, 110)
    sprite = props.sprite(side)
    pass_frames, rest = props.whole(22, 40), props.whole(12, 30)
    passes = props.whole(1, 2)
    length = calm + passes * pass_frames + rest
    time = np.arange(length)
    shift = np.interp(time, [calm, calm + pass_frames], [0.0, 1.0])
    if passes == 2:
        back = [calm + pass_frames, calm + 2 * pass_frames]
        shift -= np.interp(time, back, [0.0, 1.0])
    far, apart = props.between(90, 110), props.between(0, 0.35) * side
    base = props.wander(length, 16)
    actors = []
    for place in range(props.whole(2, 3)):
        sign = 1 if place % 2 else -1
        x = WIDTH / 2 + sign * far * (1 - 2 * shift)
        y = HEIGHT * 0.5 + sign * apart + 0 * x
        if place == 2:  # a third one looks on from above
            x, y = np.full(length, WIDTH / 2), np.full(length, side / 2 + 14)
        path = np.stack([x, y], axis=1) + base + props.wander(length, 5)
        look = sprite if place == 0 else props.look_alike(sprite)
        actors.append(_Actor(look, path, f"twin {place + 1}" if place < 2 else ""))
    order = props.rng.permutation(len(actors))
    return [props.scene([actors[place] for place in order], length)]


def _occlusion(props: _Props) -> list[_Scene]:
    """An object passes behind a board, once or to and fro; another one, often alike, does not."""
    side, speed = props.between(32, 55), props.between(4.0, 6.5)
    sprite, hidden = props.sprite(side), props.whole(6, 17)
    board = sprite.size[0] + speed * hidden
    left, right = side / 2 + 12, WIDTH - side / 2 - 12
    middle = float(np.clip(props.between(0.4, 0.6) * WIDTH, left + side / 2 + board / 2, right))
    y = props.between(0.3, 0.5) * HEIGHT
    there = np.arange(left, right, speed)
    back, rests = props.perhaps(0.3), props.whole(12, 24)
    waits = props.whole(50, 60) if back else props.whole(60, 100)
    parts = [np.full(waits, there[0]), there, np.full(rests, there[-1])]
    if back:
        parts += [there[::-1], np.full(rests, there[0])]
    x = np.concatenate(parts)
    swing = np.stack([4 * np.sin(np.arange(len(x)) / 9), 6 * np.sin(np.arange(len(x)) / 7)], axis=1)
    hides = _Actor(sprite, np.stack([x, np.full(len(x), y)], axis=1) + swing, "hides")
    panel = _Actor(props.panel(board, HEIGHT * 0.5), np.tile([middle, y], (len(x), 1)))
    other = props.look_alike(sprite) if props.perhaps() else props.sprite(side)
    place = np.array([props.between(0.2, 0.8) * WIDTH, HEIGHT - side / 2 - 12])
    stays = _Actor(other, place + props.wander(len(x), 8), "stays")
    return [props.scene([hides, panel, stays], len(x))]


def _leaving(props: _Props) -> list[_Scene]:
    """An object leaves the picture and comes back, where it left or on the other side."""
    side, calm, rest = props.between(36, 60), props.whole(60, 110), props.whole(20, 45)
    sprite = props.sprite(side)
    speed, gone = props.between(6, 10), props.whole(5, 16)
    start = np.array([props.between(0.3, 0.7) * WIDTH, props.between(0.25, 0.4) * HEIGHT])
    margin = side / 2 + 14
    edges = {-1: -margin - start[0], 1: WIDTH + margin - start[0]}
    leave, enter = (edges[-1 if props.perhaps() else 1] for _ in range(2))
    walks = [int(abs(each) / speed) for each in (leave, enter)]
    length = calm + sum(walks) + gone + rest
    marks = np.cumsum([calm, walks[0], gone, walks[1]])
    path = start + props.wander(length, 14)
    path[:, 0] += np.interp(
        np.arange(length), [*marks[:2], marks[1] + 1, *marks[2:]], [0, leave, enter, enter, 0]
    )
    other = props.look_alike(sprite) if props.perhaps() else props.sprite(side)
    place = np.array([props.between(0.2, 0.8) * WIDTH, HEIGHT - side / 2 - 20])
    stays = _Actor(other, place + props.wander(length, 12), "stays")
    return [props.scene([_Actor(sprite, path, "leaves"), stays], length)]


def _left_and_right(props: _Props, sprites: Sequence[_Sprite], length: int) -> list[_Actor]:
    """Two objects beside one another, each near a place of its own."""
    places = np.array([[0.28 * WIDTH, 0.45 * HEIGHT], [0.72 * WIDTH, 0.55 * HEIGHT]])
    return [
        _Actor(each, place + props.wander(length, 14), name)
        for each, place, name in zip(sprites, places, ("left", "right"), strict=True)
    ]


def _cuts(props: _Props) -> list[_Scene]:
    """Another scene in between, with other objects, often alike; the first goes on behind it."""
    side = props.between(36, 64)
    sprite, other = props.sprite(side), props.sprite(props.between(36, 64))
    parts = [props.whole(60, 110)]
    for _ in range(2 if props.perhaps(0.3) else 1):
        parts += [props.whole(8, 20), props.whole(20, 40)]
    length = sum(parts)
    first = _left_and_right(props, (sprite, other), length)
    home = props.scene(first, length)
    scenes, begin = [], 0
    for number, part in enumerate(parts):
        if number % 2 == 0:
            scenes.append(_Scene(home.background, first, part, home.light, begin))
        else:
            guest = props.look_alike(sprite) if props.perhaps() else props.sprite(side)
            place = np.array([props.between(0.2, 0.8) * WIDTH, props.between(0.3, 0.7) * HEIGHT])
            scenes.append(props.scene([_Actor(guest, place + props.wander(part, 10))], part))
        begin += part
    return scenes


def _changing(props: _Props) -> list[_Scene]:
    """An object shrinks, turns and grows again, the light fades; another passes in front."""
    length, side = props.whole(90, 160), props.between(56, 84)
    sprite = props.sprite(side)
    time = np.arange(length)
    deep = props.between(0.5, 0.75)
    scale = np.asarray(1 - deep * np.sin(np.pi * time / length) ** 2, np.float64)
    angle = np.asarray(props.between(-5, 5) * time, np.float64)
    light = 1 - props.between(0.2, 0.65) * np.sin(np.pi * time / props.between(30, 80)) ** 2
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    changes = _Actor(sprite, centre + props.wander(length, 25), "changes", scale, angle)
    passing = props.sprite(side * props.between(0.7, 1.1))
    x = np.linspace(-WIDTH / 2, WIDTH + 80, length)
    path = np.stack([x, HEIGHT / 2 + props.between(-20, 20) + 0 * x], axis=1)
    still = props.sprite(props.between(34, 50))
    corner = np.array([WIDTH - 45, HEIGHT - 40])
    stays = _Actor(still, corner + props.wander(length, 4), "stays")
    return [props.scene([changes, stays, _Actor(passing, path)], length, light)]


def _crowd(props: _Props) -> list[_Scene]:
    """Five look-alikes whose paths come to cross, a board in the middle, one that leaves."""
    length, side = props.whole(140, 200), props.between(34, 44)
    sprite = props.sprite(side)
    time = np.arange(length)
    stirred = np.interp(time, [0.5 * length, 0.75 * length], [0.2, 1.0])[:, None]
    actors = []
    for place in range(5):
        start = np.array([(place + 0.5) * WIDTH / 5, HEIGHT * (0.22 if place % 2 else 0.78)])
        path = start + props.wander(length, 55) * stirred
        path[:, 0] = np.clip(path[:, 0], side / 2, WIDTH - side / 2)
        path[:, 1] = np.clip(path[:, 1], side / 2, HEIGHT - side / 2)
        name = f"one {place + 1}" if place < 3 else ""
        actors.append(_Actor(props.look_alike(sprite), path, name))
    begin, walk = int(0.6 * length), props.whole(8, 18)
    away = np.clip((time - begin) * 9.0, 0, 110)
    away -= np.clip((time - begin - 13 - walk) * 9.0, 0, 110)
    actors[0].path[:, 0] -= away
    board = props.panel(side * 1.6, side * 1.6)
    middle = np.tile([WIDTH / 2, HEIGHT / 2], (length, 1))
    return [props.scene([*actors, _Actor(board, middle)], length)]


def _views(props: _Props) -> list[_Scene]:
    """Another view in between, in which one of two objects is seen again, elsewhere."""
    side = props.between(36, 64)
    sprite, other = props.sprite(side), props.sprite(props.between(36, 64))
    parts = [props.whole(40, 70), props.whole(15, 30), props.whole(15, 30)]
    length = sum(parts)
    first = _left_and_right(props, (sprite, other), length)
    home = props.scene(first, length)
    place = np.array([props.between(0.2, 0.8) * WIDTH, props.between(0.3, 0.7) * HEIGHT])
    view = [_Actor(sprite, place + props.wander(parts[1], 10), "left")]
    return [
        _Scene(home.background, first, parts[0], home.light),
        props.scene(view, parts[1]),
        _Scene(home.background, first, parts[2], home.light, parts[0] + parts[1]),
    ]


FAMILIES: dict[str, Callable[[_Props], list[_Scene]]] = {
    "crossing": _crossing,
    "occlusion": _occlusion,
    "leaving": _leaving,
    "cuts": _cuts,
    "changing": _changing,
    "crowd": _crowd,
    "views": _views,
}


def _film(
    scenes: Sequence[_Scene], rng: np.random.Generator
) -> tuple[list[Picture], dict[str, Mask]]:
    names = sorted({actor.name for scene in scenes for actor in scene.actors if actor.name})
    length = sum(scene.length for scene in scenes)
    masks = {name: np.zeros((length, HEIGHT, WIDTH), bool) for name in names}
    frames: list[Picture] = []
    for scene in scenes:
        room = scene.background.shape[1] - WIDTH, scene.background.shape[0] - HEIGHT
        for step in range(scene.length):
            time = scene.start + step
            swing = 0.5 + 0.5 * np.sin(time / 40)
            left, top = round(room[0] * swing), round(room[1] * swing)
            picture = scene.background[top : top + HEIGHT, left : left + WIDTH].astype(np.float32)
            for actor in scene.actors:
                part, inside = actor.paint(picture, time)
                for mask in masks.values():  # what stands in front hides it
                    mask[len(frames)][part] &= ~inside
                if actor.name:
                    masks[actor.name][len(frames)][part] = inside
            picture *= scene.light[time % len(scene.light)]
            grain = rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
            picture += np.float32(2.5) * grain
            frames.append(np.clip(picture, 0, 255).astype(np.uint8))
    return frames, masks
