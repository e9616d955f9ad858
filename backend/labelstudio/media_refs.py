"""Which address a picture or video has: its tag's ``value`` looked up in the task's data."""

from __future__ import annotations

import re
from collections.abc import Mapping

from backend.expected import ExpectedError, counted
from backend.labelstudio.json_values import look_up
from backend.labelstudio.tags import ImageTag, MediaTag

UNDEFINED_KEY = "$undefined$"
"""The key Label Studio gives data imported before there was a label config (core/settings/base.py,
DATA_UNDEFINED_NAME)."""

_VARIABLE = re.compile(r"\$[\w\[\].{}]+")  # parseValue in the editor's utils/data.js


class MissingMedia(ExpectedError):
    """A task has no address for a picture or video; the message is a line for the status box."""


def media_uri(task_data: Mapping[str, object], tag: MediaTag, item_index: int | None = None) -> str:
    """The address of what a tag shows, as written in the task: ``/data/upload/...``, ``s3://...``,
    ``https://...``.

    Args:
        item_index: the page, from 0. Without it a list gives its first page, as in the editor.

    Raises:
        MissingMedia: no such key in the data, no text there, or no such page.
    """
    if not isinstance(task_data, Mapping):
        raise MissingMedia(f"the task has no data for {tag.tag}")
    source = tag.source.strip()
    if not source:
        raise MissingMedia(f"{tag.tag} has no value in the label config: add {tag.example}")
    found = _resolve(source, task_data, tag)
    page = item_index or 0
    if isinstance(found, list | tuple):
        if not 0 <= page < len(found):
            pages = f"{tag.tag}: {source} has {counted(len(found), 'page')}"
            raise MissingMedia(f"{pages}, there is no page {page + 1}")
        found = found[page]
    elif page and isinstance(tag, ImageTag) and tag.is_sequence:
        raise MissingMedia(f"{tag.tag}: {source} is one picture, there is no page {page + 1}")
    if not isinstance(found, str) or not found.strip():
        kind = "empty" if found is None or isinstance(found, str) else type(found).__name__
        raise MissingMedia(f"{tag.tag}: {source} in the task's data is {kind}, not an address")
    return found.strip()


def page_count(task_data: Mapping[str, object], image: ImageTag) -> int:
    """How many pages an Image tag shows for a task; 1 for a single picture.

    Raises:
        MissingMedia: there is no such key in the data.
    """
    found = _resolve(image.source.strip(), task_data, image)
    return len(found) if isinstance(found, list | tuple) else 1


def _resolve(source: str, data: Mapping[str, object], tag: MediaTag) -> object:
    whole = source.removeprefix("$")
    if source.startswith("$") and (whole in data or _VARIABLE.fullmatch(source)):
        return _required(whole, data, tag)

    def replaced(match: re.Match[str]) -> str:
        found = _required(match.group()[1:], data, tag)
        if not isinstance(found, str | int):
            raise MissingMedia(f"{tag.tag}: {match.group()} in the task's data is not text")
        return str(found)

    return _VARIABLE.sub(replaced, source)


def _required(path: str, data: Mapping[str, object], tag: MediaTag) -> object:
    try:
        return look_up(data, path)
    except KeyError:
        if UNDEFINED_KEY in data:
            return data[UNDEFINED_KEY]
        names = ", ".join(sorted(str(key) for key in data)[:10]) or "nothing"
        raise MissingMedia(f"{tag.tag} wants ${path}, but the task's data has {names}") from None
