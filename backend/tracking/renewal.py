"""How a region replaces another one in the editor.

The editor updates a region in place where an answer has its id. But a region that it was opened
with keeps the result it was made from (``_rawResult``), and as long as the region's page has not
been shown, it is this result that is saved, whatever the region has become
(``deserializeSingleResult`` and ``createSerializedResult`` of Label Studio 1.23.2; the map of areas
reuses the object of an id). So a region that the editor may have been opened with is not updated:
the new mask gets a region of its own, with the id of the next generation, and the old region is
taken away.

An answer can take a region away by calling it ``dynamic``, which prompts are: accepting an answer
deletes all of those (``acceptAllSuggestions``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Results = list[dict[str, Any]]


class SentRegion(NamedTuple):
    """What a region id that the service gave stands for."""

    object_id: str
    page: int
    generation: int


def nth_id(identifier: str, generation: int) -> str:
    """The id of a region that has been replaced ``generation`` times."""
    return identifier if generation == 0 else f"{identifier}-{generation}"


def taken_away(items: Iterable[Mapping[str, Any]]) -> Results:
    """The items that take the regions of ``items`` away, where the editor has them."""
    return [{**item, "dynamic": True} for item in items]


def attributes(items: Iterable[Mapping[str, Any]], answer: Iterable[Mapping[str, Any]]) -> Results:
    """What a human added to the old region (texts and choices of its own), for the new one.

    Args:
        items: of the old region, as saved.
        answer: the new region.
    """
    answer = list(answer)
    if not answer:
        return []
    ours = {(item["from_name"], item["type"]) for item in answer}
    return [
        {**item, "id": answer[0]["id"]}
        for item in items
        if (item.get("from_name"), item.get("type")) not in ours
    ]
