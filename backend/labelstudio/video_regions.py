"""What a request on a ``<Video>`` means, whose the key frames are, and the results that answer.

What a request means shows only in what it holds: a box that got another label comes with every box
of that label, a text entered for a box too, a text entered for the video comes alone. An answer
with the id of a region replaces the region with all its items, so what a human entered for it
is sent back with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from backend.labelstudio.commands import Kind, parse_command
from backend.labelstudio.geometry import Box
from backend.labelstudio.json_values import mappings, text
from backend.labelstudio.keyframes import Keyframe, same_box, sequence_value
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.video_items import (
    Typed,
    VideoRegion,
    item_value,
    read_typed,
    read_video_regions,
)
from backend.labelstudio.write_results import STATUS_PREFIX, Result, status_results

__all__ = [
    "SAME_BOX",
    "Sent",
    "Trigger",
    "Typed",
    "VideoContext",
    "VideoRegion",
    "read_video_regions",
    "region_results",
    "split_keyframes",
    "typed_for_video",
    "video_context",
    "video_status",
]

SAME_BOX = 1e-3
"""Percent by which a box may differ from the one that was sent and still be that one."""

Sent = Keyframe | Box | Sequence[Keyframe]
"""What was sent for one frame, once or several times."""


class Trigger(StrEnum):
    """What the annotator did to send a request."""

    NOTHING = "nothing"  # the editor sent an empty request by itself
    LABEL = "label"  # gave a box a label
    REGION_COMMAND = "region command"  # entered a command for a box
    GLOBAL_TEXT = "global text"  # entered a text for the whole video
    NOTE = "note"  # entered a note for a box, or gave a label to one that has a note


@dataclass(frozen=True)
class VideoContext:
    """The context of an interactive request on a video.

    Attributes:
        trigger: what sent it.
        video: name of the Video tag; empty for ``NOTHING``.
        regions: all regions in it: none for ``GLOBAL_TEXT``, else every one of a label, also where
            only one of them was meant.
        commanded: the regions for which a command was entered; more than one where an earlier
            command was not replaced by a status (``region_results``).
        typed: what was entered for the whole video.
        ignored: what was passed over, and why.
    """

    trigger: Trigger
    video: str = ""
    regions: tuple[VideoRegion, ...] = ()
    commanded: tuple[VideoRegion, ...] = ()
    typed: Typed | None = None
    ignored: tuple[str, ...] = ()

    @property
    def command(self) -> str | None:
        """The newest text entered for the whole video, or else for the first region."""
        if self.typed is not None:
            return self.typed.newest
        return self.commanded[0].command if self.commanded else None


def video_context(context: object, config: LabelConfig) -> VideoContext:
    """Read ``params.context`` of an interactive request. Never raises, whatever ``context`` is."""
    results = context.get("result") if isinstance(context, Mapping) else None
    ignored: list[str] = []
    regions = tuple(read_video_regions(results, config, ignored))
    entered = typed_for_video(results, config)
    commanded = tuple(
        region for region in regions if region.command_area and region.command_area.is_command
    )
    video = regions[0].to_name if regions else entered.to_name if entered else ""
    return VideoContext(
        _trigger(regions, commanded, entered), video, regions, commanded, entered, tuple(ignored)
    )


def typed_for_video(results: object, config: LabelConfig) -> Typed | None:
    """What the first global text area of a video with an entry holds; None if there is none."""
    areas = {
        area.name: video.name
        for video in config.videos
        for area in config.text_areas_for(video.name)
    }
    for item in mappings(results):
        found = read_typed(item)
        if found is not None and found.area in areas:
            return replace(found, to_name=areas[found.area])
    return None


def split_keyframes(
    region: VideoRegion,
    sent: Mapping[int, Sent],
    human: Sequence[Keyframe] = (),
) -> tuple[tuple[Keyframe, ...], tuple[Keyframe, ...]]:
    """A region's key frames: those of a human, and those of the model.

    One that came back as it was sent (the same box to within ``SAME_BOX``, and the same ``enabled``
    where ``sent`` says it) is whose it was; every other one is a human's.

    ``enabled`` of a human's key frame is False only where the human ended the object there. The
    editor copies it from the key frame before (``addKeypoint`` in ``regions/VideoRegion.js``), so
    that one added after the end of a track is not enabled either; here it comes out enabled.

    Args:
        region: as it came back.
        sent: by frame, what answers put there, the human's own key frames included. All answers,
            not only the last: a draft is saved up to 5 s late, and then holds one before it.
        human: the human's among those of the last answer, as this function gave them then;
            ``merge_human`` may have closed some.
    """
    earlier = {each.frame: each for each in human}
    mine: list[Keyframe] = []
    model: list[Keyframe] = []
    open_before = True
    for each in region.keyframes:
        if not _was_sent(each, sent.get(each.frame, ())):
            mine.append(replace(each, enabled=each.enabled or not open_before))
        elif each.frame in earlier:
            mine.append(replace(each, enabled=earlier[each.frame].enabled))
        else:
            model.append(each)
        open_before = each.enabled
    return tuple(mine), tuple(model)


def region_results(
    region: VideoRegion,
    keyframes: Sequence[Keyframe],
    config: LabelConfig,
    *,
    framerate: float,
    score: float | None = None,
    status: str | None = None,
) -> list[Result]:
    """The items that put ``keyframes`` in the place of a region's, in the editor's own form.

    Only the box's item has labels: with a ``labels`` item beside it the editor would hold them
    twice.

    Args:
        region: as it came in; its id, labels and what else it has are sent back.
        keyframes: ascending.
        config: the label config of the request.
        framerate: of the tag, from ``timing.tag_framerate``.
        score: the model's confidence, 0 to 1.
        status: a line that takes the place of what the region's command area holds, so that the
            command is not read again; "" empties it, None leaves it.

    Returns:
        An empty list without key frames: the editor cannot open such a region.
    """
    if not keyframes:
        return []
    count = region.frames_count or keyframes[-1].frame
    duration = count / framerate if region.duration is None else region.duration
    value = sequence_value(keyframes, frames_count=count, duration=duration, framerate=framerate)
    common: Result = {"to_name": region.to_name}
    if region.id:
        common["id"] = region.id
    box: Result = {
        **region.extras,
        **common,
        "from_name": region.from_name,
        "type": "videorectangle",
        "value": {**value, "labels": list(region.labels)} if region.labels else value,
    }
    if score is not None:
        box["score"] = float(score)
    return [box, *_echoes(region, value, common, config, status)]


def video_status(
    line: str | None, config: LabelConfig, video: str, known: object = ()
) -> list[Result]:
    """The result that shows ``line`` in the video's global text area; None or "" clears it.

    On a video the editor keeps such a text as a region, so it must come back under the id it has,
    or there are two.

    Args:
        line: one line; it gets ``results.STATUS_PREFIX``.
        config: the label config of the request.
        video: name of the Video tag.
        known: the items of the context and of the draft, in which the id is looked for.
    """
    results = status_results(line, config, video)
    for result in results:
        for item in mappings(known):
            identifier = text(item.get("id"))
            if identifier and item.get("from_name") == result["from_name"]:
                result["id"] = identifier
    return results


def _trigger(
    regions: Sequence[VideoRegion], commanded: Sequence[VideoRegion], entered: Typed | None
) -> Trigger:
    if not regions:
        return Trigger.NOTHING if entered is None else Trigger.GLOBAL_TEXT
    if commanded:
        return Trigger.REGION_COMMAND
    return Trigger.NOTE if any(_has_note(region) for region in regions) else Trigger.LABEL


def _has_note(region: VideoRegion) -> bool:
    return any(parse_command(each.newest).kind is Kind.NOTE for each in region.typed)


def _was_sent(keyframe: Keyframe, sent: Sent) -> bool:
    if isinstance(sent, Keyframe):
        return keyframe.enabled == sent.enabled and same_box(keyframe.box, sent.box, SAME_BOX)
    if isinstance(sent, Box):
        return same_box(keyframe.box, sent, SAME_BOX)
    return any(_was_sent(keyframe, each) for each in sent)


def _echoes(
    region: VideoRegion,
    value: Mapping[str, object],
    common: Result,
    config: LabelConfig,
    status: str | None,
) -> Iterator[Result]:
    """The region's other items with the new sequence; the status in the place of the command."""
    area = _status_area(region, config) if status is not None else None
    for echo in region.echoes:
        if area is None or echo.get("from_name") != area:
            yield {**echo, **common, "value": {**value, **item_value(echo)}}
    if area is not None and status:
        line = status if status.startswith(STATUS_PREFIX) else STATUS_PREFIX + status
        shown = {**value, "text": [line]}
        yield {**common, "from_name": area, "type": "textarea", "value": shown}


def _status_area(region: VideoRegion, config: LabelConfig) -> str | None:
    """The region's text area that takes a status: the one with the command, else one that holds
    nothing or a status; a note is left alone."""
    for each in region.typed:
        if each.is_command:
            return each.area
    noted = {each.area for each in region.typed if parse_command(each.newest).kind is Kind.NOTE}
    tags = config.video_config(region.to_name)
    areas = [area.name for area in tags.region_text_areas] if tags is not None else []
    return next((name for name in areas if name not in noted), None)
