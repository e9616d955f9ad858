"""A decoded frame as the browser shows it: turned as the file says, in RGB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import SideData, SideDataContainer, Type
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""uint8 RGB [H, W, 3], contiguous, read-only."""


@dataclass(frozen=True)
class Orientation:
    """What the display matrix of a file asks for: first transpose, then flip."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False


def orientation(frame: VideoFrame) -> Orientation:
    """The orientation of a decoded frame.

    The matrix maps a stored position (p, q) to the shown one (a p + c q + x, b p + d q + y)
    (FFmpeg, libavutil/display.h). Turns by other angles than quarters are not applied.
    """
    found = [data for data in _side_data(frame) if data.type == Type.DISPLAYMATRIX]
    if not found:
        return Orientation()
    matrix = np.frombuffer(bytes(found[0]), np.int32)
    a, b, c, d = (round(int(matrix[place]) / 65536) for place in (0, 1, 3, 4))
    if a and d and not b and not c:
        return Orientation(False, a < 0, d < 0)
    if b and c and not a and not d:
        return Orientation(True, c < 0, b < 0)
    return Orientation()


def _side_data(frame: VideoFrame) -> list[SideData]:
    container = cast(SideDataContainer, frame.side_data)  # PyAV 18 declares something else
    return [container[place] for place in range(len(container))]


def to_picture(frame: VideoFrame, turned: Orientation) -> Picture:
    """Convert a decoded frame to RGB and turn it upright: uint8 [H, W, 3]."""
    pixels = frame.to_ndarray(format="rgb24")
    if turned.transpose:
        pixels = pixels.transpose(1, 0, 2)
    if turned.flip_x:
        pixels = pixels[:, ::-1]
    if turned.flip_y:
        pixels = pixels[::-1]
    picture: Picture = np.ascontiguousarray(pixels)
    picture.flags.writeable = False
    return picture
