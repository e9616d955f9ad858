"""Decoding exactly the frame that is asked for.

A frame is named by its place in the table of timestamps. To reach it, the decoder starts at the
key frame before it and goes on until a picture with its timestamp comes out. Nothing is computed
from frame rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import BinaryIO, cast

import av
import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import SideData, Type
from av.video.stream import VideoStream

from backend.pixels.buffer import Picture
from backend.pixels.containers import open_container, packets, scan
from backend.pixels.frame_table import FrameTable
from backend.pixels.mp4_index import table_from_index
from backend.pixels.video_limits import VideoError, VideoLimits

_Found = tuple[int, VideoFrame]
_Orientation = tuple[bool, bool, bool]
"""Whether to transpose a picture, and then to mirror it sideways, and upside down."""


class Decoder:
    """Pictures of one file, in runs of ascending frame numbers. Not thread-safe.

    A frame that the decoder makes no picture of, because its data are damaged, shows what a
    player shows then: the picture before it, or at the very start the one after it.

    Attributes:
        table: the file's frames.
        duration: seconds, as the file states it, or else until its last frame ends.
        width, height: of the pictures, upright.
    """

    def __init__(self, file: BinaryIO, limits: VideoLimits, table: FrameTable | None) -> None:
        self._file, self._limits = file, limits
        self._container, self._stream = open_container(file, limits)
        try:
            self.table = table or self._read_table()
            stated = self._container.duration
            self.duration = stated / av.time_base if stated else self.table.end
            self._decoded: Iterator[_Found] = iter(())
            self._shown: _Found | None = None  # the picture on screen at frame _at
            self._coming: _Found | None = None  # decoded, but later than _at
            self._at = len(self.table)
            frame = self._frame(0)
            self._stored_size = frame.width, frame.height
            self._orientation = _orientation(frame)
        except BaseException:
            self._container.close()
            raise
        transposed = self._orientation[0]
        self.width, self.height = self._stored_size[::-1] if transposed else self._stored_size

    def read(self, first: int, last: int) -> Iterator[tuple[int, Picture]]:
        """The pictures of frames ``first`` to ``last``, both included.

        Raises:
            VideoError: the frames cannot be decoded, or the picture size changes among them.
        """
        for index in range(first, last + 1):
            try:
                frame = self._frame(index)
            except BaseException:
                # Reading starts anew with the next frame: a file that could not be read for a
                # moment must not look like one that ends there.
                self._at = len(self.table)
                raise
            size = frame.width, frame.height
            if size != self._stored_size:
                was = f"{self._stored_size[0]} x {self._stored_size[1]}"
                raise VideoError(
                    f"The video changes its picture size at frame {index + 1} from {was} to "
                    f"{size[0]} x {size[1]}. Convert it to one size: "
                    "ffmpeg -i input -vf scale=1280:720 output.mp4"
                )
            yield index, _to_picture(frame, self._orientation)

    def suspend(self) -> None:
        """Nothing to free: the process around it is what costs."""

    def close(self) -> None:
        """Free the decoder; the file object stays open."""
        self._container.close()

    def _read_table(self) -> FrameTable:
        table = table_from_index(self._file, self._container, self._stream, self._limits)
        if table is not None:
            return table
        if self._container.format.name.startswith("mov"):  # its first packets have been read
            self._reopen()
        return scan(self._container, self._stream, self._limits)

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream = open_container(self._file, self._limits)

    def _frame(self, index: int) -> VideoFrame:
        key = self.table.key_before(index)
        if index < self._at or self.table.first_from(key) > self._at + 1:
            self._start(key)
        while True:
            shown = self._advance(index)
            if shown is not None:
                return shown
            if key == 0:
                break
            key -= 1  # this group gave no picture up to here: the one before is still on screen
            self._start(key)
        if self._coming is not None:
            return self._coming[1]
        raise VideoError(f"Frame {index + 1} of the video cannot be decoded: the file is damaged.")

    def _advance(self, index: int) -> VideoFrame | None:
        """Decode on to the picture on screen at frame ``index``; None if there is none yet."""
        while self._shown is None or self._shown[0] < index:
            if self._coming is None:
                self._coming = next(self._decoded, None)
            if self._coming is None or self._coming[0] > index:
                break
            if self._shown is None or self._coming[0] > self._shown[0]:
                self._shown = self._coming
            self._coming = None
        self._at = index
        return None if self._shown is None else self._shown[1]

    def _start(self, key: int) -> None:
        """Begin a new run at the key frame in position ``key`` of the table, or before it."""
        self._shown = self._coming = None
        self._at = self.table.first_from(key) - 1
        self._decoded = self._pictures(self._packets_from(key))

    def _packets_from(self, key: int) -> Iterator[av.Packet[VideoStream]]:
        """Packets from a key frame on. Formats disagree on what a seek goes by (MPEG-TS: the
        decoding time) and may land too late: each landing is checked, and the last resort is the
        start of the file."""
        table, wanted = self.table, int(self.table.key_pts[key])
        targets = [wanted, int(table.key_dts[key]), int(table.key_dts[max(0, key - 1)])]
        if self._container.format.name == "mpegts":
            del targets[0]
        for target in targets:
            try:
                self._container.seek(target, stream=self._stream)
            except av.FFmpegError:
                continue
            found = packets(self._container, self._stream)
            for packet in found:
                if packet.is_keyframe and packet.pts is not None:
                    if packet.pts <= wanted:
                        return chain([packet], found)
                    break
        self._reopen()
        return packets(self._container, self._stream)

    def _pictures(self, found: Iterator[av.Packet[VideoStream]]) -> Iterator[_Found]:
        """The pictures that packets give and that are in the table, with their numbers."""
        for packet in chain(found, [None]):  # after a torn end the decoder still holds pictures
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:  # damaged: the picture before stays on screen
                continue
            for frame in frames:
                index = None if frame.pts is None else self.table.index_of(frame.pts)
                if index is not None:
                    self._limits.check_size(frame.width, frame.height)
                    yield index, frame


def _orientation(frame: VideoFrame) -> _Orientation:
    """What the display matrix of the file asks for.

    The matrix maps a stored position (p, q) to the shown one (a p + c q + x, b p + d q + y)
    (FFmpeg, libavutil/display.h). Turns by other angles than quarters are not applied.
    """
    side_data = cast(Mapping[Type, SideData], frame.side_data)  # PyAV 18 declares something else
    found = side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return False, False, False
    matrix = np.frombuffer(bytes(found), np.int32)
    a, b, c, d = (round(int(matrix[place]) / 65536) for place in (0, 1, 3, 4))
    if a and d and not b and not c:
        return False, a < 0, d < 0
    if b and c and not a and not d:
        return True, c < 0, b < 0
    return False, False, False


def _to_picture(frame: VideoFrame, orientation: _Orientation) -> Picture:
    """Convert a decoded frame to RGB and turn it upright: uint8 [H, W, 3]."""
    transpose, flip_x, flip_y = orientation
    pixels = frame.to_ndarray(format="rgb24")
    if transpose:
        pixels = pixels.transpose(1, 0, 2)
    if flip_x:
        pixels = pixels[:, ::-1]
    if flip_y:
        pixels = pixels[::-1]
    picture: Picture = np.ascontiguousarray(pixels)
    picture.flags.writeable = False
    return picture
