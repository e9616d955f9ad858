"""The table of presentation timestamps: which frames a file has, and when each is shown.

Everything that names a frame by number goes through this table; frame rates, frame counts and
durations stated in files are not trusted. It comes from one pass over the file's packets,
without decoding them (``containers.py``), or from an index that says the same (``mp4_index.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAYS = ("pts", "key_pts", "key_dts")


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

    def group_start(self, index: int) -> int:
        """The first of the frames that decoding ``index`` goes through anyway."""
        return min(index, self.first_from(self.key_before(index)))


def pack_table(table: FrameTable) -> tuple[dict[str, Any], bytes]:
    """A table as a header and the bytes of its arrays, int64 in the order of ``_ARRAYS``."""
    arrays = [getattr(table, name) for name in _ARRAYS]
    header = {
        "lengths": [len(array) for array in arrays],
        "time_base": [table.time_base.numerator, table.time_base.denominator],
        "origin": table.origin,
        "last_duration": table.last_duration,
        "missing": table.missing,
    }
    return header, b"".join(array.tobytes() for array in arrays)


def unpack_table(header: Mapping[str, Any], payload: bytes | bytearray) -> FrameTable:
    """The table that ``pack_table`` packed.

    Raises:
        ValueError, TypeError, KeyError, ZeroDivisionError: it is none.
    """
    whole = np.frombuffer(payload, np.int64)
    lengths = [int(length) for length in header["lengths"]]
    if len(lengths) != len(_ARRAYS) or sum(lengths) != len(whole) or min(lengths) < 1:
        raise ValueError("the arrays do not have the lengths stated")
    parts = np.split(whole, np.cumsum(lengths)[:-1])
    return FrameTable(
        **dict(zip(_ARRAYS, parts, strict=True)),
        time_base=Fraction(*header["time_base"]),
        origin=int(header["origin"]),
        last_duration=int(header["last_duration"]),
        missing=int(header["missing"]),
    )


@dataclass(frozen=True)
class VideoIndex:
    """What is known of a video without decoding it.

    Attributes:
        content_key: the same for the same bytes.
        table: the frames and their timestamps.
        duration: seconds, see ``VideoFrames``.
        width, height: of every frame, upright.
    """

    content_key: str
    table: FrameTable
    duration: float
    width: int
    height: int
