"""Which address a picture has: the Image tag's ``value`` looked up in the task's data."""

from __future__ import annotations

import re
from collections.abc import Mapping

from backend.expected import ExpectedError
from backend.labelstudio.json_values import look_up
from backend.labelstudio.tags import ImageTag

UNDEFINED_KEY = "$undefined$"
"""The key Label Studio gives data imported before there was a label config (core/settings/base.py,
DATA_UNDEFINED_NAME)."""

_VARIABLE = re.compile(r"\$[\w\[\].{}]+")  # parseValue in the editor's utils/data.js


class MissingMedia(ExpectedError):
    """The task has no address for a picture; the message is one line for the status box."""


def media_uri(task_data: Mapping[str, object], image: ImageTag, item_index: int | None) -> str:
    """The address of the picture (or page ``item_index``, from 0) of an Image tag, as written in
    the task: ``/data/upload/...``, ``s3://...``, ``https://...``.

    Without ``item_index`` a list gives its first page, as in the editor.

    Raises:
        MissingMedia: no such key in the data, no text there, or no such page.
    """
    tag = f"<Image name={image.name}>"
    if not isinstance(task_data, Mapping):
        raise MissingMedia(f"the task has no data for {tag}")
    source = image.source.strip()
    if not source:
        raise MissingMedia(f'{tag} has no value in the label config: add value="$image"')
    found = _resolve(source, task_data, tag)
    if isinstance(found, list | tuple):
        found = _page(found, item_index or 0, source, tag)
    elif image.is_sequence and item_index:
        raise MissingMedia(f"{tag}: {source} is one picture, there is no page {item_index + 1}")
    if not isinstance(found, str) or not found.strip():
        kind = "empty" if found in (None, "") or isinstance(found, str) else type(found).__name__
        raise MissingMedia(f"{tag}: {source} in the task's data is {kind}, not an address")
    return found.strip()


def page_count(task_data: Mapping[str, object], image: ImageTag) -> int:
    """How many pages an Image tag shows for a task; 1 for a single picture.

    Raises:
        MissingMedia: there is no such key in the data.
    """
    found = _resolve(image.source.strip(), task_data, f"<Image name={image.name}>")
    return len(found) if isinstance(found, list | tuple) else 1


def _resolve(source: str, data: Mapping[str, object], tag: str) -> object:
    whole = source.removeprefix("$")
    if source.startswith("$") and (whole in data or _VARIABLE.fullmatch(source)):
        return _required(whole, data, tag)

    def replaced(match: re.Match[str]) -> str:
        found = _required(match.group()[1:], data, tag)
        if not isinstance(found, str | int):
            raise MissingMedia(f"{tag}: {match.group()} in the task's data is not text")
        return str(found)

    return _VARIABLE.sub(replaced, source)


def _required(path: str, data: Mapping[str, object], tag: str) -> object:
    try:
        return look_up(data, path)
    except KeyError:
        if UNDEFINED_KEY in data:
            return data[UNDEFINED_KEY]
        names = ", ".join(sorted(str(key) for key in data)[:10]) or "nothing"
        raise MissingMedia(f"{tag} wants ${path}, the task's data has {names}") from None


def _page(pages: list[object] | tuple[object, ...], index: int, source: str, tag: str) -> object:
    if not 0 <= index < len(pages):
        raise MissingMedia(f"{tag}: {source} has {len(pages)} pages, there is no page {index + 1}")
    return pages[index]
