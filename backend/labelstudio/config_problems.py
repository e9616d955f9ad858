"""Why annotators would get nothing from a label config, and what to change: one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.labelstudio.json_values import number
from backend.labelstudio.tags import (
    Control,
    ImageTag,
    Label,
    LabelConfig,
    LabelsTag,
    VideoConfig,
    VideoTag,
)

ANSWER_TAGS = "BrushLabels, BitmaskLabels, PolygonLabels, VectorLabels or RectangleLabels"


@dataclass(frozen=True)
class TagReference:
    """A tag and the ``toName`` it was written with."""

    tag: str
    name: str
    to_name: str


def find_problems(
    config: LabelConfig, references: Sequence[TagReference], *, repeated: bool
) -> tuple[str, ...]:
    """All problems of ``config``, in the order in which they should be read.

    Args:
        config: the parsed config (its ``problems`` are not read).
        references: every tag with a ``toName``.
        repeated: whether there is a ``<Repeater>``, which makes the names known only per task.
    """
    problems = [*_media_problems(config), *_reference_problems(config, references)]
    if repeated:
        problems.append(
            "<Repeater> is not supported: use one <Image> with valueList for several pages"
        )
    worked_on = [
        image
        for image in config.images
        if config.prompts_for(image.name) or config.answers_for(image.name)
    ]
    tracked = [video for video in config.videos if _is_worked_on(config, video)]
    # A picture without any control is there to be looked at, unless nothing has one.
    for image in worked_on or (() if tracked else config.images):
        problems += _control_problems(config, image)
        problems += _label_problems(config, image)
    for video in tracked or (() if config.images else config.videos):
        problems += _video_problems(config, video)
    return tuple(problems)


def _media_problems(config: LabelConfig) -> Iterator[str]:
    if not config.images and not config.videos:
        yield 'the config has no <Image>: add <Image name="image" value="$image"/>'
    for image in config.images:
        if not image.source.strip():
            yield f'<Image name={image.name}> has no value: add value="$image"'
    for video in config.videos:
        if not (video.value or "").strip():
            yield f'<Video name={video.name}> has no value: add value="$video"'


def _reference_problems(config: LabelConfig, references: Sequence[TagReference]) -> Iterator[str]:
    objects = {image.name for image in config.images} | {video.name for video in config.videos}
    controls = (*config.prompts, *config.answers, *config.other_shapes)
    drawn = {control.name for control in controls}
    drawn |= {tag.name for tag in config.labels_tags}
    drawn |= {tag.name for tag in config.timeline_labels}
    drawn |= {area.name for area in (*config.text_areas, *config.region_text_areas)}
    drawn |= {tag.name for tag in config.video_controls}
    for reference in references:
        if reference.name not in drawn or reference.to_name in objects:
            continue
        where = f"<{reference.tag} name={reference.name}>"
        if "," in reference.to_name:
            yield (
                f'{where} has toName="{reference.to_name}", but the editor ties a tag to one '
                "name: write one tag for each"
            )
        else:
            yield (
                f'{where} has toName="{reference.to_name}", but no <Image> or <Video> has that '
                "name: correct it"
            )


def _is_worked_on(config: LabelConfig, video: VideoTag) -> bool:
    """Whether anything is drawn on a video; spans of time are not our business."""
    shapes = (*config.answers, *config.prompts, *config.other_shapes)
    return any(control.to_name == video.name for control in shapes) or any(
        tag.to_name == video.name for tag in config.video_controls
    )


def _video_problems(config: LabelConfig, video: VideoTag) -> Iterator[str]:
    where = f"<Video name={video.name}>"
    rectangle = f'<VideoRectangle name="box" toName="{video.name}"/>'
    shapes = [control for control in config.answers if control.to_name == video.name]
    if shapes:
        yield (
            f"{shapes[0].tag} is on {where}, but open-source Label Studio has no masks on a "
            f'<Video>: use {rectangle} for boxes, or the frames in <Image valueList="$frames"> '
            "for masks"
        )
    tags = config.video_config(video.name)
    if tags is not None and tags.rectangles:
        yield from _trigger_problems(tags)
    elif not shapes and not any(tag.to_name == video.name for tag in config.video_vectors):
        yield (
            f"no <VideoRectangle> for {where}: add {rectangle} to track boxes, or use the frames "
            'in <Image valueList="$frames"> for masks'
        )
    yield from _framerate_problems(video)


def _trigger_problems(tags: VideoConfig) -> Iterator[str]:
    """Why tracking cannot be asked for, or only in a roundabout way."""
    if tags.commands:
        return
    area = f'<TextArea name="command" toName="{tags.video.name}" perRegion="true"/>'
    if tags.labels_tags:
        yield (
            f"no <TextArea> for <Video name={tags.video.name}> that can be typed into: tracking "
            f"starts only when a selected box gets another label; add {area} to type track"
        )
    else:
        yield (
            f"no <TextArea> and no <Labels> for <Video name={tags.video.name}>: nothing sends a "
            f"request; add {area} to type track"
        )


def _framerate_problems(video: VideoTag) -> Iterator[str]:
    written = (video.framerate or "").strip()
    if not written or written.startswith("$"):
        return
    rate = number(written)
    if rate is None or rate < 0:
        yield (
            f'<Video name={video.name}> has framerate="{written}", which is no positive number: '
            'write the frames per second of the file, such as framerate="25"'
        )


def _control_problems(config: LabelConfig, image: ImageTag) -> Iterator[str]:
    prompts, answers = config.prompts_for(image.name), config.answers_for(image.name)
    if not answers:
        yield (
            f"no {ANSWER_TAGS} for <Image name={image.name}>: add "
            f'<BrushLabels name="brush" toName="{image.name}"> with your labels'
        )
    elif not prompts:
        yield (
            f"no smart tool for <Image name={image.name}>: add "
            f'<KeyPointLabels name="point" toName="{image.name}" smart="true"> with the labels '
            f"of {answers[0].tag}"
        )


def _label_problems(config: LabelConfig, image: ImageTag) -> Iterator[str]:
    prompts, answers = config.prompts_for(image.name), config.answers_for(image.name)
    if not prompts or not answers:
        return
    separate = config.labels_for(image.name)
    bare = [control for control in prompts if not control.has_labels]
    sources = _label_sources(config, image)
    yield from _without_answer(config, image, sources)
    if bare and not separate and answers[0].has_labels:
        yield (
            f"clicks with {bare[0].tag} carry no label, so masks come without one: use "
            f"<{bare[0].shape.tag}Labels> with the labels of {answers[0].tag}"
        )
    yield from _unreachable(sources, answers)


def labels_without_answer(config: LabelConfig) -> Iterator[str]:
    """Those of ``find_problems`` that cost annotators masks: labels that can be given to a prompt
    and that no answer tag has."""
    for image in config.images:
        if config.prompts_for(image.name) and config.answers_for(image.name):
            yield from _without_answer(config, image, _label_sources(config, image))


def _label_sources(config: LabelConfig, image: ImageTag) -> list[Control | LabelsTag]:
    """The tags that the labels of prompts come from."""
    prompts = config.prompts_for(image.name)
    sources: list[Control | LabelsTag] = [control for control in prompts if control.has_labels]
    if any(not control.has_labels for control in prompts):
        sources += config.labels_for(image.name)
    return sources


def _without_answer(
    config: LabelConfig, image: ImageTag, sources: Sequence[Control | LabelsTag]
) -> Iterator[str]:
    for source in sources:
        missing = [
            label.name
            for label in source.labels
            if config.find_answer(image.name, (label.name,), source.name) is None
        ]
        if missing:
            answers, separate = config.answers_for(image.name), config.labels_for(image.name)
            yield _missing(missing, source, answers, separate)


def _missing(
    missing: Sequence[str],
    source: Control | LabelsTag,
    answers: Sequence[Control],
    separate: Sequence[LabelsTag],
) -> str:
    names = ", ".join(missing)
    where = source.tag
    labelled = next((control for control in answers if control.has_labels), None)
    if labelled is not None:
        return f"label {names} of {where} is in no answer tag: add it to {labelled.tag}"
    if separate:
        return f"label {names} of {where} is not in {separate[0].tag}: add it there"
    return (
        f"label {names} of {where} has no place in {answers[0].tag}: use "
        f"<{answers[0].shape.tag}Labels> with that label"
    )


def _unreachable(
    sources: Sequence[Control | LabelsTag], answers: Sequence[Control]
) -> Iterator[str]:
    if not sources or any(source.dynamic_labels for source in sources):
        return
    reachable = [label for source in sources for label in source.labels]
    for control in answers:
        missing = [label.name for label in control.labels if not _same_label(label, reachable)]
        if missing and not control.dynamic_labels:
            yield (
                f"label {', '.join(missing)} of {control.tag} cannot be chosen for a click: add "
                f"it to {sources[0].tag}"
            )


def _same_label(label: Label, others: Sequence[Label]) -> bool:
    names = {label.value, label.alias} - {None}
    return any(names & {other.value, other.alias} for other in others)
