"""From pages of a frame sequence back to the frames of its video."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.labelstudio.json_values import mappings
from backend.runs.command_line import CommandError

Json = Mapping[str, Any]


def convert_back(results: Path, tasks: Path, out: Path) -> int:
    """Write the results of an export with the video's frame numbers.

    Args:
        results: Label Studio's JSON export; or one task, or a list of results of one task.
        tasks: the ``tasks.json`` that ``frames`` wrote.
        out: a JSON file: a list of ``{"task", "annotation", "video", "results"}``, every result
            of a page as it was, with ``frame`` (from 0) and ``time`` (seconds) added.

    Returns:
        The number of results with a frame.

    Raises:
        CommandError: a file that cannot be read or is something else, a task that is not among
            ``tasks``, a page that it does not have.
    """
    made = [_checked(task, tasks) for task in _list(_read(tasks), tasks)]
    converted = []
    count = 0
    for entry in _entries(_read(results), results):
        meta = _meta_of(entry["frames"], made, tasks)
        found = [_placed(item, meta) for item in mappings(entry["results"])]
        count += sum("frame" in item for item in found)
        about = {key: entry[key] for key in ("task", "annotation")}
        converted.append({**about, "video": meta.get("video"), "results": found})
    try:
        out.write_text(json.dumps(converted, indent=1))
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}.") from error
    return count


def _entries(exported: object, path: Path) -> Iterator[dict[str, Any]]:
    """The annotations of an export; ``frames`` is None where it does not say the task."""
    items = list(mappings(_list(exported, path)))
    if items and all("value" in item for item in items):  # results without their task
        yield {"task": None, "annotation": None, "frames": None, "results": items}
        return
    for task in items:
        data = task.get("data")
        frames = data.get("frames") if isinstance(data, Mapping) else None
        for annotation in mappings(task.get("annotations")):
            if not annotation.get("was_cancelled"):
                yield {
                    "task": task.get("id"),
                    "annotation": annotation.get("id"),
                    "frames": frames,
                    "results": annotation.get("result"),
                }


def _meta_of(frames: object, made: Sequence[Json], path: Path) -> Json:
    """What ``tasks.json`` says of the task with these pages."""
    if frames is None and len(made) == 1:
        return made[0]["meta"]
    for task in made:
        if task["data"]["frames"] == frames:
            return task["meta"]
    raise CommandError(f"A task of the results has other pages than those in {path}.")


def _placed(item: Json, meta: Json) -> dict[str, Any]:
    """The result with its frame and time; results of no page stay as they are."""
    page = item.get("item_index")
    if page is None:
        return dict(item)
    indices, times = meta["frame_indices"], meta["times"]
    if type(page) is not int or not 0 <= page < len(indices):
        raise CommandError(
            f"A result is on page {page!r}: the task has pages 0 to {len(indices) - 1}."
        )
    return {**item, "frame": indices[page], "time": times[page]}


def _checked(task: object, path: Path) -> Json:
    try:
        pages = len(task["data"]["frames"])  # type: ignore[index]
        meta = task["meta"]  # type: ignore[index]
        if len(meta["frame_indices"]) == len(meta["times"]) == pages:
            return task  # type: ignore[return-value]
    except (TypeError, KeyError):
        pass
    raise CommandError(
        f"{path} is not a tasks.json of the frames command: it has no frame numbers."
    )


def _list(value: object, path: Path) -> list[Any]:
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list):
        return value
    raise CommandError(f"{path} holds neither a list nor an object.")


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}.") from error
