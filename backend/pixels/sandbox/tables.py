"""Frame tables on their way between the service and a decoding process."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from backend.pixels.frame_table import FrameTable

ARRAYS = ("pts", "key_pts", "key_dts")


def pack_table(table: FrameTable) -> tuple[dict[str, Any], bytes]:
    """A table as a header and the bytes of its arrays, int64 in the order of ``ARRAYS``."""
    arrays = [getattr(table, name) for name in ARRAYS]
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
    if len(lengths) != len(ARRAYS) or sum(lengths) != len(whole) or min(lengths) < 1:
        raise ValueError("the arrays do not have the lengths stated")
    parts = np.split(whole, np.cumsum(lengths)[:-1])
    return FrameTable(
        **dict(zip(ARRAYS, parts, strict=True)),
        time_base=Fraction(*header["time_base"]),
        origin=int(header["origin"]),
        last_duration=int(header["last_duration"]),
        missing=int(header["missing"]),
    )
