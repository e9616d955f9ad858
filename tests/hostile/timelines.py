"""Attacks by what a task says of its video: numbers that would be counted through."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.video_regions import read_video_regions
from backend.pixels.frame_table import FrameTable, VideoIndex
from backend.tracking.video import read_timeline
from tests.hostile.arena import Arena
from tests.hostile.corpus import Attack

CONFIG = """<View><Video name="video" value="$video" framerate="$fps"/>
<VideoRectangle name="box" toName="video"/>
<Labels name="labels" toName="video"><Label value="Cat"/></Labels></View>"""
TOO_MANY = "more than 1000000 frames"

FRAMERATES: dict[str, tuple[object, str]] = {
    "a framerate of a million million": (1e12, TOO_MANY),
    "a framerate as text": ("9" * 300, TOO_MANY),
    "a framerate near infinity": (1e308, TOO_MANY),
    "a framerate next to nothing": (1e-320, TOO_MANY),
    "a negative framerate": (-25, "is negative"),
}


def attacks() -> list[Attack]:
    """See the module."""
    found = [
        Attack("task", name, partial(_count, value, None), says)
        for name, (value, says) in FRAMERATES.items()
    ]
    found.append(
        Attack("task", "a region of a billion frames", partial(_count, 25, 10**9), TOO_MANY)
    )
    return found


def _count(framerate: object, stated: int | None, arena: Arena) -> str:
    config = parse_label_config(CONFIG)
    value = {"sequence": [{"frame": 1, "enabled": True, "x": 1, "y": 1, "width": 9, "height": 9,
                           "rotation": 0, "time": 0.04}], "labels": ["Cat"]}  # fmt: skip
    item = {"id": "a", "type": "videorectangle", "from_name": "box", "to_name": "video",
            "value": {**value, "framesCount": stated}}  # fmt: skip
    regions = read_video_regions([item] if stated else [], config)
    assert bool(stated) == bool(regions)
    ticks = np.arange(75, dtype=np.int64)
    table = FrameTable(
        pts=ticks, key_pts=ticks[:1], key_dts=ticks[:1], time_base=Fraction(1, 25), origin=0,
        last_duration=1, missing=0,
    )  # fmt: skip
    index = VideoIndex("key", table, 3.0, 64, 48)
    timeline = read_timeline(config, "video", {"fps": framerate}, regions, index)
    return f"counts {timeline.frames_count} frames"
