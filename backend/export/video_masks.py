"""The masks behind the boxes of a video.

Label Studio keeps the boxes; the masks they were made from are in the service's store. A stored
mask counts where the annotation still shows its box; elsewhere the box itself is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from backend.export.frames import frame_name
from backend.export.masks import Kind, MaskPage, Media, ObjectMask, Origin, media_name
from backend.labelstudio.geometry import Box, Mask, box_iou, box_to_pixels, mask_to_box
from backend.labelstudio.keyframes import box_at
from backend.labelstudio.media_refs import media_uri
from backend.labelstudio.read_results import joined_labels, rasterise
from backend.labelstudio.tags import ImageTag, VideoTag
from backend.labelstudio.video_regions import VideoRegion, read_video_regions
from backend.media.resolver import MediaStream
from backend.pixels.sandbox.video_decoding import open_video
from backend.runs.projects import Project
from backend.tracking.store import TrackStore
from backend.tracking.video import box_digest, clip_track, read_timeline

SAME_PLACE = 0.7
"""IoU of a mask's box with the box shown, below which the annotator has moved the box away."""

Fetch = Callable[[str, int], MediaStream]
"""By address and task: the file."""


def video_media(
    project: Project,
    task: Mapping[str, Any],
    results: Sequence[Mapping[str, object]],
    store: TrackStore,
    model_version: str,
    fetch: Fetch,
) -> Iterator[Media]:
    """The videos of a task that have boxes.

    Raises:
        MissingMedia, MediaError, VideoError: the video cannot be had, or not be read.
    """
    regions = read_video_regions(results, project.config)
    for tag in project.config.videos:
        mine = [region for region in regions if region.to_name == tag.name]
        if mine:
            yield _media(project, task, tag, mine, store, model_version, fetch)


def _media(
    project: Project,
    task: Mapping[str, Any],
    tag: VideoTag,
    regions: list[VideoRegion],
    store: TrackStore,
    model_version: str,
    fetch: Fetch,
) -> Media:
    data, identifier = task.get("data") or {}, int(task["id"])
    address = media_uri(data, ImageTag(tag.name, value=tag.value), None)
    with fetch(address, identifier) as file, open_video(file, read_ahead=0) as frames:
        size = frames.width, frames.height
        timeline = read_timeline(
            project.config, tag.name, data, regions, frames.table, frames.duration
        )
    shown: dict[int, int] = {}  # the file's frame: the first editor frame that shows it
    for number in range(1, timeline.frames_count + 1):
        shown.setdefault(timeline.file_frame(number), number)
    stem = media_name(address, identifier).rpartition(".")[0] or media_name(address, identifier)
    track = clip_track(project.uid, identifier, tag.name, model_version, address)
    return Media(
        task=identifier,
        tag=tag.name,
        kind=Kind.VIDEO,
        indices=list(shown),
        names=[f"{stem}/{frame_name(index)}" for index in shown],
        times=[float(timeline.times[index]) for index in shown],
        pages=partial(_pages, regions, shown, size, store, track),
    )


def _pages(
    regions: Sequence[VideoRegion],
    shown: Mapping[int, int],
    size: tuple[int, int],
    store: TrackStore,
    track: str,
) -> Iterator[MaskPage]:
    for index, number in shown.items():
        masks = []
        for position, region in enumerate(regions, 1):
            box = box_at(region.keyframes, number)
            if box is None:
                continue
            mask, origin, score = _mask(store, track, region.id, index, box, size)
            if mask.any():
                name = region.id or f"region {position}"
                masks.append(
                    ObjectMask(position, name, joined_labels(region.labels), mask, origin, score)
                )
        if masks:
            yield MaskPage(index, *size, masks)


def _mask(
    store: TrackStore, track: str, name: str, index: int, box: Box, size: tuple[int, int]
) -> tuple[Mask, Origin, float | None]:
    """The stored mask where it was made from the box that the annotation shows, or fits it; else
    the box, filled."""
    found = next(store.masks(track, object_id=name, frame=index), None)
    width, height = size
    if found is not None and found.mask.shape == (height, width):
        hull = mask_to_box(found.mask)
        asked = found.prompted and found.anchor == box_digest(box)
        if hull is not None:
            around = box_to_pixels(hull, width, height), box_to_pixels(box, width, height)
            if asked or box_iou(*around) >= SAME_PLACE:
                return found.mask, Origin.TRACKED, found.iou
    return rasterise(box, width, height), Origin.BOX, None
