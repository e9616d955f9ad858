"""The demo's sample clip at any length and size, as a video file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from backend.labelstudio.geometry import Box, mask_to_box
from demo.clip import sample_clip

FRAMES_PER_SECOND = 25


@dataclass(frozen=True)
class MovingClip:
    """The clip played forward and backward in turns.

    Attributes:
        frames: number of them.
        width, height: of the pictures, in pixels.
    """

    frames: int
    width: int
    height: int

    @property
    def boxes(self) -> dict[str, Box]:
        """Where each object is on the first frame."""
        found = {name: mask_to_box(masks[0]) for name, masks in sample_clip().masks.items()}
        return {name: box for name, box in found.items() if box is not None}

    def picture(self, frame: int) -> NDArray[np.uint8]:
        """uint8 RGB ``[height, width, 3]``."""
        pages = sample_clip().frames
        place = frame % (2 * len(pages) - 2)
        page = pages[place if place < len(pages) else 2 * len(pages) - 2 - place]
        size = (self.width, self.height)
        return cv2.resize(page, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)

    def write(self, path: Path) -> Path:
        """An MP4 file (H.264) with its index at the start; returns ``path``."""
        options = {"movflags": "faststart"}
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            stream.options = {"crf": "28"}
            for frame in range(self.frames):
                picture = av.VideoFrame.from_ndarray(self.picture(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return path
