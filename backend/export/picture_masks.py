"""The masks of images and frame sequences: the regions of their results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from backend.export.masks import (
    Kind,
    MaskPage,
    Media,
    ObjectMask,
    Origin,
    Tracks,
    media_name,
)
from backend.labelstudio.geometry import Box, Mask, resize_mask
from backend.labelstudio.json_values import number
from backend.labelstudio.media_refs import media_uri, page_count
from backend.labelstudio.read_results import Point, Region, joined_labels, rasterise, read_results
from backend.labelstudio.tags import ImageTag, LabelConfig
from backend.labelstudio.write_results import part_id
from backend.runs.command_line import CommandError
from backend.runs.projects import Project
from backend.tracking.sequence import MAX_PARTS, SAME_OBJECT, FrameSequence, iou
from backend.tracking.store import TrackStore


def picture_media(
    project: Project,
    task: Mapping[str, Any],
    results: Sequence[Mapping[str, object]],
    store: TrackStore,
    model_version: str,
) -> Iterator[Media]:
    """The images and sequences of a task that have masks.

    Raises:
        MissingMedia: the task's data lacks what an Image tag shows.
    """
    regions = read_results(results, project.config).regions
    scores = {str(item.get("id")): number(item.get("score")) for item in results}
    data, identifier = task.get("data") or {}, int(task["id"])
    for tag in project.config.images:
        drawn = [each for each in regions if _is_mask(each, tag, project.config)]
        if not drawn:
            continue
        count = page_count(data, tag) if tag.is_sequence else 1
        addresses = [media_uri(data, tag, page) for page in range(count)]
        drawn = [each for each in drawn if (each.item_index or 0) < count]
        owners = _owners(project, task, tag, drawn, store, model_version)
        yield Media(
            task=identifier,
            tag=tag.name,
            kind=Kind.SEQUENCE if tag.is_sequence else Kind.IMAGE,
            indices=range(count),
            names=[media_name(address, identifier) for address in addresses],
            times=(),
            pages=partial(_pages, drawn, owners, scores),
        )


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


def _owners(
    project: Project,
    task: Mapping[str, Any],
    tag: ImageTag,
    regions: Sequence[Region],
    store: TrackStore,
    model_version: str,
) -> dict[tuple[str, int], str]:
    """By region id and page: the object, for those whose id says it."""
    owners: dict[tuple[str, int], str] = {}
    for region in regions:  # an answer in several polygons is one object
        for part in range(1, MAX_PARTS):
            owners[part_id(region.id, part), region.item_index or 0] = region.id
    if not tag.is_sequence:
        return {key: whole for key, whole in owners.items() if key[0]}
    sequence = FrameSequence(
        project.uid, task, project.label_config, project.config, tag, model_version, store
    )
    known = set(store.objects(sequence.track))
    for region in regions:
        if region.id in known:
            for part in range(MAX_PARTS):
                owners[part_id(region.id, part), region.item_index or 0] = region.id
    return owners | {(name, s.page): s.object_id for name, s in sequence.sent_ids().items()}


def _pages(
    regions: Sequence[Region],
    owners: Mapping[tuple[str, int], str],
    scores: Mapping[str, float | None],
) -> Iterator[MaskPage]:
    by_page: dict[int, list[Region]] = defaultdict(list)
    for region in regions:
        by_page[region.item_index or 0].append(region)
    linker = _Linker(owners)
    tracks = Tracks()
    for page in sorted(by_page):
        width, height = _size(by_page[page][0])
        drawn = [(region, _mask(region, width, height)) for region in by_page[page]]
        merged: dict[str, ObjectMask] = {}
        for (region, mask), name in zip(drawn, linker.assign(page, drawn), strict=True):
            if name in merged:
                mask = mask | merged[name].mask
            if mask.any():
                origin = Origin.BOX if isinstance(region.geometry, Box) else Origin.REGION
                number, labels = tracks.number(name), joined_labels(region.labels)
                score = scores.get(region.id)
                merged[name] = ObjectMask(number, name, labels, mask, origin, score)
        if merged:
            yield MaskPage(page, width, height, list(merged.values()))


def _size(region: Region) -> tuple[int, int]:
    if not region.original_width or not region.original_height:
        raise CommandError(f"region {region.id} does not say the size of its picture.")
    return region.original_width, region.original_height


def _mask(region: Region, width: int, height: int) -> Mask:
    """The region's mask at the size of its page."""
    try:
        own = rasterise(region.geometry, *_size(region))
    except ValueError as error:
        raise CommandError(f"region {region.id} cannot be read: {error}.") from error
    return resize_mask(own, width, height)


@dataclass
class _Seen:
    """An object as it was last seen."""

    labels: tuple[str, ...]
    mask: Mask


class _Linker:
    """Says which regions of different pages are one object.

    Those the service sent are known by their id. For others it is the object of the same label
    whose last mask overlaps most, else the only object of that label; a page has each object once,
    but for the parts of one answer.
    """

    def __init__(self, owners: Mapping[tuple[str, int], str]) -> None:
        self._owners = owners
        self._seen: dict[str, _Seen] = {}

    def assign(self, page: int, drawn: Sequence[tuple[Region, Mask]]) -> list[str]:
        """The object of each region of a page; pages come in ascending order."""
        names: dict[int, str] = {}
        for position, (region, _) in enumerate(drawn):
            owner = self._owners.get((region.id, page))
            if owner is not None:
                names[position] = owner
        left = [position for position in range(len(drawn)) if position not in names]
        self._by_overlap(drawn, left, names)
        self._by_label(drawn, left, names)
        for position, (region, _) in enumerate(drawn):
            names.setdefault(position, region.id or f"region {page}.{position + 1}")
        for position, (region, mask) in enumerate(drawn):
            self._seen[names[position]] = _Seen(region.labels, mask)
        return [names[position] for position in range(len(drawn))]

    def _by_overlap(
        self, drawn: Sequence[tuple[Region, Mask]], left: list[int], names: dict[int, str]
    ) -> None:
        """The best pairs first, each object once."""
        pairs = [
            (iou(drawn[position][1], seen.mask), position, name)
            for position in left
            for name, seen in self._seen.items()
            if seen.labels == drawn[position][0].labels
        ]
        for overlap, position, name in sorted(pairs, key=lambda pair: -pair[0]):
            if overlap < SAME_OBJECT:
                return
            if position not in names and name not in names.values():
                names[position] = name

    def _by_label(
        self, drawn: Sequence[tuple[Region, Mask]], left: list[int], names: dict[int, str]
    ) -> None:
        """The only region of a label on the page is the only object of that label."""
        for position in left:
            labels = drawn[position][0].labels
            rivals = [region for region, _ in drawn if region.labels == labels]
            alike = [name for name, seen in self._seen.items() if seen.labels == labels]
            if position not in names and len(rivals) == 1 and len(alike) == 1:
                names[position] = alike[0]
