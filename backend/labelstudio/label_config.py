"""A label config read from its XML, and what would keep annotators from getting masks with it.

Tag and attribute names are compared without regard to case, values as they are: so does the
editor (``core/Tree.tsx`` of Label Studio 1.23.2 lowercases both).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from backend.expected import ExpectedError
from backend.labelstudio.json_values import number
from backend.labelstudio.tags import (
    ANSWER_SHAPES,
    PROMPT_SHAPES,
    Control,
    ImageTag,
    Label,
    LabelConfig,
    LabelsTag,
    Shape,
    TextAreaTag,
    VideoControl,
    VideoTag,
)

_VIDEO_VECTORS = ("videovectorlabels", "videovector")
_CONTROLS = {"labels", "textarea", "timelinelabels", "videorectangle", *_VIDEO_VECTORS} | {
    f"{shape}{suffix}" for shape in Shape for suffix in ("", "labels")
}
_ANSWER_TAGS = "BrushLabels, BitmaskLabels, PolygonLabels, VectorLabels or RectangleLabels"


class LabelConfigError(ExpectedError):
    """The label config cannot be read; the message is one line, fit for an HTTP reason phrase."""


def parse_label_config(xml: str) -> LabelConfig:
    """Read a label config.

    Raises:
        LabelConfigError: not XML, or XML with a document type (label configs have none, and
            entity definitions are how a small file grows without bound).
    """
    elements = [_element(node) for node in _parse_xml(xml).iter()]
    objects = [element for element in elements if element.tag in ("image", "video")]
    names = [element.attributes["name"] for element in objects if "name" in element.attributes]
    if len(names) == 1:
        # A control without toName belongs to the only object tag (editor: Tree.extractNames).
        for element in elements:
            element.attributes.setdefault("toname", names[0])
    tied = [e for e in elements if e.attributes.get("name") and e.attributes.get("toname")]
    controls = [control for element in tied if (control := _control(element)) is not None]
    prompts = tuple(c for c in controls if c.shape in PROMPT_SHAPES and c.smart)
    # A smart-only tool draws nothing by hand, but its control still takes answers.
    answers = [control for control in controls if control.shape in ANSWER_SHAPES]
    config = LabelConfig(
        images=tuple(_image(e) for e in objects if e.tag == "image" and e.attributes.get("name")),
        videos=tuple(_video(e) for e in objects if e.tag == "video" and e.attributes.get("name")),
        prompts=prompts,
        answers=tuple(sorted(answers, key=lambda control: ANSWER_SHAPES.index(control.shape))),
        labels_tags=tuple(
            LabelsTag(*e.names, e.labels, e.has_dynamic_labels) for e in tied if e.tag == "labels"
        ),
        text_areas=tuple(_text_areas(tied, per_region=False)),
        region_text_areas=tuple(_text_areas(tied, per_region=True)),
        video_rectangles=tuple(VideoControl(*e.names) for e in tied if e.tag == "videorectangle"),
        video_vectors=tuple(
            VideoControl(*e.names) for tag in _VIDEO_VECTORS for e in tied if e.tag == tag
        ),
        other_shapes=tuple(c for c in controls if c not in answers and c not in prompts),
    )
    return replace(config, problems=tuple(_problems(config, elements)))


def labels_without_answer(config: LabelConfig) -> Iterator[str]:
    """Those of the config's problems that cost annotators masks: labels that can be given to a
    prompt and that no answer tag has."""
    for image in config.images:
        if config.prompts_for(image.name) and config.answers_for(image.name):
            yield from _without_answer(config, image, _label_sources(config, image))


# --- reading the XML -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Element:
    """An XML element with its names lowercased and the ``<Label>`` elements below it."""

    tag: str
    written: str  # the tag as it stands in the config
    attributes: dict[str, str]
    labels: tuple[Label, ...]

    @property
    def names(self) -> tuple[str, str]:
        """``name`` and ``toName`` of an element that has both."""
        return self.attributes["name"], self.attributes["toname"]

    @property
    def has_dynamic_labels(self) -> bool:
        """Whether the task's data says which labels there are."""
        return self.attributes.get("value", "").startswith("$")

    def flag(self, name: str, *, default: bool = False) -> bool:
        """An attribute that is true or false."""
        value = self.attributes.get(name)
        return default if value is None else value.strip().lower() == "true"


class _NoDocumentType(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Called before any entity of the document type is defined."""
        raise LabelConfigError("the label config has a <!DOCTYPE>: remove it")


def _parse_xml(xml: str) -> ET.Element:
    if not isinstance(xml, str) or not xml.strip():
        raise LabelConfigError("the label config is empty")
    # Document types are refused above, and with them every entity attack.
    parser = ET.XMLParser(target=_NoDocumentType())  # noqa: S314
    try:
        parser.feed(xml)
        root = parser.close()
    except ET.ParseError as error:
        raise LabelConfigError(f"the label config is not valid XML: {error}") from error
    except ValueError as error:  # lone surrogates cannot be encoded for the parser
        raise LabelConfigError(f"the label config is not valid text: {error}") from error
    assert isinstance(root, ET.Element)  # noqa: S101 - what TreeBuilder.close() returns
    return root


def _element(node: ET.Element) -> _Element:
    tag = node.tag.lower()
    labels = _labels_below(node) if tag.endswith("labels") else ()
    return _Element(tag, node.tag, _attributes(node), tuple(labels))


def _attributes(node: ET.Element) -> dict[str, str]:
    return {key.lower(): value for key, value in node.attrib.items()}


def _labels_below(node: ET.Element) -> Iterator[Label]:
    for child in node.iter():
        if child.tag.lower() == "label":
            attributes = _attributes(child)
            value, alias = attributes.get("value"), attributes.get("alias")
            if value or alias:
                yield Label(value or alias or "", alias or None)


def _image(element: _Element) -> ImageTag:
    attributes = element.attributes
    return ImageTag(attributes["name"], attributes.get("value"), attributes.get("valuelist"))


def _video(element: _Element) -> VideoTag:
    attributes = element.attributes
    return VideoTag(attributes["name"], attributes.get("value"), attributes.get("framerate"))


def _control(element: _Element) -> Control | None:
    has_labels = element.tag.endswith("labels")
    try:
        shape = Shape(element.tag.removesuffix("labels"))
    except ValueError:
        return None
    return Control(
        *element.names,
        shape=shape,
        has_labels=has_labels,
        labels=element.labels,
        dynamic_labels=has_labels and element.has_dynamic_labels,
        smart=element.flag("smart", default=True) or element.flag("smartonly"),
    )


def _text_areas(tied: Sequence[_Element], *, per_region: bool) -> Iterator[TextAreaTag]:
    for element in tied:
        if element.tag == "textarea" and element.flag("perregion") is per_region:
            yield TextAreaTag(
                *element.names,
                per_item=element.flag("peritem"),
                read_only=element.attributes.get("maxsubmissions", "").strip() == "0",
            )


# --- problems, one line each: what is missing, and what to change -----------------------------


def _problems(config: LabelConfig, elements: Sequence[_Element]) -> Iterator[str]:
    """All problems, in the order in which they should be read."""
    yield from _media_problems(config)
    yield from _reference_problems(config, elements)
    if any(element.tag == "repeater" for element in elements):  # names are known only per task
        yield "<Repeater> is not supported: use one <Image> with valueList for several pages"
    annotated = [
        image
        for image in config.images
        if config.prompts_for(image.name) or config.answers_for(image.name)
    ]
    tracked = [video for video in config.videos if _is_annotated(config, video)]
    # A picture without any control is there to be looked at, unless nothing has one.
    for image in annotated or (() if tracked else config.images):
        yield from _image_problems(config, image)
    for video in tracked or (() if config.images else config.videos):
        yield from _video_problems(config, video)


def _media_problems(config: LabelConfig) -> Iterator[str]:
    if not config.images and not config.videos:
        yield 'the config has no <Image>: add <Image name="image" value="$image"/>'
    for image in config.images:
        if not image.source.strip():
            yield f'{image.tag} has no value: add value="$image"'
    for video in config.videos:
        if not video.source.strip():
            yield f'{video.tag} has no value: add value="$video"'


def _reference_problems(config: LabelConfig, elements: Sequence[_Element]) -> Iterator[str]:
    objects = {"", *(image.name for image in config.images)}
    objects |= {video.name for video in config.videos}
    for element in elements:
        name, to_name = element.attributes.get("name"), element.attributes.get("toname", "")
        if element.tag not in _CONTROLS or not name or to_name in objects:
            continue
        where = f'<{element.written} name={name}> has toName="{to_name}", but'
        if "," in to_name:
            yield f"{where} the editor ties a tag to one name: write one tag for each"
        else:
            yield f"{where} no <Image> or <Video> has that name: correct it"


def _is_annotated(config: LabelConfig, video: VideoTag) -> bool:
    """Whether anything is drawn on a video; spans of time do not count."""
    shapes = (*config.answers, *config.prompts, *config.other_shapes)
    tied = [tag.to_name for tag in shapes] + [tag.to_name for tag in config.video_controls]
    return video.name in tied


def _video_problems(config: LabelConfig, video: VideoTag) -> Iterator[str]:
    rectangle = f'<VideoRectangle name="box" toName="{video.name}"/>'
    shapes = [control for control in config.answers if control.to_name == video.name]
    if shapes:
        yield (
            f"{shapes[0].tag} is on {video.tag}, but open-source Label Studio has no masks on a "
            f'<Video>: use {rectangle} for boxes, or the frames in <Image valueList="$frames"> '
            "for masks"
        )
    if config.rectangles_for(video.name):
        yield from _trigger_problems(config, video)
    elif not shapes and not any(tag.to_name == video.name for tag in config.video_vectors):
        yield (
            f"no <VideoRectangle> for {video.tag}: add {rectangle} to track boxes, or use the "
            'frames in <Image valueList="$frames"> for masks'
        )
    yield from _framerate_problems(video)


def _trigger_problems(config: LabelConfig, video: VideoTag) -> Iterator[str]:
    """Why tracking cannot be asked for, or only in a roundabout way."""
    areas = (*config.region_text_areas_for(video.name), *config.text_areas_for(video.name))
    if not all(area.read_only for area in areas):
        return
    area = f'<TextArea name="command" toName="{video.name}" perRegion="true"/>'
    if config.labels_for(video.name):
        yield (
            f"no <TextArea> for {video.tag} that can be typed into: tracking starts only when a "
            f"selected box gets another label; add {area} to type track"
        )
    else:
        yield (
            f"no <TextArea> and no <Labels> for {video.tag}: nothing sends a request; add {area} "
            "to type track"
        )


def _framerate_problems(video: VideoTag) -> Iterator[str]:
    written = (video.framerate or "").strip()
    if not written or written.startswith("$"):
        return
    rate = number(written)
    if rate is None or rate < 0:
        yield (
            f'{video.tag} has framerate="{written}", which is no positive number: write the '
            'frames per second of the file, such as framerate="25"'
        )


def _image_problems(config: LabelConfig, image: ImageTag) -> Iterator[str]:
    prompts, answers = config.prompts_for(image.name), config.answers_for(image.name)
    if not answers:
        yield (
            f'no {_ANSWER_TAGS} for {image.tag}: add <BrushLabels name="brush" '
            f'toName="{image.name}"> with your labels'
        )
        return
    if not prompts:
        yield (
            f'no smart tool for {image.tag}: add <KeyPointLabels name="point" '
            f'toName="{image.name}" smart="true"> with the labels of {answers[0].tag}'
        )
        return
    sources = _label_sources(config, image)
    yield from _without_answer(config, image, sources)
    bare = [control for control in prompts if not control.has_labels]
    if bare and not config.labels_for(image.name) and answers[0].has_labels:
        yield (
            f"clicks with {bare[0].tag} carry no label, so masks come without one: use "
            f"<{bare[0].shape.tag}Labels> with the labels of {answers[0].tag}"
        )
    yield from _unreachable(sources, answers)


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
    answers, separate = config.answers_for(image.name), config.labels_for(image.name)
    labelled = next((control for control in answers if control.has_labels), None)
    if labelled is not None:
        reason = f"is in no answer tag: add it to {labelled.tag}"
    elif separate:
        reason = f"is not in {separate[0].tag}: add it there"
    else:
        tag = f"<{answers[0].shape.tag}Labels>"
        reason = f"has no place in {answers[0].tag}: use {tag} with that label"
    for source in sources:
        missing = [
            label.name
            for label in source.labels
            if config.find_answer(image.name, (label.name,), source.name) is None
        ]
        if missing:
            yield f"label {', '.join(missing)} of {source.tag} {reason}"


def _unreachable(
    sources: Sequence[Control | LabelsTag], answers: Sequence[Control]
) -> Iterator[str]:
    """Labels of answers that no prompt can have."""
    if not sources or any(source.dynamic_labels for source in sources):
        return
    reachable = {name for source in sources for label in source.labels for name in label.names}
    for control in answers:
        missing = [label.name for label in control.labels if reachable.isdisjoint(label.names)]
        if missing and not control.dynamic_labels:
            yield (
                f"label {', '.join(missing)} of {control.tag} cannot be chosen for a click: add "
                f"it to {sources[0].tag}"
            )
