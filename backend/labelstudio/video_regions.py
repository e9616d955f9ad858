"""The boxes of ``<Video>`` in requests, and the results that answer them.

A region arrives as one item of type ``videorectangle``, its labels inside its ``value``, and one
more item with the same id for each tag with ``perRegion``, every one with the whole sequence
(``serialize`` in ``regions/Result.js`` of Label Studio 1.23.2, where the Video tag has
``mergeLabelsAndResults``). An answer with the same id replaces the region with all its items,
so what a human entered for it is sent back with it.

What a request means shows only in what it holds: a box that got another label comes with every box
of that label, a text entered for a box too, a text entered for the video comes alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from backend.labelstudio.commands import Kind, parse_command
from backend.labelstudio.geometry import Box
from backend.labelstudio.json_values import mappings, number, text, texts, whole_number
from backend.labelstudio.keyframes import Keyframe, read_sequence, same_box, sequence_value
from backend.labelstudio.results import STATUS_PREFIX, Result, status_results
from backend.labelstudio.tags import LabelConfig, VideoConfig

SAME_BOX = 1e-3
"""Percent by which a box may differ from the one that was sent and still be that one."""

_BOX_TYPES = ("videorectangle", "labels")  # those whose sequence is the region's, the first best
_OWN_KEYS = ("id", "from_name", "to_name", "type", "value", "origin", "score")
_SEQUENCE_KEYS = ("framesCount", "duration", "sequence", "labels")


@dataclass(frozen=True)
class Typed:
    """What a text area holds.

    Attributes:
        area: name of the ``<TextArea>``.
        id: of the region it belongs to; for a text of the whole video its own id.
        entries: oldest first, at least one.
    """

    area: str
    id: str
    entries: tuple[str, ...]

    @property
    def newest(self) -> str:
        """The entry that was typed last."""
        return self.entries[-1]

    @property
    def is_command(self) -> bool:
        """Whether the newest entry is meant for the service."""
        return parse_command(self.newest).kind in (Kind.COMMAND, Kind.UNKNOWN)


@dataclass(frozen=True)
class VideoRegion:
    """One box over the frames of a video: all result items with its id.

    Attributes:
        id: as the editor gave it; empty for imported results without one.
        labels: as results carry them.
        from_name: name of the ``<VideoRectangle>``.
        to_name: name of the ``<Video>``.
        keyframes: ascending, at least one.
        frames_count: number of the editor's last frame; None where the result does not say.
        duration: of the video in seconds, as the browser states it; None likewise.
        echoes: the other items, without their sequence, to be sent back.
        extras: what else the box's own item has: ``meta``, ``parentID``, ``readonly``.
        typed: what the text areas of this region hold.
    """

    id: str
    labels: tuple[str, ...]
    from_name: str
    to_name: str
    keyframes: tuple[Keyframe, ...]
    frames_count: int | None = None
    duration: float | None = None
    echoes: tuple[Mapping[str, object], ...] = ()
    extras: Mapping[str, object] = field(default_factory=dict)
    typed: tuple[Typed, ...] = ()

    @property
    def command_area(self) -> Typed | None:
        """The text area whose newest entry is a command, else the first with an entry."""
        first = self.typed[0] if self.typed else None
        return next((each for each in self.typed if each.is_command), first)

    @property
    def command(self) -> str | None:
        """The newest entry of ``command_area``, which may be a note or a status of ours."""
        area = self.command_area
        return area.newest if area is not None else None


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
        regions: all regions in it: none for ``GLOBAL_TEXT``, else those of one label.
        commanded: the regions for which a command was entered; more than one where an earlier
            command was not replaced by a status (``region_results``).
        typed: what was entered for the whole video.
        ignored: what was passed over, and why.
    """

    trigger: Trigger
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


def read_video_regions(
    results: object, config: LabelConfig, ignored: list[str] | None = None
) -> list[VideoRegion]:
    """The boxes in the items of a ``result`` list: of a context, draft, annotation or prediction.

    Never raises: what cannot be used is passed over, and why is added to ``ignored``. Items with
    one id are one region.
    """
    reasons: list[str] = [] if ignored is None else ignored
    groups: dict[str, list[Mapping[str, object]]] = {}
    for position, item in enumerate(mappings(results)):
        groups.setdefault(text(item.get("id")) or f"\0{position}", []).append(item)
    regions = []
    for key, items in groups.items():
        identifier = "" if key.startswith("\0") else key
        region = _read_region(identifier, items, config, reasons)
        if region is not None:
            regions.append(region)
    return regions


def video_context(context: object, config: LabelConfig) -> VideoContext:
    """Read ``params.context`` of an interactive request. Never raises, whatever ``context`` is."""
    results = context.get("result") if isinstance(context, Mapping) else None
    ignored: list[str] = []
    regions = tuple(read_video_regions(results, config, ignored))
    entered = typed_for_video(results, config)
    if not regions:
        trigger = Trigger.NOTHING if entered is None else Trigger.GLOBAL_TEXT
        return VideoContext(trigger, typed=entered, ignored=tuple(ignored))
    commanded = tuple(
        region for region in regions if region.command_area and region.command_area.is_command
    )
    if commanded:
        trigger = Trigger.REGION_COMMAND
    elif any(_has_note(region) for region in regions):
        trigger = Trigger.NOTE
    else:
        trigger = Trigger.LABEL
    return VideoContext(trigger, regions, commanded, entered, tuple(ignored))


def typed_for_video(results: object, config: LabelConfig) -> Typed | None:
    """What the first global text area of a video with an entry holds; None if there is none."""
    names = {area.name for video in config.videos for area in config.text_areas_for(video.name)}
    for item in mappings(results):
        found = _typed(item)
        if found is not None and found.area in names:
            return found
    return None


def split_keyframes(
    region: VideoRegion,
    sent: Mapping[int, Keyframe | Box],
    closed: Collection[int] = (),
) -> tuple[tuple[Keyframe, ...], tuple[Keyframe, ...]]:
    """A region's key frames, those of a human and those of the model.

    One is the model's where the service sent the same on that frame: the same box to within
    ``SAME_BOX``, and the same ``enabled`` where ``sent`` says it.

    ``enabled`` of a human's key frame is False only where the human ended the object there. The
    editor copies it from the key frame before (``addKeypoint`` in ``regions/VideoRegion.js``), so
    that one added after the end of a track is not enabled either; it comes out enabled.

    Args:
        region: as it came back.
        sent: what the service itself put on each frame.
        closed: frames of human key frames that the service sent as not enabled (``merge_human``).
    """
    human: list[Keyframe] = []
    model: list[Keyframe] = []
    open_before = True
    for each in region.keyframes:
        if _was_sent(each, sent.get(each.frame)):
            model.append(each)
        else:
            ends = not each.enabled and open_before and each.frame not in closed
            human.append(replace(each, enabled=not ends))
        open_before = each.enabled
    return tuple(human), tuple(model)


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


def _read_region(
    identifier: str,
    items: list[Mapping[str, object]],
    config: LabelConfig,
    reasons: list[str],
) -> VideoRegion | None:
    boxes = [item for item in items if item.get("type") in _BOX_TYPES and _value(item)]
    boxes.sort(key=lambda item: _BOX_TYPES.index(str(item.get("type"))))
    base = next((item for item in boxes if "sequence" in _value(item)), None)
    if base is None:
        return None  # a text, a span of time: no box
    name = f"region {identifier}" if identifier else "a region without id"
    tags = _video_of(base, config)
    if tags is None:
        reasons.append(f"{name}: {text(base.get('to_name')) or 'its tag'} is no <Video>")
        return None
    if not tags.rectangles:
        reasons.append(f"{name}: <Video name={tags.video.name}> has no <VideoRectangle>")
        return None
    entries: list[str] = []
    keyframes = read_sequence(_value(base), entries)
    reasons += [f"{name}: {entry}" for entry in entries]
    if not keyframes:
        reasons.append(f"{name}: no key frame")
        return None
    controls = [rectangle.name for rectangle in tags.rectangles]
    control = text(base.get("from_name"))
    others = [item for item in items if item.get("type") not in _BOX_TYPES]
    found = (_typed(item) for item in others)
    return VideoRegion(
        id=identifier,
        labels=_labels(boxes),
        from_name=control if control in controls else controls[0],
        to_name=tags.video.name,
        keyframes=keyframes,
        frames_count=whole_number(_value(base).get("framesCount")) or None,
        duration=_duration(_value(base)),
        echoes=tuple(_without_sequence(item) for item in others if _value(item)),
        extras={key: value for key, value in base.items() if key not in _OWN_KEYS},
        typed=tuple(each for each in found if each is not None),
    )


def _video_of(item: Mapping[str, object], config: LabelConfig) -> VideoConfig | None:
    """The Video tag an item is on; without ``to_name`` the only one."""
    name = text(item.get("to_name"))
    if name is None and len(config.videos) == 1:
        name = config.videos[0].name
    return config.video_config(name) if name is not None else None


def _labels(boxes: list[Mapping[str, object]]) -> tuple[str, ...]:
    """The labels of the first item that has any."""
    named = (texts(_value(item).get("labels")) for item in boxes)
    return next((found for found in named if found), ())


def _duration(value: Mapping[str, object]) -> float | None:
    found = number(value.get("duration"))
    return found if found is not None and found > 0 else None


def _typed(item: Mapping[str, object]) -> Typed | None:
    entries = texts(_value(item).get("text")) if item.get("type") == "textarea" else ()
    if not entries:
        return None
    return Typed(text(item.get("from_name")) or "", text(item.get("id")) or "", entries)


def _has_note(region: VideoRegion) -> bool:
    return any(parse_command(each.newest).kind is Kind.NOTE for each in region.typed)


def _was_sent(keyframe: Keyframe, sent: Keyframe | Box | None) -> bool:
    if sent is None:
        return False
    if isinstance(sent, Keyframe):
        return keyframe.enabled == sent.enabled and same_box(keyframe.box, sent.box, SAME_BOX)
    return same_box(keyframe.box, sent, SAME_BOX)


def _value(item: Mapping[str, object]) -> Mapping[str, object]:
    value = item.get("value")
    return value if isinstance(value, Mapping) else {}


def _without_sequence(item: Mapping[str, object]) -> Mapping[str, object]:
    value = {key: each for key, each in _value(item).items() if key not in _SEQUENCE_KEYS}
    return {key: each for key, each in item.items() if key != "origin"} | {"value": value}


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
            yield {**echo, **common, "value": {**value, **_value(echo)}}
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
