"""What another ML backend is asked about one picture, and what its answer says.

Whatever a project shows (pictures, pages, frames of a video), a detector gets a task of one
picture. Where the project itself is of that kind it gets the project's own label config, as Label
Studio would send it; else one with the same labels on one ``<Image>``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backend.expected import cut
from backend.labelstudio.detector_client import found_items
from backend.labelstudio.geometry import (
    Ellipse,
    box_iou,
    box_to_pixels,
    ellipse_to_polygon,
    mask_bounds,
    points_to_pixels,
)
from backend.labelstudio.json_values import number
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, prompts_found
from backend.labelstudio.read_results import (
    Bitmask,
    BrushStrokes,
    DecodeMask,
    EncodedMask,
    Polygon,
    UnreadableMask,
    by_region,
    mask_size,
)
from backend.labelstudio.tags import (
    ImageTag,
    Label,
    LabelConfig,
    LabelsTag,
    MediaTag,
    VideoTag,
    tags_on,
)

MAX_FOUND = 200  # objects of one picture, the surest first
SAME_IOU = 0.7  # of the boxes around two finds of one label that are the same thing
MAX_PIXELS = 16_000_000  # of a mask: pictures are sent with a quarter of them at most
MAX_WORDS = 50
LONGEST_WORD = 60
MANY_NAMES = 5  # in one sentence
_PLAIN = re.compile(r"\$(\w+)")
_OWN_KEY = "image"


@dataclass(frozen=True)
class Wanted:
    """What to look for.

    Attributes:
        words: what was named; empty for all labels of the label config.
        labels: by what the detector calls it, in lower case: the label that it gets.
        label: of what gets none otherwise.
        score: what is less sure is left out.
    """

    words: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None
    score: float = 0.0

    @property
    def text(self) -> str | None:
        """The words as a detector reads them, in one text: backends look at the first text only,
        and Grounding DINO takes names with full stops between."""
        return " . ".join(self.words) or None


@dataclass(frozen=True)
class OnePicture:
    """A task of one picture as a detector gets it.

    Attributes:
        label_config: what is sent, and ``config`` what it means.
        key: of the picture in the task's data.
    """

    label_config: str
    config: LabelConfig
    key: str

    def task(self, number: object, address: str) -> dict[str, Any]:
        """Nothing but the picture: no other column of the task, no annotation."""
        return {"id": number, "data": {self.key: address}}


def one_picture(task: ProjectTask, tag: MediaTag) -> OnePicture:
    """What a detector is told of what ``tag`` shows."""
    config = task.config
    plain = _PLAIN.fullmatch(tag.source.strip())
    alone = (len(config.images), len(config.videos)) == (1, 0)
    if alone and plain and isinstance(tag, ImageTag) and not tag.is_sequence:
        return OnePicture(task.label_config, config, plain[1])
    root = ET.Element("View")
    ET.SubElement(root, "Image", name="image", value=f"${_OWN_KEY}")
    # HumanSignal's grounding_sam looks for both of these, whichever it answers with.
    for control in ("RectangleLabels", "BrushLabels"):
        holder = ET.SubElement(root, control, name=control.lower(), toName="image")
        for label in labels_on(config, tag):
            spelled = {"value": label.value}
            if label.alias is not None:
                spelled["alias"] = label.alias
            ET.SubElement(holder, "Label", spelled)
    xml = ET.tostring(root, encoding="unicode")
    return OnePicture(xml, parse_label_config(xml), _OWN_KEY)


def labels_on(config: LabelConfig, tag: MediaTag) -> list[Label]:
    """The labels that an answer on ``tag`` can have."""
    holders = _holders(config, tag)
    return list({label.name: label for holder in holders for label in holder.labels}.values())


def _holders(config: LabelConfig, tag: MediaTag) -> Sequence[LabelsTag]:
    """The tags that give answers on ``tag`` their labels."""
    if isinstance(tag, VideoTag):
        return tags_on(config.labels_tags, tag.name)
    return [holder for _, holder in config.label_holders(tag.name)]


@dataclass(frozen=True)
class Detection:
    """Something that a detector found.

    Attributes:
        prompt: it, on the picture of the project's task.
        score: how sure the detector is, None where it does not say.
    """

    prompt: ObjectPrompt
    score: float | None


@dataclass(frozen=True)
class Detections:
    """What a detector found, the surest first, and in words what was left out."""

    found: tuple[Detection, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def prompts(self) -> list[ObjectPrompt]:
        return [each.prompt for each in self.found]


def read_detections(
    entry: object,
    sent: OnePicture,
    wanted: Wanted,
    *,
    task: ProjectTask,
    tag: MediaTag,
    page: int | None,
    size: tuple[int, int],
    decode: DecodeMask,
    late: Callable[[], bool] = lambda: False,
) -> Detections:
    """What a detector answered. Never raises, whatever it is.

    Args:
        entry: of ``results``, see ``DetectorClient.predict``.
        tag, page: where on ``task`` the picture is; ``size`` is its width and height in pixels.
        decode: masks.
        late: whether the time for reading is over.
    """
    items, scores, notes = _sure_items(entry, sent, wanted.score)
    read = prompts_found(items, sent.config, late)
    notes += read.ignored[:MANY_NAMES]
    naming = _Naming(task.config, tag, wanted)
    found: list[Detection] = []
    boxes: dict[tuple[str, ...], list[Sequence[float]]] = {}
    unknown: Counter[str] = Counter()
    for prompt in read.objects:
        if isinstance(prompt.shape, BrushStrokes | Bitmask) and not _fits(prompt.shape):
            notes.append(f"masks of more than {MAX_PIXELS // 10**6} megapixels are left out")
            continue
        labels = naming.labels(prompt.labels)
        if labels is None:
            unknown[cut(prompt.labels[0] if prompt.labels else "", LONGEST_WORD)] += 1
            continue
        box = _box_around(prompt, size, decode)
        earlier = boxes.setdefault(labels, [])
        if box is not None:
            if any(box_iou(box, each) >= SAME_IOU for each in earlier):
                continue
            earlier.append(box)
        placed = replace(
            prompt,
            image=tag.name,
            item_index=page,
            labels=labels,
            original_width=size[0],
            original_height=size[1],
            image_rotation=0.0,
            from_name="",
            source_ids=(),
        )
        found.append(Detection(placed, scores[int(prompt.source_ids[0])]))
    return Detections(tuple(found), (*dict.fromkeys(notes), *naming.explain(unknown)))


def _sure_items(
    entry: object, sent: OnePicture, least: float
) -> tuple[list[dict[str, Any]], list[float | None], list[str]]:
    """The items of an answer that are sure enough, the surest first, each region's with its place
    in the list of scores as id; that list; and what is said of those left out."""
    regions = []
    for _, group in by_region(found_items(entry)):
        stated = [_score(item) for item in group]
        score = max((each for each in stated if each is not None), default=None)
        regions.append((score, group))
    sure = [each for each in regions if each[0] is None or each[0] >= least]
    sure.sort(key=lambda each: 0.0 if each[0] is None else -each[0])
    notes = []
    if len(sure) < len(regions):
        notes.append(f"{len(regions) - len(sure)} less sure than {least:g} are left out")
    if len(sure) > MAX_FOUND:
        notes.append(f"of {len(sure)} only the surest {MAX_FOUND} are taken")
        sure = sure[:MAX_FOUND]
    image = sent.config.images[0].name  # there was one picture: whatever name it gets is this
    items = [
        {**item, "id": str(place), "to_name": image}
        for place, (_, group) in enumerate(sure)
        for item in group
    ]
    return items, [score for score, _ in sure], notes


def _score(item: Mapping[str, object]) -> float | None:
    value = item.get("value")
    stated = item.get("score", value.get("score") if isinstance(value, Mapping) else None)
    return number(stated)


class _Naming:
    """Which label of a project a find gets."""

    def __init__(self, config: LabelConfig, tag: MediaTag, wanted: Wanted) -> None:
        labels = labels_on(config, tag)
        self._known = {
            name.casefold(): label.name for label in reversed(labels) for name in label.names
        }
        self._first = labels[0].name if labels else "Label"
        self._only = self._first if len(labels) == 1 else None
        self._from_task = any(holder.dynamic_labels for holder in _holders(config, tag))
        self._unnamed = not labels and not self._from_task
        self._wanted = wanted

    def labels(self, said: Sequence[str]) -> tuple[str, ...] | None:
        """The labels of what a detector calls by the names ``said``; None where no label is meant
        for it."""
        if self._unnamed:
            return ()
        wanted = self._wanted
        names = list(said[:MANY_NAMES])
        if len(wanted.words) == 1:  # so that is what it found, whatever it calls it
            names += wanted.words
        meant = [wanted.labels.get(name.casefold(), name) for name in names]
        if wanted.label is not None:
            meant.append(wanted.label)
        known = (self._known.get(name.casefold()) for name in meant)
        label = next((name for name in known if name is not None), self._only)
        if label is None and meant and self._from_task:  # which are not looked up here
            label = meant[0]
        return None if label is None else (label,)

    def explain(self, unknown: Counter[str]) -> Iterable[str]:
        """What is said of finds without a label."""
        named = {name: count for name, count in unknown.items() if name}
        if unknown[""]:
            yield (
                f"{unknown['']} came without a label: look for one thing at a time, such as "
                "find person"
            )
        if named:
            shown = ", ".join(f"{count} {name}" for name, count in [*named.items()][:MANY_NAMES])
            one = next(iter(named))
            like = f"find {one}={self._first}"
            yield f"no label for {shown}: name one, as in {like}, or set DETECTOR_LABELS"


def _fits(mask: EncodedMask) -> bool:
    """Whether a mask is of a picture as small as those that are sent."""
    try:
        width, height = mask_size(mask)
    except ValueError:
        return False
    return width * height <= MAX_PIXELS


def _box_around(
    prompt: ObjectPrompt, size: tuple[int, int], decode: DecodeMask
) -> Sequence[float] | None:
    """The upright box around a find, in pixels of a picture of ``size``; None for points, and for
    masks that cannot be decoded."""
    if prompt.box is not None:
        return [float(each) for each in box_to_pixels(prompt.box, *size)]
    shape = prompt.shape
    match shape:
        case None:
            return None
        case Polygon():
            corners = points_to_pixels(shape.points, *size)
        case Ellipse():
            corners = ellipse_to_polygon(shape, *size)
        case BrushStrokes() | Bitmask():
            try:
                mask = decode(shape)
            except UnreadableMask:
                return None
            bounds, (height, width) = mask_bounds(mask), mask.shape
            if bounds is None:
                return None
            across, down = size[0] / width, size[1] / height
            left, top, right, bottom = bounds
            return left * across, top * down, right * across, bottom * down
    return [*corners.min(axis=0), *corners.max(axis=0)]
