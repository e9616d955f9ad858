"""The boxes of a ``<Video>`` as they come in results, what a request about them asks for, and the
results that answer.

A region arrives as one item of type ``videorectangle``, its labels inside its ``value``, and one
more item with the same id for each tag with ``perRegion``, every one with the whole sequence
(``serialize`` in ``regions/Result.js`` of Label Studio 1.23.2, where the Video tag has
``mergeLabelsAndResults``). Other programs write the labels as an item of their own.

What a request asks for shows only in what it holds: a box that got another label comes with every
box of that label, a text entered for a box too, a text entered for the video comes alone. An answer
with the id of a region replaces the region with all its items, so what a human entered for it
is sent back with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from backend.labelstudio.commands import TypedText, kept, read_text, status_line
from backend.labelstudio.json_values import (
    Result,
    Results,
    item_value,
    mappings,
    number,
    text,
    texts,
    whole_number,
)
from backend.labelstudio.keyframes import Keyframe, read_sequence, same_box, sequence_value
from backend.labelstudio.read_results import Item, by_region
from backend.labelstudio.tags import LabelConfig, VideoTag, tags_on
from backend.labelstudio.write_results import status_results

SAME_BOX = 1e-3
"""Percent by which a box may differ from the one that was sent and still be that one."""

_BOX_TYPES = ("videorectangle", "labels")  # those whose sequence is the region's, the first best
_OWN_KEYS = ("id", "from_name", "to_name", "type", "value", "origin", "score")
_SEQUENCE_KEYS = ("framesCount", "duration", "sequence", "labels")


@dataclass(frozen=True)
class VideoRegion:
    """One box over the frames of a video: all result items with its id.

    Attributes:
        id: empty for imported results without one.
        keyframes: ascending, at least one.
        frames_count: number of the editor's last frame; None where the result does not say.
        duration: of the video in seconds, as the browser states it; None likewise.
        echoes: the other items, without their sequence, to be sent back.
        extras: what else the box's own item has: ``meta``, ``parentID``, ``readonly``.
        typed: what the text areas of this region hold.
        items: all of it, as it came in.
    """

    id: str
    labels: tuple[str, ...]
    from_name: str
    to_name: str
    keyframes: tuple[Keyframe, ...]
    frames_count: int | None
    duration: float | None
    echoes: tuple[Item, ...]
    extras: Mapping[str, object]
    typed: tuple[TypedText, ...]
    items: tuple[Item, ...]

    @property
    def command(self) -> str | None:
        """The command that was entered for the box."""
        return next((each.newest for each in self.typed if each.is_command), None)

    @property
    def holds_note(self) -> bool:
        """Whether the newest text that was entered for the box is a note."""
        return any(each.is_note for each in self.typed)


def new_region(
    identifier: str,
    labels: tuple[str, ...],
    control: str,
    video: str,
    keyframes: tuple[Keyframe, ...],
    frames_count: int,
) -> VideoRegion:
    """A box that nobody has drawn yet, with ``control`` on ``video``."""
    return VideoRegion(
        identifier, labels, control, video, keyframes, frames_count, None, (), {}, (), ()
    )


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
        regions: all regions in it: none for ``GLOBAL_TEXT``, else every one of a label, also where
            only one of them was meant.
        commanded: the regions for which a command was entered; more than one where an earlier
            command was not replaced by a status (``video_results``).
        typed: what was entered for the whole video.
    """

    trigger: Trigger
    regions: tuple[VideoRegion, ...]
    commanded: tuple[VideoRegion, ...]
    typed: TypedText | None

    @property
    def command(self) -> str | None:
        """The newest text entered for the whole video, or else the command for a region."""
        if self.typed is not None:
            return self.typed.newest
        return self.commanded[0].command if self.commanded else None


# --- reading ---------------------------------------------------------------------------------


def video_context(context: object, config: LabelConfig) -> VideoContext:
    """Read ``params.context`` of an interactive request. Never raises, whatever ``context`` is."""
    results = context.get("result") if isinstance(context, Mapping) else None
    regions = tuple(read_video_regions(results, config))
    typed = typed_for_video(results, config)
    commanded = tuple(region for region in regions if region.command is not None)
    if not regions:
        trigger = Trigger.NOTHING if typed is None else Trigger.GLOBAL_TEXT
    elif commanded:
        trigger = Trigger.REGION_COMMAND
    elif any(region.holds_note for region in regions):
        trigger = Trigger.NOTE
    else:
        trigger = Trigger.LABEL
    return VideoContext(trigger, regions, commanded, typed)


def typed_for_video(results: object, config: LabelConfig) -> TypedText | None:
    """What the first global text area of a video with an entry holds; None if there is none."""
    videos = {video.name for video in config.videos}
    areas = {area.name for area in config.text_areas if area.to_name in videos}
    found = (read_text(item) for item in mappings(results))
    return next((typed for typed in found if typed and typed.area in areas), None)


def read_video_regions(results: object, config: LabelConfig) -> list[VideoRegion]:
    """The boxes in the items of a ``result`` list: of a context, draft, annotation or prediction.

    Never raises: what is no box on a video, or has no key frame, is passed over. Items with one id
    are one region.
    """
    found = (_video_region(name, items, config) for name, items in by_region(mappings(results)))
    return [region for region in found if region is not None]


def _video_region(
    identifier: str, items: Sequence[Item], config: LabelConfig
) -> VideoRegion | None:
    boxes = [item for item in items if item.get("type") in _BOX_TYPES]
    boxes.sort(key=lambda item: _BOX_TYPES.index(str(item.get("type"))))
    base = next((item for item in boxes if "sequence" in item_value(item)), None)
    if base is None:
        return None  # a text, a span of time: no box
    value = item_value(base)
    video, keyframes = _video_of(base, config), read_sequence(value)
    controls = [tag.name for tag in tags_on(config.video_rectangles, video.name)] if video else []
    if video is None or not controls or not keyframes:
        return None
    control = text(base.get("from_name"))
    others = [item for item in items if item.get("type") not in _BOX_TYPES]
    named = (texts(item_value(item).get("labels")) for item in boxes)
    duration = number(value.get("duration"))
    found = (read_text(item) for item in others)
    return VideoRegion(
        id=identifier,
        labels=next((labels for labels in named if labels), ()),
        from_name=control if control in controls else controls[0],
        to_name=video.name,
        keyframes=keyframes,
        frames_count=whole_number(value.get("framesCount")) or None,
        duration=duration if duration is not None and duration > 0 else None,
        echoes=tuple(_without_sequence(item) for item in others if item_value(item)),
        extras={key: each for key, each in base.items() if key not in _OWN_KEYS},
        typed=tuple(each for each in found if each is not None),
        items=tuple(items),
    )


def _video_of(item: Item, config: LabelConfig) -> VideoTag | None:
    """The Video tag an item is on; without ``to_name`` the only one."""
    name = text(item.get("to_name"))
    if name is None and len(config.videos) == 1:
        return config.videos[0]
    return config.video(name) if name is not None else None


def _without_sequence(item: Item) -> Item:
    value = {key: each for key, each in item_value(item).items() if key not in _SEQUENCE_KEYS}
    return {key: each for key, each in item.items() if key != "origin"} | {"value": value}


def human_keyframes(
    region: VideoRegion,
    sent: Mapping[int, Sequence[Keyframe]],
    human: Sequence[Keyframe] = (),
) -> tuple[Keyframe, ...]:
    """Those of a region's key frames that are a human's; the others are the model's.

    One that came back as it was sent (the same box to within ``SAME_BOX``, and the same
    ``enabled``) is whose it was; every other one is a human's.

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
    found: list[Keyframe] = []
    open_before = True
    for each in region.keyframes:
        if not any(_is_same(each, other) for other in sent.get(each.frame, ())):
            found.append(replace(each, enabled=each.enabled or not open_before))
        elif each.frame in earlier:
            found.append(replace(each, enabled=earlier[each.frame].enabled))
        open_before = each.enabled
    return tuple(found)


def _is_same(one: Keyframe, other: Keyframe) -> bool:
    return one.enabled == other.enabled and same_box(one.box, other.box, SAME_BOX)


# --- writing ---------------------------------------------------------------------------------


def video_results(
    region: VideoRegion,
    keyframes: Sequence[Keyframe],
    config: LabelConfig,
    *,
    framerate: float,
    score: float | None = None,
) -> Results:
    """The items that put ``keyframes`` in the place of a region's, in the editor's own form.

    Only the box's item has labels: with a ``labels`` item beside it the editor would hold them
    twice.

    Args:
        region: as it came in; its id, labels and what else it has are sent back.
        keyframes: ascending.
        framerate: of the tag, from ``timing.tag_framerate``.
        score: the model's confidence, 0 to 1.

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
    return [box, *_echoes(region, value, common)]


def video_status(
    line: str | None,
    config: LabelConfig,
    video: str,
    known: object = (),
    typed: TypedText | None = None,
) -> Results:
    """The result that shows ``line`` in the video's global text area; None or "" clears it.

    A text area on a ``<Video>`` gets a region in the timeline with every answer; to have one of
    them only, it must come back under the id it has. One on a ``<Text>`` gets none.

    Args:
        known: the items of the context and of the draft, in which the id is looked for.
        typed: see ``status_results``.
    """
    results = status_results(line, config, video, typed=typed)
    for result in results:
        for item in mappings(known):
            identifier = text(item.get("id"))
            if identifier and item.get("from_name") == result["from_name"]:
                result["id"] = identifier
    return results


def answered_regions(results: Results, regions: Sequence[VideoRegion], answer: str) -> Results:
    """``results`` with the commands that were entered for ``regions`` taken out, so that they are
    not read again.

    A region that is not among the results comes back as it is, as an answer without it would
    leave its command.

    Args:
        answer: stands in their place; "" for nothing.
    """
    sent = {result.get("id") for result in results}
    back = [dict(item) for region in regions if region.id not in sent for item in region.items]
    found: Results = []
    for item in [*results, *back]:
        typed = read_text(item)
        if typed is not None and typed.is_command:
            lines = [*kept(typed.entries, shared=bool(answer))]
            lines += [status_line(answer)] if answer else []
            if not lines:
                continue
            item = {**item, "value": {**item_value(item), "text": lines}}
        found.append(item)
    return found


def _echoes(region: VideoRegion, value: Mapping[str, object], common: Result) -> Iterator[Result]:
    """The region's other items with the new sequence."""
    for echo in region.echoes:
        yield {**echo, **common, "value": {**value, **item_value(echo)}}
