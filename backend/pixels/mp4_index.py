"""The table of frames of an MP4 or MOV file from its index, without reading the frames.

FFmpeg keeps the index as it was after the edit list was applied: where each frame lies, its
decoding time, whether it is a key frame, whether it is cut off. Only the offsets from decoding to
presentation time it keeps to itself; they are read here (ISO/IEC 14496-12, boxes ``ctts`` and what
is needed to know which offset belongs to which place in the file). The first packets are read and
compared; where anything does not fit, there is no table, and the packets have to be scanned.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from backend.pixels.containers import Seen, make_table, packets
from backend.pixels.frame_table import FrameTable
from backend.pixels.video_limits import VideoLimits

_COMPARED_PACKETS = 16
_MAX_BOXES = 10_000  # walked through in one file
_BYTES_PER_SAMPLE = 16  # at most, in any of the boxes read

_Expected = tuple[int, int, int, bool, bool]
"""What a packet must be like: its position, pts up to a constant shift, and dts; whether it is a
key frame, whether it is to be discarded."""


@dataclass(frozen=True)
class _Samples:
    """The samples of a track, in decoding order; int64 [N] each.

    Attributes:
        position: of the first byte in the file.
        offset: from decoding to presentation time.
        duration: until the next is decoded.
    """

    position: NDArray[np.int64]
    offset: NDArray[np.int64]
    duration: NDArray[np.int64]


class _Unusual(Exception):
    """The file is not as plain as this reader wants it."""


def table_from_index(
    file: BinaryIO, container: InputContainer, stream: VideoStream, limits: VideoLimits
) -> FrameTable | None:
    """The table that ``scan`` would make, or None where only a scan can tell.

    Args:
        file: what ``container`` reads; its position stays where it is.

    Raises:
        VideoError: outside the limits.
    """
    if not container.format.name.startswith("mov") or stream.time_base is None:
        return None
    position = file.tell()
    try:
        samples = _read_samples(file, stream.id, limits.max_frames)
        size = file.seek(0, os.SEEK_END)
    except (_Unusual, struct.error, ValueError):
        return None
    finally:
        file.seek(position)
    try:
        seen, entries = _from_index(stream, samples, size)
        shift = _shift(container, stream, entries)
    except _Unusual:
        return None
    seen.pts = [pts + shift for pts in seen.pts]
    seen.keys = {pts + shift: dts for pts, dts in seen.keys.items()}
    return make_table(container, stream, seen, limits) if seen.pts else None


def _from_index(stream: VideoStream, samples: _Samples, size: int) -> tuple[Seen, list[_Expected]]:
    """What a scan of a file of ``size`` bytes would see, up to the shift of all ``pts``."""
    order = np.argsort(samples.position, kind="stable")
    ascending = samples.position[order]
    if len(ascending) == 0 or (np.diff(ascending) == 0).any():
        raise _Unusual
    seen = Seen()
    expected: list[_Expected] = []
    for entry in stream.index_entries:
        place = int(np.searchsorted(ascending, entry.pos))
        if place == len(ascending) or ascending[place] != entry.pos:
            raise _Unusual
        if entry.pos + entry.size > size:  # the file ends before
            break
        sample = order[place]
        dts = int(entry.timestamp)
        pts = dts + int(samples.offset[sample])
        seen.count += 1
        if entry.is_keyframe:
            seen.keys[pts] = dts
        if not entry.is_discard:
            seen.pts.append(pts)
            seen.last_duration = int(samples.duration[sample])
        if len(expected) < _COMPARED_PACKETS:
            expected.append((entry.pos, pts, dts, entry.is_keyframe, entry.is_discard))
    return seen, expected


def _shift(container: InputContainer, stream: VideoStream, expected: list[_Expected]) -> int:
    """What FFmpeg adds to all presentation times, after comparing the first packets."""
    first = islice(packets(container, stream), len(expected))
    found = [packet for packet in first if packet.size]
    if not found or len(found) < len(expected):
        raise _Unusual
    shift = (found[0].pts or 0) - expected[0][1]
    for packet, (position, pts, dts, key, discard) in zip(found, expected, strict=True):
        seen = (packet.pos, packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
        if seen != (position, pts + shift, dts, key, discard):
            raise _Unusual
    return shift


# --- boxes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    kind: bytes
    start: int  # of its content
    stop: int


class _Boxes:
    """Walks through the boxes of a file, a bounded number of them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _MAX_BOXES

    def within(self, start: int, stop: int) -> Iterator[_Box]:
        """The boxes from ``start`` to ``stop``."""
        while start + 8 <= stop:
            self._left -= 1
            self._file.seek(start)
            head = self._file.read(16)
            if self._left < 0 or len(head) < 8:
                raise _Unusual
            size, kind = struct.unpack(">I4s", head[:8])
            header = 8
            if size == 1:
                size, header = struct.unpack(">Q", head[8:16])[0], 16
            elif size == 0:
                size = stop - start
            if size < header:
                raise _Unusual
            yield _Box(kind, start + header, min(start + size, stop))
            start += size

    def inside(self, box: _Box) -> dict[bytes, list[_Box]]:
        """The boxes in a box, by kind."""
        found: dict[bytes, list[_Box]] = {}
        for each in self.within(box.start, box.stop):
            found.setdefault(each.kind, []).append(each)
        return found

    def only(self, box: _Box, *path: bytes) -> _Box:
        """The one box that ``path`` leads to."""
        for kind in path:
            candidates = self.inside(box).get(kind, [])
            if len(candidates) != 1:
                raise _Unusual
            box = candidates[0]
        return box

    def content(self, box: _Box, limit: int) -> bytes:
        """The bytes of a box that has no more than ``limit``."""
        if box.stop - box.start > limit:
            raise _Unusual
        self._file.seek(box.start)
        content = self._file.read(box.stop - box.start)
        if len(content) != box.stop - box.start:
            raise _Unusual
        return content


def _read_samples(file: BinaryIO, track_id: int, max_frames: int) -> _Samples:
    boxes = _Boxes(file)
    end = file.seek(0, os.SEEK_END)
    movie = next((box for box in boxes.within(0, end) if box.kind == b"moov"), None)
    if movie is None:
        raise _Unusual
    inside = boxes.inside(movie)
    if b"mvex" in inside:  # fragmented: the index comes in pieces all over the file
        raise _Unusual
    for track in inside.get(b"trak", []):
        header = boxes.content(boxes.only(track, b"tkhd"), 200)
        at = 20 if header[0] == 1 else 12
        if struct.unpack_from(">I", header, at)[0] == track_id:
            table = boxes.inside(boxes.only(track, b"mdia", b"minf", b"stbl"))
            return _samples(boxes, table, max_frames)
    raise _Unusual


def _samples(boxes: _Boxes, table: dict[bytes, list[_Box]], max_frames: int) -> _Samples:
    def content(kind: bytes) -> bytes:
        found = table.get(kind, [])
        if len(found) != 1:
            raise _Unusual
        return boxes.content(found[0], 64 + max_frames * _BYTES_PER_SAMPLE)

    sizes = _sizes(content(b"stsz"), max_frames)
    count = len(sizes)
    kind, width = (b"stco", ">u4") if b"stco" in table else (b"co64", ">u8")
    chunks = _entries(content(kind), width, 1)[:, 0]
    position = _positions(sizes, chunks, content(b"stsc"))
    duration = _run_lengths(content(b"stts"), count)
    has_offsets = b"ctts" in table
    offset = _run_lengths(content(b"ctts"), count) if has_offsets else np.zeros(count, np.int64)
    return _Samples(position, offset, duration)


def _sizes(box: bytes, max_frames: int) -> NDArray[np.int64]:
    size, count = struct.unpack_from(">II", box, 4)
    if count > max_frames:
        raise _Unusual
    if size:
        return np.full(count, size, np.int64)
    return np.frombuffer(box, ">u4", count, 12).astype(np.int64)


def _entries(box: bytes, width: str, columns: int) -> NDArray[np.int64]:
    """The entries of a box that begins with their number, int64 [N, columns]."""
    count = struct.unpack_from(">I", box, 4)[0]
    return np.frombuffer(box, width, count * columns, 8).reshape(count, columns).astype(np.int64)


def _positions(
    sizes: NDArray[np.int64], chunks: NDArray[np.int64], box: bytes
) -> NDArray[np.int64]:
    """Where each sample begins: ``stsc`` says how many samples the chunks hold."""
    runs = _entries(box, ">u4", 3)
    first, held = runs[:, 0] - 1, runs[:, 1]
    lengths = np.diff(first, append=len(chunks))
    if not len(runs) or first[0] != 0 or (lengths <= 0).any() or (held > len(sizes)).any():
        raise _Unusual
    per_chunk = np.repeat(held, lengths)
    if per_chunk.sum() != len(sizes):
        raise _Unusual
    # Within a chunk the samples lie one after the other.
    before = np.cumsum(sizes) - sizes
    chunks, per_chunk = chunks[per_chunk > 0], per_chunk[per_chunk > 0]
    first_of = np.cumsum(per_chunk) - per_chunk
    return np.repeat(chunks - before[first_of], per_chunk) + before


def _run_lengths(box: bytes, count: int) -> NDArray[np.int64]:
    """The values of ``stts`` or ``ctts``, one for each of ``count`` samples. FFmpeg too takes
    them as signed, whatever the version of the box."""
    times, values = _entries(box, ">i4", 2).T
    if (times < 0).any() or times.sum() != count:
        raise _Unusual
    return np.repeat(values, times)
