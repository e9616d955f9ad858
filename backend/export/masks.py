"""The masks of a task, page by page, as exports need them: with object and label.

Masks on images and frame sequences are regions of the results. Of a video Label Studio keeps boxes
only; the masks they were made from are in the service's store.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, partial
from urllib.parse import urlsplit

from backend.labelstudio.geometry import (
    Box,
    Mask,
    box_iou,
    box_to_pixels,
    mask_iou,
    resize_mask,
)
from backend.labelstudio.json_values import Results, number
from backend.labelstudio.keyframes import box_at
from backend.labelstudio.media_refs import media_uri, page_count
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import (
    DecodeMask,
    Point,
    Region,
    joined_labels,
    no_masks,
    rasterise,
    read_results,
)
from backend.labelstudio.tags import ImageTag, LabelConfig, VideoTag
from backend.labelstudio.video_regions import VideoRegion, read_video_regions
from backend.labelstudio.write_results import part_id
from backend.media.label_studio_media import local_files_path
from backend.media.resolver import MediaResolver
from backend.pixels.open_videos import read_index
from backend.runs.command_line import CommandError
from backend.tracking.sequence import MAX_PARTS, SAME_OBJECT, FrameSequence
from backend.tracking.store import TrackStore, track_name
from backend.tracking.video import read_timeline
from backend.tracking.video_commands import box_digest

SAME_PLACE = 0.7
"""IoU of a mask's box with the box shown, below which the annotator has moved the box away."""


class Kind(StrEnum):
    """What a task shows; the value is what an index counts there."""

    IMAGE = "image"
    SEQUENCE = "page"  # from 0
    VIDEO = "frame"  # of the file, from 0


class Origin(StrEnum):
    """Where a mask comes from."""

    REGION = "region"  # of the annotation
    TRACKED = "tracked"  # the service's, behind a box of a video
    BOX = "box"  # a box, filled: no mask is known


@dataclass(frozen=True)
class ObjectMask:
    """One object on one page.

    Attributes:
        track: number of the object in its task, from 1; the same on every page.
        object_id: how it is called in Label Studio or the store.
        label: several are joined by "+"; empty where it has none.
        mask: bool [H, W], not empty.
        score: the model's, 0 to 1; None where none is known.
    """

    track: int
    object_id: str
    label: str
    mask: Mask
    origin: Origin
    score: float | None = None


@dataclass(frozen=True)
class MaskPage:
    """The masks of one page, all of its size; ``index`` is 0 for a single image."""

    index: int
    width: int
    height: int
    masks: Sequence[ObjectMask]


@dataclass(frozen=True)
class Media:
    """What one Image or Video tag shows for a task.

    Attributes:
        names: the file name of every page or frame that the editor shows, with masks or not;
            ascending.
        times: of each in seconds; empty where there are none.
        pages: decodes those with masks, ascending, one at a time.
        addresses: of every page, as they stand in the task's data; of a video only one.
    """

    task: int
    tag: str
    kind: Kind
    names: Mapping[int, str]
    times: Mapping[int, float]
    pages: Callable[[], Iterator[MaskPage]]
    addresses: Sequence[str]

    @cached_property
    def places(self) -> Mapping[int, int]:
        """Of every page or frame that the editor shows: which one of them it is, from 0."""
        return {index: place for place, index in enumerate(self.names)}

    def place(self, index: int) -> dict[str, object]:
        """Where a page is, for the entry of a file: task, tag, page or frame, and time."""
        found: dict[str, object] = {"task": self.task, "tag": self.tag}
        if self.kind is not Kind.IMAGE:
            found[str(self.kind)] = index
        if self.times:
            found["time"] = round(self.times[index], 6)
        return found


@dataclass(frozen=True)
class MaskReader:
    """Reads the masks of tasks.

    Attributes:
        store: knows which regions the service sent, and the masks behind boxes of videos.
        family: of models whose tracks count; see ``ModelChoice``.
        masks: makes what decodes the masks of a page, see ``ImageDecoder.masks``.
    """

    store: TrackStore
    family: str
    masks: Callable[[], DecodeMask]

    def pictures(self, task: ProjectTask, results: Results) -> Iterator[Media]:
        """The images and sequences of a task that have masks.

        Raises:
            MissingMedia: the task's data lacks what an Image tag shows.
        """
        regions = read_results(results, task.config).regions
        scores = {str(item.get("id")): number(item.get("score")) for item in results}
        identifier = int(task.task["id"])
        for tag in task.config.images:
            drawn = [each for each in regions if _is_mask(each, tag, task.config)]
            if not drawn:
                continue
            count = page_count(task.data, tag) if tag.is_sequence else 1
            addresses = [media_uri(task.data, tag, page) for page in range(count)]
            drawn = [each for each in drawn if (each.item_index or 0) < count]
            owners = self._owners(task, tag, drawn)
            yield Media(
                task=identifier,
                tag=tag.name,
                kind=Kind.SEQUENCE if tag.is_sequence else Kind.IMAGE,
                names={page: media_name(uri, identifier) for page, uri in enumerate(addresses)},
                times={},
                pages=partial(_picture_pages, drawn, owners, scores, self.masks),
                addresses=addresses,
            )

    def videos(
        self, task: ProjectTask, results: Results, resolver: MediaResolver
    ) -> Iterator[Media]:
        """The videos of a task that have boxes.

        Raises:
            MissingMedia, MediaError, VideoError: the video cannot be had, or not be read.
        """
        regions = read_video_regions(results, task.config)
        for tag in task.config.videos:
            on_tag = [region for region in regions if region.to_name == tag.name]
            if on_tag:
                yield self._video(task, tag, on_tag, resolver)

    def _owners(
        self, task: ProjectTask, tag: ImageTag, regions: Sequence[Region]
    ) -> dict[tuple[str, int], str]:
        """By region id and page: the object, for those whose id says it."""
        owners = {  # an answer in several polygons is one object
            (part_id(region.id, part), region.item_index or 0): region.id
            for region in regions
            for part in range(1, MAX_PARTS)
        }
        if tag.is_sequence:
            whole = FrameSequence(task, tag, self.family, self.store, no_masks)
            for track in self._tracks(whole.base):
                each = replace(whole, given=track)
                owners |= {(r.id, r.item_index or 0): r.id for r in regions if r.id in each.known}
                owners |= {(name, s.page): s.object_id for name, s in each.sent_ids().items()}
        return owners

    def _video(
        self, task: ProjectTask, tag: VideoTag, regions: list[VideoRegion], resolver: MediaResolver
    ) -> Media:
        address, identifier = media_uri(task.data, tag), int(task.task["id"])
        with resolver.open(address, task_id=identifier) as file:
            index = read_index(file)
        size = index.width, index.height
        timeline = read_timeline(task.config, tag.name, task.data, regions, index)
        shown: dict[int, int] = {}  # the file's frame: the first editor frame that shows it
        for frame in range(1, timeline.frames_count + 1):
            shown.setdefault(timeline.file_frame(frame), frame)
        name = media_name(address, identifier)
        stem = name.rpartition(".")[0] or name
        base = track_name(task.project, identifier, tag.name, self.family, address)
        tracks = self._tracks(base)
        return Media(
            task=identifier,
            tag=tag.name,
            kind=Kind.VIDEO,
            names={index: f"{stem}/{frame_name(index)}" for index in shown},
            times={index: float(timeline.times[index]) for index in shown},
            pages=partial(self._video_pages, regions, shown, size, tracks),
            addresses=[address],
        )

    def known(self, task: ProjectTask) -> Iterator[object]:
        """What the store says of a task, as far as its export depends on it: nothing changes in it
        without changing this.

        Raises:
            MissingMedia: the task's data lacks what a tag shows.
        """
        for tag in task.config.images:
            if tag.is_sequence:
                whole = FrameSequence(task, tag, self.family, self.store, no_masks)
                for track in self._tracks(whole.base):
                    yield sorted(self.store.objects(track).items())
                    yield sorted(self.store.generations(track).items())
        for video in task.config.videos:
            address, number = media_uri(task.data, video), int(task.task["id"])
            base = track_name(task.project, number, video.name, self.family, address)
            for track in self._tracks(base):
                yield from self.store.sightings(track)

    def _tracks(self, base: str) -> list[str]:
        return [base, *self.store.owners(base)]

    def _video_pages(
        self,
        regions: Sequence[VideoRegion],
        shown: Mapping[int, int],
        size: tuple[int, int],
        tracks: Sequence[str],
    ) -> Iterator[MaskPage]:
        for index, frame in shown.items():
            masks = []
            for position, region in enumerate(regions, 1):
                box = box_at(region.keyframes, frame)
                if box is None:
                    continue
                mask, origin, score = self._box_mask(tracks, region.id, index, box, size)
                if mask.any():
                    name = region.id or f"region {position}"
                    labels = joined_labels(region.labels)
                    masks.append(ObjectMask(position, name, labels, mask, origin, score))
            if masks:
                yield MaskPage(index, *size, masks)

    def _box_mask(
        self, tracks: Sequence[str], name: str, index: int, box: Box, size: tuple[int, int]
    ) -> tuple[Mask, Origin, float | None]:
        """The stored mask on whichever track, where it was made from the box that the annotation
        shows, or fits it; else the box, filled."""
        width, height = size
        for track in tracks:
            found = self.store.mask(track, name, index)
            if found is None or (found.mask.width, found.mask.height) != size or not found.mask.box:
                continue
            asked = found.prompted and found.anchor == box_digest(box)
            if asked or box_iou(found.mask.box, box_to_pixels(box, width, height)) >= SAME_PLACE:
                return found.mask.unpack(), Origin.TRACKED, found.iou
        return rasterise(box, width, height, no_masks), Origin.BOX, None


def _is_mask(region: Region, tag: ImageTag, config: LabelConfig) -> bool:
    """Whether a region encloses an area that was meant as an answer.

    The boxes of a smart rectangle tool are prompts where the label config has another answer, and
    prompts that were not accepted stay in the annotation.
    """
    if region.image != tag.name or isinstance(region.geometry, Point):
        return False
    if not isinstance(region.geometry, Box):
        return True
    control = config.control(region.from_name)
    return control is None or control in config.answers_for(tag.name)


def _picture_pages(
    regions: Sequence[Region],
    owners: Mapping[tuple[str, int], str],
    scores: Mapping[str, float | None],
    masks: Callable[[], DecodeMask],
) -> Iterator[MaskPage]:
    by_page: dict[int, list[Region]] = defaultdict(list)
    for region in regions:
        by_page[region.item_index or 0].append(region)
    linker = _Linker(owners)
    numbers: dict[str, int] = {}
    for page in sorted(by_page):
        width, height = _size(by_page[page][0])
        decode = masks()
        drawn = [(region, _mask(region, width, height, decode)) for region in by_page[page]]
        merged: dict[str, ObjectMask] = {}
        for (region, mask), name in zip(drawn, linker.assign(page, drawn), strict=True):
            if name in merged:
                mask = mask | merged[name].mask
            if mask.any():
                origin = Origin.BOX if isinstance(region.geometry, Box) else Origin.REGION
                track = numbers.setdefault(name, len(numbers) + 1)
                labels, score = joined_labels(region.labels), scores.get(region.id)
                merged[name] = ObjectMask(track, name, labels, mask, origin, score)
        if merged:
            yield MaskPage(page, width, height, list(merged.values()))


def _size(region: Region) -> tuple[int, int]:
    if not region.original_width or not region.original_height:
        raise CommandError(f"region {region.id} does not say the size of its picture.")
    return region.original_width, region.original_height


def _mask(region: Region, width: int, height: int, decode: DecodeMask) -> Mask:
    try:
        own = rasterise(region.geometry, *_size(region), decode)
    except ValueError as error:
        raise CommandError(f"region {region.id} cannot be read: {error}.") from error
    return resize_mask(own, width, height)


class _Linker:
    """Says which regions of different pages are one object.

    Those the service sent are known by their id. For others it is the object of the same label
    whose last mask overlaps most, else the only object of that label; a page has each object once,
    but for the parts of one answer.
    """

    def __init__(self, owners: Mapping[tuple[str, int], str]) -> None:
        self._owners = owners
        self._seen: dict[str, tuple[Region, Mask]] = {}  # each object as it was last drawn

    def assign(self, page: int, drawn: Sequence[tuple[Region, Mask]]) -> list[str]:
        """The object of each region of a page; pages come in ascending order."""
        owners = [self._owners.get((region.id, page)) for region, _ in drawn]
        names = {position: owner for position, owner in enumerate(owners) if owner is not None}
        alike = {  # by position: the objects of the same label
            position: [name for name, (seen, _) in self._seen.items() if seen.labels == one.labels]
            for position, (one, _) in enumerate(drawn)
            if position not in names
        }
        pairs = [
            (mask_iou(drawn[position][1], self._seen[name][1]), position, name)
            for position, same in alike.items()
            for name in same
        ]
        for overlap, position, name in sorted(pairs, key=lambda pair: -pair[0]):
            if overlap >= SAME_OBJECT and position not in names and name not in names.values():
                names[position] = name
        on_page = Counter(region.labels for region, _ in drawn)
        for position, same in alike.items():
            if on_page[drawn[position][0].labels] == len(same) == 1:
                names.setdefault(position, same[0])
        for position, (region, _) in enumerate(drawn):
            names.setdefault(position, region.id or f"region {page}.{position + 1}")
            self._seen[names[position]] = drawn[position]
        return [names[position] for position in range(len(drawn))]


def frame_name(index: int) -> str:
    """The file name of a video's frame ``index`` (from 0)."""
    return f"frame_{index:06d}.jpg"


def media_name(address: str, task: int) -> str:
    """The file that an address in a task names, without host, bucket scheme and signature."""
    if address[:5].lower() == "data:":
        return f"task_{task}"
    scheme, separator, rest = address.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        return rest.lstrip("/")
    path = local_files_path(address) or urlsplit(address).path
    return path.lstrip("/") or f"task_{task}"


def safe_name(text: str) -> str:
    """``text`` as part of a file name."""
    return re.sub(r"[^\w.-]", "_", text) or "_"
