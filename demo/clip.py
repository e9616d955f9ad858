"""The demo's sample clip: a flower bud and a bee, cut out of a photo, move over concrete.

It is drawn from the sample photos whenever it is wanted, so that no video lies in the repository
and the true mask of every frame is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from demo.sample_photos import photo_objects, read_photo

WIDTH, HEIGHT = 640, 360
FRAMES = 16
FRAMES_PER_SECOND = 8
_JPEG_QUALITY = 90
# A part of bowl.jpg that shows nothing but concrete: left, top, right, bottom in pixels.
_CONCRETE = (0, 390, 230, 677)


@dataclass(frozen=True)
class Pose:
    """Where an object is on a frame: its centre in pixels, its size as a factor, its turn in
    degrees (anticlockwise)."""

    x: float
    y: float
    scale: float
    angle: float


@dataclass(frozen=True)
class SampleObject:
    """An object that moves; ``pose`` is given the time, from 0 (first frame) to 1 (last)."""

    name: str
    label: str
    pose: Callable[[float], Pose]


OBJECTS = (
    SampleObject(
        "bud",
        "Flower",
        lambda t: Pose(140 + 160 * t, 210 - 70 * np.sin(np.pi * t), 0.75 + 0.15 * t, 20 * t),
    ),
    SampleObject(
        "bee",
        "Animal",
        lambda t: Pose(440 + 80 * t, 110 + 110 * t, 0.65, 12 * np.sin(2 * np.pi * t)),
    ),
)


@dataclass(frozen=True)
class SampleClip:
    """The drawn clip.

    Attributes:
        frames: uint8 RGB ``[H, W, 3]`` each.
        masks: by an object's name, bool ``[number of frames, H, W]``.
    """

    frames: list[NDArray[np.uint8]]
    masks: dict[str, NDArray[np.bool_]]

    def backwards(self) -> SampleClip:
        """The same from its end to its beginning."""
        masks = {name: found[::-1] for name, found in self.masks.items()}
        return SampleClip(self.frames[::-1], masks)

    def write_pages(self, directory: Path) -> list[Path]:
        """Write each frame as a JPEG file; returns the files in order."""
        directory.mkdir(parents=True, exist_ok=True)
        files = [directory / f"page_{index:02d}.jpg" for index in range(len(self.frames))]
        for file, frame in zip(files, self.frames, strict=True):
            picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(file), picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        return files

    def write_video(self, file: Path) -> None:
        """Write an MP4 file (H.264) of 8 frames per second."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(file), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "20"}
            for frame in self.frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())


@lru_cache(maxsize=1)
def sample_clip() -> SampleClip:
    """Draw the clip; the same one every time."""
    background = _background()
    cut_outs = {each.name: _cut_out(each.name) for each in OBJECTS}
    frames = []
    masks: dict[str, list[NDArray[np.bool_]]] = {each.name: [] for each in OBJECTS}
    for index in range(FRAMES):
        picture = background.astype(np.float32)
        for each in OBJECTS:
            colours, cover = _placed(*cut_outs[each.name], each.pose(index / (FRAMES - 1)))
            picture += (colours - picture) * cover[..., None]
            masks[each.name].append(cover > 0.5)
        frames.append(picture.round().clip(0, 255).astype(np.uint8))
    return SampleClip(frames, {name: np.stack(found) for name, found in masks.items()})


def _background() -> NDArray[np.uint8]:
    left, top, right, bottom = _CONCRETE
    concrete = read_photo("bowl.jpg")[top:bottom, left:right]
    height, width = concrete.shape[:2]
    # Mirrored at its edges, so that no seam shows.
    rows, columns = max(0, HEIGHT - height), max(0, WIDTH - width)
    border = cv2.copyMakeBorder(concrete, 0, rows, 0, columns, cv2.BORDER_REFLECT)
    return border[:HEIGHT, :WIDTH].astype(np.uint8)


def _cut_out(name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The object's part of its photo, and how far each pixel belongs to it (0..1)."""
    found = photo_objects()["quince.jpg"][name]
    x, y, width, height = cv2.boundingRect(found.mask.astype(np.uint8))
    part = np.s_[y : y + height, x : x + width]
    return found.image[part], found.mask[part].astype(np.float32)


def _placed(
    colours: NDArray[np.uint8], cover: NDArray[np.float32], pose: Pose
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    height, width = cover.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), pose.angle, pose.scale)
    matrix[:, 2] += pose.x - width / 2, pose.y - height / 2
    size = (WIDTH, HEIGHT)
    placed = cv2.warpAffine(
        colours, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    covers = cv2.warpAffine(cover, matrix, size, flags=cv2.INTER_LINEAR)
    return placed.astype(np.float32), covers.astype(np.float32)
