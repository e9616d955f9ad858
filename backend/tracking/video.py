"""The video of a task: how the editor counts its frames, and the jobs on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.tags import LabelConfig, VideoTag
from backend.labelstudio.timing import Timeline, frames_count, tag_framerate
from backend.labelstudio.video_regions import VideoRegion
from backend.pixels.frame_table import VideoIndex
from backend.pixels.open_videos import OpenVideos
from backend.pixels.pixel_resolver import VIDEO_SECONDS
from backend.pixels.recipes import Video
from backend.tracking.runner import Work
from backend.tracking.spans import Goal

MAX_EDITOR_FRAMES = 1_000_000  # as many as a file may have, see ``VideoLimits``


def video_work(
    videos: OpenVideos,
    task: ProjectTask,
    request: Mapping[str, Any],
    read_goal: Callable[[Mapping[str, Any], int, int], Goal],
) -> Work:
    """The work of a job on a video.

    Args:
        request: names the tag in ``video``, and holds ``objects``.
        read_goal: reads one of them, for frames of a width and height.

    Raises:
        ExpectedError: why it cannot be done.
    """
    video = Video.of(task, video_tag(task.config, request["video"]))
    index = videos.index(video, time.monotonic() + VIDEO_SECONDS)
    goals = [read_goal(each, index.width, index.height) for each in request["objects"]]
    return Work(video, goals, request.get("stride"))


def video_tag(config: LabelConfig, name: str) -> VideoTag:
    """The Video tag called ``name``.

    Raises:
        MissingMedia: there is none.
    """
    video = config.video(name)
    if video is None:
        raise MissingMedia(f"the label config has no <Video name={name}>")
    return video


def read_timeline(
    config: LabelConfig,
    name: str,
    data: Mapping[str, object],
    regions: Sequence[VideoRegion],
    index: VideoIndex,
) -> Timeline:
    """The editor's frames and the file's.

    Args:
        name: of the Video tag.
        regions: what the editor made; they say how many frames it counts.

    Raises:
        MissingMedia: the tag's framerate cannot be used, or makes too many frames.
    """
    video = config.video(name)
    try:
        framerate = tag_framerate(video.framerate if video else None, data)
    except ValueError as error:
        raise MissingMedia(str(error)) from error
    stated = next((region.frames_count for region in regions if region.frames_count), None)
    # Both come from the task: a number like 1e12 would be counted through for hours.
    duration, times = index.duration, index.table.times.tolist()
    if not (stated or duration * framerate) <= MAX_EDITOR_FRAMES or framerate == math.inf:
        raise MissingMedia(
            f"the editor would count more than {MAX_EDITOR_FRAMES} frames in this video: check the "
            "framerate of its <Video> tag"
        )
    return Timeline(times, framerate, stated or frames_count(duration, framerate))
