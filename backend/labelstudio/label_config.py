"""A label config read from its XML, and what would keep annotators from getting masks with it.

Tag and attribute names are compared without regard to case, values as they are: so does the
editor (``core/Tree.tsx`` of Label Studio 1.23.2 lowercases both).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

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
    Tag,
    TextAreaTag,
    VideoTag,
    tags_on,
)
from backend.recent_values import Recent

_VIDEO_VECTORS = ("videovectorlabels", "videovector")
_CONTROLS = {"labels", "textarea", "timelinelabels", "videorectangle", *_VIDEO_VECTORS} | {
    f"{shape}{suffix}" for shape in Shape for suffix in ("", "labels")
}
MAX_CHARACTERS = 2**20
KEPT_CHARACTERS = 4 * MAX_CHARACTERS  # of what was read, which takes about 20 bytes for each
MAX_TAGS = 2000  # pictures, videos, and what draws on them
MAX_PROBLEMS = 50  # told; they are mended one after another
_ANSWER_TAGS = "BrushLabels, BitmaskLabels, PolygonLabels, VectorLabels or RectangleLabels"


class LabelConfigError(ExpectedError):
    """The label config cannot be read; the message is one line, fit for an HTTP reason phrase."""


def parse_label_config(xml: str) -> LabelConfig:
    """Read a label config.

    Raises:
        LabelConfigError: not XML, or XML with a document type (label configs have none, and
            entity definitions are how a small file grows without bound), or more than anybody
            annotates with.
    """
    root = _parse_xml(xml)
    elements = [(node.tag.lower(), node) for node in root.iter()]
    labels = _labels(root)
    media = [node for tag, node in elements if tag in ("image", "video")]
    names = [node.attrib["name"] for node in media if "name" in node.attrib]
    if len(names) == 1:
        # A control without toName belongs to the only object tag (editor: Tree.extractNames).
        for _, node in elements:
            node.attrib.setdefault("toname", names[0])
    named = [(tag, node) for tag, node in elements if node.get("name")]
    count = sum(tag in _CONTROLS or tag in ("image", "video") for tag, _ in named)
    if count > MAX_TAGS:
        raise LabelConfigError(
            f"the label config has {count} images, videos and controls; at most {MAX_TAGS} are "
            "read: split it over several projects"
        )
    tied = [(tag, node) for tag, node in named if node.get("toname")]

    def tied_tags(kind: str) -> list[ET.Element]:
        return [node for tag, node in tied if tag == kind]

    controls = [
        control for tag, node in tied if (control := _control(tag, node, labels)) is not None
    ]
    prompts = tuple(control for control in controls if _is_prompt(control))
    # A smart-only tool draws nothing by hand, but its control still takes answers.
    answers = [control for control in controls if control.shape in ANSWER_SHAPES]
    texts = {node.get("name") for tag, node in named if tag == "text"}
    text_areas = [_text_area(node, texts, names) for node in tied_tags("textarea")]
    outlines = [node for kind in _VIDEO_VECTORS for node in tied_tags(kind)]
    config = LabelConfig(
        images=tuple(_image(node) for tag, node in named if tag == "image"),
        videos=tuple(_video(node) for tag, node in named if tag == "video"),
        prompts=prompts,
        answers=tuple(sorted(answers, key=lambda control: ANSWER_SHAPES.index(control.shape))),
        labels_tags=tuple(LabelsTag(*_names(n), *labels[n]) for n in tied_tags("labels")),
        text_areas=tuple(area for area in text_areas if not area.per_region),
        region_text_areas=tuple(area for area in text_areas if area.per_region),
        video_rectangles=tuple(Tag(*_names(node)) for node in tied_tags("videorectangle")),
        video_vectors=tuple(Tag(*_names(node)) for node in outlines),
        other_shapes=tuple(
            c for c in controls if c.shape not in ANSWER_SHAPES and not _is_prompt(c)
        ),
    )
    return replace(config, problems=tuple(islice(_problems(config, elements), MAX_PROBLEMS)))


class RecentConfigs:
    """Label configs that were read lately, by their text.

    Args:
        polygon_detail: see ``LabelConfig``.
    """

    def __init__(self, polygon_detail: float | None = None) -> None:
        self._polygon_detail = polygon_detail
        self._read: Recent[LabelConfig] = Recent(entries=KEPT_CHARACTERS, seconds=math.inf)

    def parse(self, xml: str) -> LabelConfig:
        """``parse_label_config``, once per text."""
        config = self._read.get(xml)
        if config is None:
            config = replace(parse_label_config(xml), polygon_detail=self._polygon_detail)
            self._read.put(xml, config, entries=len(xml))
        return config


def labels_without_answer(config: LabelConfig) -> Iterator[str]:
    """Those of the config's problems that cost annotators masks: labels that can be given to a
    prompt and that no answer tag has."""
    for image in config.images:
        if tags_on(config.prompts, image.name) and config.answers_for(image.name):
            yield from _without_answer(config, image)


# --- reading the XML -----------------------------------------------------------------------


Elements = Sequence[tuple[str, ET.Element]]
"""Elements, each with its lowercased tag; the names of their attributes are lowercased too."""


class _Builder(ET.TreeBuilder):
    def start(self, tag: str, attrs: dict[str, str]) -> ET.Element:
        return super().start(tag, {key.lower(): value for key, value in attrs.items()})

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Called before any entity of the document type is defined."""
        raise LabelConfigError("the label config has a <!DOCTYPE>: remove it")


def _parse_xml(xml: str) -> ET.Element:
    if not isinstance(xml, str) or not xml.strip():
        raise LabelConfigError("the label config is empty")
    if len(xml) > MAX_CHARACTERS:
        raise LabelConfigError(
            f"the label config has {len(xml)} characters; at most {MAX_CHARACTERS} are read"
        )
    try:
        # Document types are refused above, and with them every entity attack.
        return ET.fromstring(xml, ET.XMLParser(target=_Builder()))  # noqa: S314
    except ET.ParseError as error:
        raise LabelConfigError(f"the label config is not valid XML: {error}") from error
    except ValueError as error:  # lone surrogates cannot be encoded for the parser
        raise LabelConfigError(f"the label config is not valid text: {error}") from error


def _flag(node: ET.Element, name: str, default: str = "") -> bool:
    return node.get(name, default).strip().lower() == "true"


def _image(node: ET.Element) -> ImageTag:
    return ImageTag(node.attrib["name"], node.get("value"), node.get("valuelist"))


def _video(node: ET.Element) -> VideoTag:
    return VideoTag(node.attrib["name"], node.get("value"), node.get("framerate"))


def _names(node: ET.Element) -> tuple[str, str]:
    return node.attrib["name"], node.attrib["toname"]


Labels = Mapping[ET.Element, tuple[tuple[Label, ...], bool]]
"""By element with labels: these, and whether the task's data says which there are."""


def _labels(root: ET.Element) -> Labels:
    """The labels of every element that may have some. A label belongs to the nearest of them, so
    that each is read once, however they are nested."""
    found: dict[ET.Element, list[Label]] = {}
    waiting: list[tuple[ET.Element, list[Label]]] = [(root, [])]
    while waiting:
        node, around = waiting.pop()
        tag = node.tag.lower()
        value, alias = node.get("value"), node.get("alias") or None
        if tag == "label" and (value or alias):
            around.append(Label(value or alias or "", alias))
        elif tag.endswith("labels"):
            around = found[node] = []
        waiting.extend((child, around) for child in reversed(node))
    return {
        node: (tuple(labels), node.get("value", "").startswith("$"))
        for node, labels in found.items()
    }


def _is_prompt(control: Control) -> bool:
    return control.shape in PROMPT_SHAPES and control.smart


def _control(tag: str, node: ET.Element, labels: Labels) -> Control | None:
    shape = tag.removesuffix("labels")
    if shape not in list(Shape):
        return None
    has_labels = shape != tag
    return Control(
        *_names(node),
        *(labels[node] if has_labels else ()),
        shape=Shape(shape),
        has_labels=has_labels,
        smart=_flag(node, "smart", "true") or _flag(node, "smartonly"),
    )


def _text_area(
    node: ET.Element, texts: Collection[str | None], media: Sequence[str]
) -> TextAreaTag:
    """A text area; one on a ``<Text>`` is about the first picture or video."""
    name, tied_to = _names(node)
    return TextAreaTag(
        name,
        media[0] if tied_to in texts and media else tied_to,
        tied_to=tied_to,
        per_region=_flag(node, "perregion"),
        per_item=_flag(node, "peritem"),
        read_only=node.get("maxsubmissions", "").strip() == "0",
    )


# --- problems, one line each: what is missing, and what to change -----------------------------


def _problems(config: LabelConfig, elements: Elements) -> Iterator[str]:
    """All problems, in the order in which they should be read."""
    yield from _media_problems(config)
    yield from _reference_problems(config, elements)
    if any(tag == "repeater" for tag, _ in elements):  # names are known only per task
        yield "<Repeater> is not supported: use one <Image> with valueList for several pages"
    annotated = [
        image for image in config.images if tags_on((*config.prompts, *config.answers), image.name)
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
    for shown in (*config.images, *config.videos):
        if not shown.source.strip():
            yield f"{shown.tag} has no value: add {shown.example}"


def _reference_problems(config: LabelConfig, elements: Elements) -> Iterator[str]:
    objects = {"", *(shown.name for shown in (*config.images, *config.videos))}
    texts = {area.tied_to for area in config.text_areas if area.to_name in objects}
    for tag, node in elements:
        name, to_name = node.get("name"), node.get("toname", "")
        if tag not in _CONTROLS or not name or to_name in objects:
            continue
        if tag == "textarea" and to_name in texts:
            continue
        where = f'<{node.tag} name={name}> has toName="{to_name}", but'
        if "," in to_name:
            yield f"{where} the editor ties a tag to one name: write one tag for each"
        else:
            yield f"{where} no <Image> or <Video> has that name: correct it"


def _is_annotated(config: LabelConfig, video: VideoTag) -> bool:
    """Whether anything is drawn on a video; spans of time do not count."""
    shapes = (*config.answers, *config.prompts, *config.other_shapes)
    return bool(tags_on((*shapes, *config.video_controls), video.name))


def _video_problems(config: LabelConfig, video: VideoTag) -> Iterator[str]:
    rectangle = f'<VideoRectangle name="box" toName="{video.name}"/>'
    shapes = tags_on(config.answers, video.name)
    if shapes:
        yield (
            f"{shapes[0].tag} is on {video.tag}, but open-source Label Studio has no masks on a "
            f'<Video>: use {rectangle} for boxes, or the frames in <Image valueList="$frames"> '
            "for masks"
        )
    if tags_on(config.video_rectangles, video.name):
        yield from _trigger_problems(config, video)
    elif not shapes and not tags_on(config.video_vectors, video.name):
        yield (
            f"no <VideoRectangle> for {video.tag}: add {rectangle} to track boxes, or use the "
            'frames in <Image valueList="$frames"> for masks'
        )
    yield from _framerate_problems(video)


def _trigger_problems(config: LabelConfig, video: VideoTag) -> Iterator[str]:
    """Why tracking cannot be asked for, or only in a roundabout way."""
    areas = tags_on((*config.region_text_areas, *config.text_areas), video.name)
    if not all(area.read_only for area in areas):
        return
    area = f'<TextArea name="command" toName="{video.name}" perRegion="true"/>'
    if tags_on(config.labels_tags, video.name):
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
    prompts, answers = tags_on(config.prompts, image.name), config.answers_for(image.name)
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
    yield from _without_answer(config, image)
    bare = [control for control in prompts if not control.has_labels]
    if bare and not tags_on(config.labels_tags, image.name) and answers[0].has_labels:
        yield (
            f"clicks with {bare[0].tag} carry no label, so masks come without one: use "
            f"<{bare[0].shape.tag}Labels> with the labels of {answers[0].tag}"
        )
    yield from _unreachable(config, image)
    if config.status_area(image.name) is None:
        yield (
            f"no <TextArea> for {image.tag}: annotators are not told why there is no mask, and "
            f'cannot type commands; add <TextArea name="status" toName="{image.name}"/>'
        )


def _label_sources(config: LabelConfig, image: ImageTag) -> list[LabelsTag]:
    """The tags that the labels of prompts come from."""
    prompts = tags_on(config.prompts, image.name)
    sources: list[LabelsTag] = [control for control in prompts if control.has_labels]
    if len(sources) < len(prompts):
        sources += tags_on(config.labels_tags, image.name)
    return sources


def _without_answer(config: LabelConfig, image: ImageTag) -> Iterator[str]:
    """Labels of prompts that no answer can have."""
    holders = [holder for _, holder in config.label_holders(image.name)]
    if any(holder.dynamic_labels for holder in holders):
        return
    known = {name for holder in holders for name in holder.by_name}
    answers, separate = config.answers_for(image.name), tags_on(config.labels_tags, image.name)
    labelled = next((control for control in answers if control.has_labels), None)
    if labelled is not None:
        reason = f"is in no answer tag: add it to {labelled.tag}"
    elif separate:
        reason = f"is not in {separate[0].tag}: add it there"
    else:
        tag = f"<{answers[0].shape.tag}Labels>"
        reason = f"has no place in {answers[0].tag}: use {tag} with that label"
    for source in _label_sources(config, image):
        missing = [
            label.name
            for label in source.labels
            if known.isdisjoint(config.spellings(label.name, source.name))
        ]
        if missing:
            yield f"label {', '.join(missing)} of {source.tag} {reason}"


def _unreachable(config: LabelConfig, image: ImageTag) -> Iterator[str]:
    """Labels of answers that no prompt can have."""
    sources = _label_sources(config, image)
    if not sources or any(source.dynamic_labels for source in sources):
        return
    reachable = {name for source in sources for label in source.labels for name in label.names}
    for control in config.answers_for(image.name):
        missing = [label.name for label in control.labels if reachable.isdisjoint(label.names)]
        if missing and not control.dynamic_labels:
            yield (
                f"label {', '.join(missing)} of {control.tag} cannot be chosen for a click: add "
                f"it to {sources[0].tag}"
            )
