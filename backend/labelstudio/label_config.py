"""What a label config asks for: which tags hold the media, which send prompts, which take answers.

Tag and attribute names are compared without regard to case, values as they are: so does the
editor (``core/Tree.tsx`` of Label Studio 1.23.2 lowercases both).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, replace

from backend.expected import ExpectedError
from backend.labelstudio.config_problems import TagReference, find_problems
from backend.labelstudio.tags import (
    ANSWER_SHAPES,
    PROMPT_SHAPES,
    Answer,
    Control,
    ImageTag,
    Label,
    LabelConfig,
    LabelsTag,
    Shape,
    TextAreaTag,
    TimelineLabelsTag,
    VideoConfig,
    VideoRectangleTag,
    VideoTag,
    VideoVectorTag,
)

__all__ = [
    "Answer",
    "Control",
    "ImageTag",
    "Label",
    "LabelConfig",
    "LabelConfigError",
    "LabelsTag",
    "Shape",
    "TextAreaTag",
    "TimelineLabelsTag",
    "VideoConfig",
    "VideoRectangleTag",
    "VideoTag",
    "VideoVectorTag",
    "parse_label_config",
]


class LabelConfigError(ExpectedError):
    """The label config cannot be read; the message is one line, fit for an HTTP reason phrase."""


def parse_label_config(xml: str) -> LabelConfig:
    """Read a label config.

    Raises:
        LabelConfigError: not XML, or XML with a document type (label configs have none, and
            entity definitions are how a small file grows without bound).
    """
    elements = list(_walk(_parse_xml(xml)))
    objects = [element for element in elements if element.tag in ("image", "video")]
    names = [element.attributes["name"] for element in objects if "name" in element.attributes]
    # A control without toName belongs to the only object tag (editor: Tree.extractNames).
    default = names[0] if len(names) == 1 else None
    controls = [
        control for element in elements if (control := _control(element, default)) is not None
    ]
    config = LabelConfig(
        images=tuple(_image(e) for e in objects if e.tag == "image" and e.attributes.get("name")),
        videos=tuple(_video(e) for e in objects if e.tag == "video" and e.attributes.get("name")),
        prompts=tuple(c for c in controls if c.shape in PROMPT_SHAPES and c.smart),
        answers=_by_preference(controls),
        labels_tags=tuple(_labels_tags(elements, default)),
        text_areas=tuple(_text_areas(elements, default, per_region=False)),
        region_text_areas=tuple(_text_areas(elements, default, per_region=True)),
        video_rectangles=tuple(
            VideoRectangleTag(name, to_name)
            for name, to_name in _tied(elements, "videorectangle", default)
        ),
        video_vectors=tuple(
            VideoVectorTag(name, to_name)
            for tag in ("videovectorlabels", "videovector")
            for name, to_name in _tied(elements, tag, default)
        ),
        timeline_labels=tuple(
            TimelineLabelsTag(name, to_name)
            for name, to_name in _tied(elements, "timelinelabels", default)
        ),
        other_shapes=tuple(
            c
            for c in controls
            if c.shape not in ANSWER_SHAPES and not (c.shape in PROMPT_SHAPES and c.smart)
        ),
    )
    references = [
        TagReference(e.written, e.attributes["name"], e.attributes["toname"])
        for e in elements
        if e.attributes.get("name") and e.attributes.get("toname")
    ]
    repeated = any(element.tag == "repeater" for element in elements)
    return replace(config, problems=find_problems(config, references, repeated=repeated))


@dataclass(frozen=True)
class _Element:
    """An XML element with its names lowercased and the ``<Label>`` elements below it."""

    tag: str
    written: str  # the tag as it stands in the config
    attributes: dict[str, str]
    labels: tuple[Label, ...]


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
        if isinstance(error, LabelConfigError):
            raise
        raise LabelConfigError(f"the label config is not valid text: {error}") from error
    assert isinstance(root, ET.Element)  # noqa: S101 - what TreeBuilder.close() returns
    return root


def _walk(root: ET.Element) -> Iterator[_Element]:
    for node in root.iter():
        if not isinstance(node.tag, str):
            continue
        yield _Element(
            tag=node.tag.lower(),
            written=node.tag,
            attributes={key.lower(): value for key, value in node.attrib.items()},
            labels=tuple(_labels_below(node)),
        )


def _labels_below(node: ET.Element) -> Iterator[Label]:
    if not node.tag.lower().endswith("labels"):
        return
    for child in node.iter():
        if isinstance(child.tag, str) and child.tag.lower() == "label":
            attributes = {key.lower(): value for key, value in child.attrib.items()}
            value, alias = attributes.get("value"), attributes.get("alias")
            if value or alias:
                yield Label(value or alias or "", alias or None)


def _flag(attributes: dict[str, str], name: str, default: bool) -> bool:
    value = attributes.get(name)
    return default if value is None else value.strip().lower() == "true"


def _image(element: _Element) -> ImageTag:
    attributes = element.attributes
    return ImageTag(attributes["name"], attributes.get("value"), attributes.get("valuelist"))


def _video(element: _Element) -> VideoTag:
    attributes = element.attributes
    return VideoTag(attributes["name"], attributes.get("value"), attributes.get("framerate"))


def _tied(elements: list[_Element], tag: str, default: str | None) -> Iterator[tuple[str, str]]:
    """The ``name`` and ``toName`` of every element ``tag`` that has both."""
    for element in elements:
        name = element.attributes.get("name")
        to_name = element.attributes.get("toname", default)
        if element.tag == tag and name and to_name:
            yield name, to_name


def _control(element: _Element, default: str | None) -> Control | None:
    has_labels = element.tag.endswith("labels")
    name = element.attributes.get("name")
    to_name = element.attributes.get("toname", default)
    try:
        shape = Shape(element.tag.removesuffix("labels"))
    except ValueError:
        return None
    if not name or not to_name:
        return None
    attributes = element.attributes
    return Control(
        name=name,
        to_name=to_name,
        shape=shape,
        has_labels=has_labels,
        labels=element.labels,
        dynamic_labels=has_labels and attributes.get("value", "").startswith("$"),
        smart=_flag(attributes, "smart", True) or _flag(attributes, "smartonly", False),
    )


def _by_preference(controls: list[Control]) -> tuple[Control, ...]:
    answers = [control for control in controls if control.shape in ANSWER_SHAPES]
    # a smart-only tool draws nothing by hand, but its control still takes answers
    return tuple(sorted(answers, key=lambda control: ANSWER_SHAPES.index(control.shape)))


def _labels_tags(elements: list[_Element], default: str | None) -> Iterator[LabelsTag]:
    for element in elements:
        name = element.attributes.get("name")
        to_name = element.attributes.get("toname", default)
        if element.tag == "labels" and name and to_name:
            dynamic = element.attributes.get("value", "").startswith("$")
            yield LabelsTag(name, to_name, element.labels, dynamic)


def _text_areas(
    elements: list[_Element], default: str | None, *, per_region: bool
) -> Iterator[TextAreaTag]:
    for element in elements:
        attributes = element.attributes
        name, to_name = attributes.get("name"), attributes.get("toname", default)
        wanted = _flag(attributes, "perregion", False) is per_region
        if element.tag == "textarea" and name and to_name and wanted:
            yield TextAreaTag(
                name,
                to_name,
                per_item=_flag(attributes, "peritem", False),
                read_only=attributes.get("maxsubmissions", "").strip() == "0",
            )
