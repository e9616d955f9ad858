"""The tags of a label config that matter here, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
class ImageTag:
    """``<Image>``: one picture (``value``), or a list of pages (``value_list``).

    Both are the attribute as written, ``$key``, ``$a.b[0]`` or a fixed address.
    """

    name: str
    value: str | None = None
    value_list: str | None = None

    @property
    def tag(self) -> str:
        """The tag as people write it, for messages."""
        return f"<Image name={self.name}>"

    @property
    def is_sequence(self) -> bool:
        """Whether results on this tag carry ``item_index``."""
        return self.value_list is not None

    @property
    def source(self) -> str:
        """The attribute that says where the picture is; a list goes before a single one."""
        return self.value_list if self.value_list is not None else self.value or ""


@dataclass(frozen=True)
class VideoTag:
    """``<Video>``; holds boxes over frames, but no masks in open-source Label Studio.

    ``framerate`` is the attribute as written, a number or ``$key``; ``timing.tag_framerate`` reads
    it.
    """

    name: str
    value: str | None = None
    framerate: str | None = None

    @property
    def tag(self) -> str:
        """The tag as people write it, for messages."""
        return f"<Video name={self.name}>"

    @property
    def source(self) -> str:
        """The attribute that says where the video is."""
        return self.value or ""


MediaTag = ImageTag | VideoTag


@dataclass(frozen=True)
class VideoControl:
    """A tag that draws on a video.

    ``<VideoRectangle>`` draws boxes with key frames, which a ``<Labels>`` names. ``<VideoVector>``
    and ``<VideoVectorLabels>`` draw outlines, in Label Studio's newer editors only;
    ``backend/predict/events`` serves them.
    """

    name: str
    to_name: str


@dataclass(frozen=True)
class Control:
    """A tag that draws shapes on one object tag, such as ``<BrushLabels>`` or ``<Brush>``."""

    name: str
    to_name: str
    shape: Shape
    has_labels: bool
    labels: tuple[Label, ...] = ()
    dynamic_labels: bool = False  # <BrushLabels value="$labels">: known only with the task
    smart: bool = True

    @property
    def result_type(self) -> str:
        """The ``type`` of its results, and the key of the labels in their ``value``."""
        return f"{self.shape}labels" if self.has_labels else str(self.shape)

    @property
    def tag(self) -> str:
        """The tag as people write it, for messages."""
        return f"<{self.shape.tag}{'Labels' if self.has_labels else ''} name={self.name}>"


@dataclass(frozen=True)
class LabelsTag:
    """A separate ``<Labels>``, which names the regions of controls without labels of their own."""

    name: str
    to_name: str
    labels: tuple[Label, ...] = ()
    dynamic_labels: bool = False

    @property
    def tag(self) -> str:
        """The tag as people write it, for messages."""
        return f"<Labels name={self.name}>"


@dataclass(frozen=True)
class TextAreaTag:
    """A ``<TextArea>``, of the whole picture or video or, with ``perRegion``, of each region."""

    name: str
    to_name: str
    per_item: bool = False
    read_only: bool = False  # annotators cannot type there: it can only show our status


@dataclass(frozen=True)
class AnswerControl:
    """The control that takes a mask, and where its labels are written."""

    control: Control
    labels_tag: LabelsTag | None = None  # a separate <Labels>; None: the control's own
    labels: tuple[str, ...] = ()


def _name_in(holder: Control | LabelsTag, name: str, source: Control | None) -> str | None:
    """What ``holder`` calls the label that ``source`` calls ``name``."""
    if holder.dynamic_labels:
        return name
    spellings = [name]
    for label in source.labels if source else ():
        if name in label.names:
            spellings += label.names
    return next(
        (
            label.name
            for spelling in spellings
            for label in holder.labels
            if spelling in label.names
        ),
        None,
    )


@dataclass(frozen=True)
class LabelConfig:
    """A label config, reduced to what matters here. Tuples are in document order, ``answers``
    in order of preference."""

    images: tuple[ImageTag, ...] = ()
    videos: tuple[VideoTag, ...] = ()
    prompts: tuple[Control, ...] = ()
    answers: tuple[Control, ...] = ()
    labels_tags: tuple[LabelsTag, ...] = ()
    text_areas: tuple[TextAreaTag, ...] = ()  # of a whole picture or video
    region_text_areas: tuple[TextAreaTag, ...] = ()  # perRegion="true"
    video_rectangles: tuple[VideoControl, ...] = ()
    video_vectors: tuple[VideoControl, ...] = ()
    other_shapes: tuple[Control, ...] = ()  # ellipses: neither a smart prompt nor an answer
    problems: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether a picture has a control that can take a mask, or a video one for boxes or
        outlines."""
        images = {image.name for image in self.images}
        videos = {video.name for video in self.videos}
        return any(control.to_name in images for control in self.answers) or any(
            tag.to_name in videos for tag in self.video_controls
        )

    @property
    def video_controls(self) -> tuple[VideoControl, ...]:
        """Everything that draws on videos."""
        return (*self.video_vectors, *self.video_rectangles)

    def image(self, name: str) -> ImageTag | None:
        """The ``<Image>`` called ``name``."""
        return next((image for image in self.images if image.name == name), None)

    def video(self, name: str) -> VideoTag | None:
        """The ``<Video>`` called ``name``."""
        return next((video for video in self.videos if video.name == name), None)

    def control(self, name: str) -> Control | None:
        """The control called ``name``, whatever it draws."""
        everything = (*self.answers, *self.prompts, *self.other_shapes)
        return next((control for control in everything if control.name == name), None)

    def prompts_for(self, image: str) -> tuple[Control, ...]:
        """Controls whose smart tool sends prompts on ``image``."""
        return tuple(control for control in self.prompts if control.to_name == image)

    def answers_for(self, image: str) -> tuple[Control, ...]:
        """Controls that can take a mask on ``image``, the preferred one first.

        A smart rectangle is a prompt; it is also an answer only where nothing else is.
        """
        answers = tuple(control for control in self.answers if control.to_name == image)
        return tuple(control for control in answers if control not in self.prompts) or answers

    def find_answer(
        self, image: str, labels: tuple[str, ...], prompt: str | None = None
    ) -> AnswerControl | None:
        """The preferred way to give a mask on ``image`` the ``labels`` of a prompt.

        Args:
            image: name of the Image tag.
            labels: label names as the prompt carries them; empty for a prompt without label.
            prompt: name of the control the prompt came from. Its labels translate between value
                and alias where the two controls write the same label differently.

        Returns:
            None where no control of the image has all the labels: nothing is guessed.
        """
        source = self.control(prompt) if prompt else None
        for control in self.answers_for(image):
            holders = (control,) if control.has_labels else self.labels_for(image)
            if not labels:
                return AnswerControl(control)
            for holder in holders:
                names = [_name_in(holder, label, source) for label in labels]
                if None not in names:
                    found = tuple(name for name in names if name is not None)
                    separate = holder if isinstance(holder, LabelsTag) else None
                    return AnswerControl(control, separate, found)
        return None

    def labels_for(self, name: str) -> tuple[LabelsTag, ...]:
        """The separate ``<Labels>`` of the object tag ``name``."""
        return tuple(tag for tag in self.labels_tags if tag.to_name == name)

    def rectangles_for(self, video: str) -> tuple[VideoControl, ...]:
        """What draws boxes on ``video``; empty where nothing can be tracked."""
        return tuple(tag for tag in self.video_rectangles if tag.to_name == video)

    def region_text_areas_for(self, video: str) -> tuple[TextAreaTag, ...]:
        """The text areas of each box on ``video``: a command there is for that box."""
        return tuple(area for area in self.region_text_areas if area.to_name == video)

    def text_areas_for(self, name: str) -> tuple[TextAreaTag, ...]:
        """The global text areas of the object tag ``name``."""
        return tuple(area for area in self.text_areas if area.to_name == name)

    def status_area(self, image: str) -> TextAreaTag | None:
        """The global text area that shows our status: one that annotators cannot type into if there
        is one, else the first."""
        areas = self.text_areas_for(image)
        return next((area for area in areas if area.read_only), areas[0] if areas else None)
