"""How the video of a task is counted, and how its track is named in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.timing import Timeline, frames_count, tag_framerate
from backend.labelstudio.video_regions import VideoRegion
from backend.video import FrameTable


def read_timeline(
    config: LabelConfig,
    name: str,
    data: Mapping[str, object],
    regions: Sequence[VideoRegion],
    table: FrameTable,
    duration: float,
) -> Timeline:
    """The editor's frames and the file's.

    Args:
        name: of the Video tag.
        data: the task's.
        regions: what the editor made; they say how many frames it counts.
        table, duration: of the file.

    Raises:
        MissingMedia: the tag's framerate cannot be used.
    """
    video = config.video_config(name)
    try:
        framerate = tag_framerate(video.video.framerate if video else None, data)
    except ValueError as error:
        raise MissingMedia(str(error)) from error
    stated = next((region.frames_count for region in regions if region.frames_count), None)
    return Timeline(table.times.tolist(), framerate, stated or frames_count(duration, framerate))


def clip_track(project: str, task: object, name: str, model_version: str, address: str) -> str:
    """Names what is tracked: the same video of the same task by the same model."""
    parts = [project, str(task), name, model_version, address]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
