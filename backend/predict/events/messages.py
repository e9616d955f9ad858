"""The replies of the protocol, as its editor reads them."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from backend.labelstudio.tags import LabelConfig

Item = dict[str, Any]

TARGETS: tuple[Mapping[str, Any], ...] = (
    {"tag": "BitmaskLabels", "output": "mask"},
    {"tag": "RectangleLabels", "output": "bbox"},
    {"tag": "PolygonLabels", "output": "polygon"},
    {"tag": "VectorLabels", "output": "polygon"},
    {"tag": "VideoRectangle", "output": "bbox", "features": ["track"]},
    {"tag": "VideoVectorLabels", "output": "polygon", "features": ["track"]},
)
"""The control tags that the editor binds; it makes boxes and outlines from masks by itself."""


@dataclass(frozen=True)
class Target:
    """The tags a reply names: the control that is answered, and the Video or Image it is on."""

    from_name: str = ""
    to_name: str = ""
    is_video: bool = True


def find_target(config: LabelConfig) -> Target | None:
    """What requests on a project are about: its first video with a control, else its first
    picture with one; None where there is neither."""
    for video in config.videos:
        for tag in config.video_controls:
            if tag.to_name == video.name:
                return Target(tag.name, video.name)
    for image in config.images:
        for control in config.answers_for(image.name):
            return Target(control.name, image.name, is_video=False)
    return None


def item(kind: str, target: Target, value: Mapping[str, Any], **more: Any) -> Item:
    """One result item of type ``kind``."""
    return {
        "id": uuid.uuid4().hex[:8],
        "from_name": target.from_name,
        "to_name": target.to_name,
        "type": kind,
        "origin": "manual",
        "value": dict(value),
        **more,
    }


def capabilities(model_version: str) -> Item:
    """What this backend can do; it belongs to no tag."""
    return {
        "id": uuid.uuid4().hex[:8],
        "type": "capabilities",
        "origin": "manual",
        "value": {
            "prompts": ["point", "box"],
            "targets": [dict(target) for target in TARGETS],
            "model_info": {"name": "SAM2", "version": model_version},
        },
    }


def picture(mask: np.ndarray) -> dict[str, Any]:
    """A mask, bool ``[H, W]``, as the protocol has it: a grey 8-bit PNG, 255 in the object and 0
    around it. (The bitmasks of saved regions are another thing: transparent around the object.)"""
    done, png = cv2.imencode(".png", mask.astype(np.uint8) * np.uint8(255))
    if not done:
        raise ValueError(f"OpenCV cannot write a PNG of {mask.shape}")
    height, width = mask.shape
    data = base64.b64encode(png.tobytes()).decode("ascii")
    return {"imageDataURL": f"data:image/png;base64,{data}", "width": width, "height": height}


def place(index: int, times: Sequence[float]) -> dict[str, Any]:
    """A frame as replies name it: its number in the file, from 0, and when it is first shown, from
    which the editor finds its own number."""
    return {"frame": index, "time_ms": max(0.0, times[index] * 1000)}
