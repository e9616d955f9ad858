"""The tags of a label config that matter here, as values."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import ClassVar, TypeVar


class Shape(StrEnum):
    """What a control draws; the value is Label Studio's result type without ``labels``."""

    BRUSH = "brush"
    BITMASK = "bitmask"
    POLYGON = "polygon"
    VECTOR = "vector"
    RECTANGLE = "rectangle"
    KEYPOINT = "keypoint"
    ELLIPSE = "ellipse"

    @property
    def tag(self) -> str:
        """The tag name as people write it."""
        return "KeyPoint" if self is Shape.KEYPOINT else self.capitalize()


ANSWER_SHAPES = (Shape.BRUSH, Shape.BITMASK, Shape.POLYGON, Shape.VECTOR, Shape.RECTANGLE)
"""Shapes a mask can be returned as, the most faithful first."""

PROMPT_SHAPES = (Shape.KEYPOINT, Shape.RECTANGLE)
"""Shapes whose smart tool sends requests (Label Studio 1.23.2; of the others none did)."""


@dataclass(frozen=True)
class Label:
    """One ``<Label>``. In results the alias, if there is one, stands for the value."""

    value: str
    alias: str | None = None

    @property
    def name(self) -> str:
        """The name results carry."""
        return self.alias or self.value

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which the editor finds it, the one that results carry first."""
        return (self.alias, self.value) if self.alias else (self.value,)


@dataclass(frozen=True)
class MediaTag:
    """A tag that shows media. Attributes are kept as written: ``$key``, ``$a.b[0]`` or fixed."""

    kind: ClassVar[str]

    name: str
    value: str | None = None

    @property
    def tag(self) -> str:
        """The tag as people write it, for messages."""
        return f"<{self.kind} name={self.name}>"

    @property
    def source(self) -> str:
        """The attribute that says where the media is."""
        return self.value or ""

    @property
    def example(self) -> str:
        """The attribute that is missing where ``source`` is empty."""
        return f'value="${self.kind.lower()}"'


@dataclass(frozen=True)
class ImageTag(MediaTag):
    """``<Image>``: one picture (``value``), or a list of pages (``value_list``)."""

    kind = "Image"

    value_list: str | None = None

    @property
    def is_sequence(self) -> bool:
        """Whether results on this tag carry ``item_index``."""
        return self.value_list is not None

    @property
    def source(self) -> str:
        """The attribute that says where the picture is; a list goes before a single one."""
        return self.value_list if self.value_list is not None else super().source


@dataclass(frozen=True)
class VideoTag(MediaTag):
    """``<Video>``; holds boxes over frames, but no masks in open-source Label Studio.

    ``timing.tag_framerate`` reads the ``framerate``, a number or ``$key``.
    """

    kind = "Video"

    framerate: str | None = None


@dataclass(frozen=True)
class Tag:
    """A tag that is about one object tag, the ``<Image>`` or ``<Video>`` named ``to_name``.

    This is all there is to know of what draws on videos: ``<VideoRectangle>`` draws boxes with key
    frames, which a ``<Labels>`` names; ``<VideoVector>`` and ``<VideoVectorLabels>`` draw outlines,
    in Label Studio's newer editors only, which ``backend/predict/events`` serves.
    """

    name: str
    to_name: str


@dataclass(frozen=True)
class TextAreaTag(Tag):
    """A ``<TextArea>``, of the whole picture or video or, with ``perRegion``, of each region.

    Attributes:
        to_name: of the picture or video that it is about.
        tied_to: what ``toName`` says, which may be the name of a ``<Text>``.
        read_only: annotators cannot type there, so it can only show our status.
    """

    tied_to: str = ""
    per_region: bool = False
    per_item: bool = False
    read_only: bool = False


@dataclass(frozen=True)
class LabelsTag(Tag):
    """A tag that gives regions their labels: a separate ``<Labels>``, for controls without labels
    of their own, or a ``Control``."""

    labels: tuple[Label, ...] = ()
    dynamic_labels: bool = False  # value="$labels": known only with the task

    @cached_property
    def by_name(self) -> Mapping[str, str]:
        """By value and by alias: the name that results carry, of the first label called so."""
        found: dict[str, str] = {}
        for label in self.labels:
            for name in label.names:
                found.setdefault(name, label.name)
        return found

    @cached_property
    def _namesakes(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for label in self.labels:
            for name in label.names:
                found[name] += label.names
        return found

    def spellings(self, name: str) -> list[str]:
        """``name``, and what else its labels are called here."""
        return [name, *self._namesakes.get(name, ())]

    @property
    def tag(self) -> str:
        """The tag as people write it, for messages."""
        return f"<Labels name={self.name}>"


@dataclass(frozen=True, kw_only=True)
class Control(LabelsTag):
    """A tag that draws shapes on one object tag, such as ``<BrushLabels>`` or ``<Brush>``."""

    shape: Shape
    has_labels: bool
    smart: bool = True

    @property
    def result_type(self) -> str:
        """The ``type`` of its results, and the key of the labels in their ``value``."""
        return f"{self.shape}labels" if self.has_labels else str(self.shape)

    @property
    def tag(self) -> str:
        """The tag as people write it, for messages."""
        return f"<{self.shape.tag}{'Labels' if self.has_labels else ''} name={self.name}>"


AnyTag = TypeVar("AnyTag", bound=Tag)


def tags_on(tags: Iterable[AnyTag], to_name: str) -> tuple[AnyTag, ...]:
    """Those of ``tags`` that are about the object tag ``to_name``."""
    return tuple(tag for tag in tags if tag.to_name == to_name)


@dataclass(frozen=True)
class AnswerControl:
    """The control that takes a mask, and where its labels are written."""

    control: Control
    labels_tag: LabelsTag | None = None  # a separate <Labels>; None: the control's own
    labels: tuple[str, ...] = ()


def _name_in(holder: LabelsTag, spellings: Sequence[str]) -> str | None:
    """What ``holder`` calls the label with these ``spellings``; the first is its prompt's own."""
    if holder.dynamic_labels:
        return spellings[0]
    return next((holder.by_name[each] for each in spellings if each in holder.by_name), None)


@dataclass(frozen=True)
class LabelConfig:
    """A label config, reduced to what matters here. Tuples are in document order, ``answers``
    in order of preference.

    Attributes:
        polygon_detail: how far polygon answers may leave the outline of a mask, in pixels; None
            where that follows from the mask. It is the operator's, and not of the XML.
    """

    images: tuple[ImageTag, ...] = ()
    videos: tuple[VideoTag, ...] = ()
    prompts: tuple[Control, ...] = ()
    answers: tuple[Control, ...] = ()
    labels_tags: tuple[LabelsTag, ...] = ()
    text_areas: tuple[TextAreaTag, ...] = ()  # of a whole picture or video
    region_text_areas: tuple[TextAreaTag, ...] = ()  # of each box: a command is for that box
    video_rectangles: tuple[Tag, ...] = ()
    video_vectors: tuple[Tag, ...] = ()
    other_shapes: tuple[Control, ...] = ()  # ellipses: neither a smart prompt nor an answer
    problems: tuple[str, ...] = ()
    polygon_detail: float | None = None

    @property
    def usable(self) -> bool:
        """Whether a picture has a control that can take a mask, or a video one for boxes or
        outlines."""
        return any(tags_on(self.answers, image.name) for image in self.images) or any(
            tags_on(self.video_controls, video.name) for video in self.videos
        )

    @property
    def video_controls(self) -> tuple[Tag, ...]:
        """Everything that draws on videos."""
        return (*self.video_vectors, *self.video_rectangles)

    def image(self, name: str) -> ImageTag | None:
        return next((image for image in self.images if image.name == name), None)

    def video(self, name: str) -> VideoTag | None:
        return next((video for video in self.videos if video.name == name), None)

    def control(self, name: str) -> Control | None:
        """The control called ``name``, whatever it draws."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> Mapping[str, Control]:
        everything = (*self.answers, *self.prompts, *self.other_shapes)
        return {control.name: control for control in reversed(everything)}

    @cached_property
    def _prompt_names(self) -> frozenset[str]:
        return frozenset(control.name for control in self.prompts)

    def answers_for(self, image: str) -> tuple[Control, ...]:
        """Controls that can take a mask on ``image``, the preferred one first.

        A smart rectangle is a prompt; it is also an answer only where nothing else is.
        """
        answers = tags_on(self.answers, image)
        no_prompts = (control for control in answers if control.name not in self._prompt_names)
        return tuple(no_prompts) or answers

    def label_holders(self, image: str) -> Iterator[tuple[Control, LabelsTag]]:
        """The controls that can take a mask on ``image``, the preferred one first, each with a tag
        that gives it labels: itself, or separate ``<Labels>``, which come with the first only of
        the controls that they are for."""
        separate, told = tags_on(self.labels_tags, image), False
        for control in self.answers_for(image):
            if control.has_labels or not separate:
                yield control, control
            elif not told:
                told = True
                yield from ((control, holder) for holder in separate)

    def spellings(self, name: str, prompt: str | None) -> list[str]:
        """``name`` of a label of the control ``prompt``, and what else it is called there."""
        source = self.control(prompt) if prompt else None
        return source.spellings(name) if source else [name]

    def find_answer(
        self, image: str, labels: tuple[str, ...], prompt: str | None = None
    ) -> AnswerControl | None:
        """The preferred way to give a mask on ``image`` the ``labels`` of a prompt.

        Args:
            labels: label names as the prompt carries them; empty for a prompt without label.
            prompt: name of the control the prompt came from. Its labels translate between value
                and alias where the two controls write the same label differently.

        Returns:
            None where no control of the image has all the labels: nothing is guessed.
        """
        if not labels:
            return next((AnswerControl(control) for control in self.answers_for(image)), None)
        spelt = [self.spellings(label, prompt) for label in labels]
        for control, holder in self.label_holders(image):
            names = [_name_in(holder, spellings) for spellings in spelt]
            found = tuple(name for name in names if name is not None)
            if len(found) == len(labels):
                return AnswerControl(control, None if holder is control else holder, found)
        return None

    def text_area(self, name: str) -> TextAreaTag | None:
        """The global text area called ``name``."""
        return next((area for area in self.text_areas if area.name == name), None)

    def status_area(self, shown: str, typed_into: str | None = None) -> TextAreaTag | None:
        """The global text area of the picture or video ``shown`` in which our status stands: one
        that annotators cannot type into if there is one, else that called ``typed_into``, else the
        first."""
        areas = tags_on(self.text_areas, shown)
        silent = (area for area in areas if area.read_only)
        typed = (area for area in areas if area.name == typed_into)
        return next(itertools.chain(silent, typed, areas), None)
