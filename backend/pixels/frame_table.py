"""The table of presentation timestamps: which frames a file has, and when each is shown.

Everything that names a frame by number goes through this table; frame rates, frame counts and
durations stated in files are not trusted. It comes from one pass over the file's packets,
without decoding them, or from an index that says the same (``sample_table.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from backend.pixels.containers import VideoLimits, packets, too_long
from backend.pixels.errors import VideoError

# Containers that browsers play, on whose clock 0 is the file's 0 even if the first frame comes
# later (measured with Chromium 156). Of others the first timestamp, often arbitrary, is 0.
_BROWSER_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "ogg")


@dataclass(frozen=True, eq=False)
class FrameTable:
    """The frames of one file in the order they are shown.

    Attributes:
        pts: timestamps in units of ``time_base``, int64 [N], strictly ascending.
        key_pts: timestamps of the key frames, from which decoding can start, int64 [K], ascending.
            Some may lie before the first frame, where an edit list cuts off the beginning.
        key_dts: the decoding timestamps of the key frames, int64 [K].
        time_base: seconds.
        origin: the timestamp that is 0 on the browser's clock.
        last_duration: of the last frame, in units of ``time_base``.
        missing: frames that the file announces at its end but does not hold.
    """

    pts: NDArray[np.int64]
    key_pts: NDArray[np.int64]
    key_dts: NDArray[np.int64]
    time_base: Fraction
    origin: int
    last_duration: int
    missing: int

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def times(self) -> NDArray[np.float64]:
        """When each frame is first shown, seconds on the browser's clock, float64 [N]."""
        units = (self.pts - self.origin).astype(np.float64)
        return units * self.time_base.numerator / self.time_base.denominator

    @property
    def end(self) -> float:
        """When the last frame ends, seconds on the browser's clock."""
        return float((int(self.pts[-1]) + self.last_duration - self.origin) * self.time_base)

    def index_of(self, pts: int) -> int | None:
        """The frame with exactly this timestamp."""
        index = int(np.searchsorted(self.pts, pts))
        return index if index < len(self.pts) and self.pts[index] == pts else None

    def key_before(self, index: int) -> int:
        """Position in ``key_pts`` of the key frame to start from for frame ``index``."""
        return max(0, int(np.searchsorted(self.key_pts, self.pts[index], "right")) - 1)

    def first_from(self, key: int) -> int:
        """The first frame from the key frame in position ``key`` on."""
        return int(np.searchsorted(self.pts, self.key_pts[key]))


@dataclass
class Seen:
    """What one pass over the packets found, in the order of the file."""

    pts: list[int] = field(default_factory=list)
    keys: dict[int, int] = field(default_factory=dict)  # pts: dts
    damaged_tail: int = 0  # packets at the end of the file that are not all there
    count: int = 0
    last_duration: int = 0


def scan(container: InputContainer, stream: VideoStream, limits: VideoLimits) -> FrameTable:
    """Read all packets of the stream, from the start, and make the table.

    Raises:
        VideoError: no frames, no timestamps, or outside the limits.
    """
    return make_table(container, stream, _read_packets(container, stream, limits), limits)


def make_table(
    container: InputContainer, stream: VideoStream, seen: Seen, limits: VideoLimits
) -> FrameTable:
    """The table of what was seen of a file.

    Raises:
        VideoError: no frames, no timestamps, or outside the limits.
    """
    time_base = stream.time_base
    if time_base is None:
        raise VideoError("The video states no unit of time, so its frames cannot be told apart.")
    if len(seen.pts) > limits.max_frames:
        raise VideoError(too_many(limits))
    if not seen.pts:
        raise VideoError("The file holds no frames: it is empty or was cut short at the start.")
    pts = np.unique(np.array(seen.pts, np.int64))
    # Where nothing is marked, decoding starts at the beginning.
    keys = sorted(seen.keys.items()) or [(int(pts[0]), int(pts[0]))]
    last_duration = seen.last_duration or (int(pts[-1] - pts[-2]) if len(pts) > 1 else 1)
    browser_clock = container.format.name in _BROWSER_FORMATS
    table = FrameTable(
        pts=pts,
        key_pts=np.array([key for key, _ in keys], np.int64),
        key_dts=np.array([dts for _, dts in keys], np.int64),
        time_base=time_base,
        origin=0 if browser_clock else int(pts[0]),
        last_duration=last_duration,
        missing=_missing(container, stream, seen, (int(pts[-1]) + last_duration) * time_base),
    )
    if table.end - min(0.0, float(table.times[0])) > limits.max_duration:
        raise VideoError(too_long(table.end, limits))
    return table


def _read_packets(container: InputContainer, stream: VideoStream, limits: VideoLimits) -> Seen:
    seen = Seen()
    for packet in packets(container, stream):
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            if packet.size:
                raise VideoError(
                    "The video has frames without a timestamp, so they cannot be told apart. "
                    "Convert it: ffmpeg -i input -c:v libx264 -pix_fmt yuv420p output.mp4"
                )
            continue
        seen.count += 1
        if packet.is_corrupt:
            seen.damaged_tail += 1
            continue
        seen.damaged_tail = 0
        if packet.is_keyframe:
            seen.keys[pts] = packet.dts if packet.dts is not None else pts
        if packet.is_discard:  # decoded for the sake of later frames, cut off by an edit list
            continue
        seen.pts.append(pts)
        seen.last_duration = packet.duration or 0
        if len(seen.pts) > limits.max_frames:
            raise VideoError(too_many(limits))
    return seen


def too_many(limits: VideoLimits) -> str:
    """The sentence for a video beyond ``max_frames``."""
    return f"The video has more than the allowed {limits.max_frames} frames."


def _missing(container: InputContainer, stream: VideoStream, seen: Seen, end: Fraction) -> int:
    """Frames announced but not there: from the index where the container has a complete one,
    else estimated from the duration stated for the stream."""
    if container.format.name.startswith("mov") or stream.frames:
        announced = len(stream.index_entries) or stream.frames
        return max(0, announced - seen.count) + seen.damaged_tail
    stated = _stated_end(stream)
    if stated is None or len(seen.pts) < 2:
        return seen.damaged_tail
    frame = Fraction(max(seen.pts) - min(seen.pts), len(seen.pts) - 1) * (stream.time_base or 1)
    absent = int((stated - end) / frame + Fraction(1, 2)) if frame else 0
    return max(0, absent)


def _stated_end(stream: VideoStream) -> Fraction | None:
    """Matroska's DURATION tag of the stream, ``00:00:02.393000000``, in seconds."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except (ValueError, ZeroDivisionError):
        return None
    return hours * 3600 + minutes * 60 + seconds
