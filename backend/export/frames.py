"""``python -m backend frames``: a video as a frame sequence, and its results as frame numbers."""

from __future__ import annotations

import argparse
import bisect
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from backend.expected import counted
from backend.export.folders import Folder, LocalFolder, open_folder, writing
from backend.export.masks import frame_name
from backend.export.medium_pictures import JPEG_QUALITY
from backend.labelstudio.json_values import mappings
from backend.media.errors import shown
from backend.pixels.jpegs import jpeg, within
from backend.pixels.sandbox.video_decoding import open_video
from backend.pixels.videos import VideoFrames
from backend.runs.command_line import CommandError, positive_number, say
from backend.wiring import Wiring

TASKS = "tasks.json"
SOURCE = "source.json"  # which video the folder's frames are of
PROGRESS_SECONDS = 5.0

Json = Mapping[str, Any]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "frames",
        help="turn a video into a frame-sequence task, or its results into frame numbers",
        description="Writes JPEG frames and a tasks.json to import into Label Studio. Started "
        "again, it writes only what is missing.",
    )
    parser.add_argument("--video", help="file, s3://bucket/key or http(s) address")
    parser.add_argument("--every", type=positive_number, default=1, help="take every Nth frame (1)")
    parser.add_argument("--start", type=float, help="seconds into the video; from there on")
    parser.add_argument("--stop", type=float, help="seconds into the video; up to there")
    parser.add_argument(
        "--size", type=positive_number, help="longest side in pixels; never enlarged"
    )
    parser.add_argument(
        "--out", required=True, help="folder or s3://bucket/prefix/; with --back a file"
    )
    parser.add_argument("--address", help="what comes before the frames' names in tasks.json")
    parser.add_argument("--back", type=Path, metavar="RESULTS", help="exported JSON to convert")
    parser.add_argument("--tasks", type=Path, help="with --back: the tasks.json of the frames")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, wiring: Wiring) -> int:
    """Carry the command out; returns the exit code."""
    if arguments.back is not None:
        if arguments.tasks is None:
            raise CommandError(
                "--back needs --tasks: the tasks.json that the frames were made with."
            )
        count = convert_back(arguments.back, arguments.tasks, Path(arguments.out))
        say(f"{counted(count, 'result')} with frame numbers in {arguments.out}")
        return 0
    if arguments.video is None:
        raise CommandError("Say what to do: --video FILE, or --back RESULTS.")
    folder = open_folder(arguments.out, wiring, arguments.address)
    with _opened(arguments.video, wiring) as frames:
        if frames.notice:
            say(frames.notice)
        chosen = choose_frames(frames.times, arguments.every, arguments.start, arguments.stop)
        _claim(folder, arguments.video, frames, arguments.size)
        written = _write_frames(folder, frames, chosen, arguments.size)
        task = _task(folder, arguments.video, frames, chosen, arguments.size)
    folder.write(TASKS, json.dumps([task], indent=1).encode())
    place = arguments.out.rstrip("/")
    say(f"{counted(len(chosen), 'frame')}, {written} of them new; import {place}/{TASKS}")
    if isinstance(folder, LocalFolder) and arguments.address is None:
        say(f"Label Studio finds them with LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={folder.root}")
    return 0


def choose_frames(
    times: Sequence[float] | np.ndarray, every: int, start: float | None, stop: float | None
) -> list[int]:
    """Numbers of the frames shown from ``start`` to ``stop`` (seconds, stop included), every Nth
    of the video: those whose number is a multiple of ``every``, whatever the range.

    Raises:
        CommandError: there are none.
    """
    first = 0 if start is None else bisect.bisect_left(times, start)
    last = len(times) if stop is None else bisect.bisect_right(times, stop)
    chosen = list(range(-(-first // every) * every, last, every))
    if not chosen:
        begin = "the start" if start is None else f"{start:g} s"
        end = "the end" if stop is None else f"{stop:g} s"
        raise CommandError(
            f"There is no frame to take from {begin} to {end} with every {every}: the video has "
            f"{counted(len(times), 'frame')}, from {times[0]:.3f} to {times[-1]:.3f} s."
        )
    return chosen


@contextmanager
def _opened(video: str, wiring: Wiring) -> Iterator[VideoFrames]:
    """The frames of a file, or of an address read through the media cache."""
    with ExitStack() as opened:
        file: BinaryIO
        if "://" in video:
            resolver = opened.enter_context(closing(wiring.media(None)))
            file = opened.enter_context(resolver.open(video))
        elif Path(video).is_file():
            file = opened.enter_context(Path(video).open("rb"))
        else:
            raise CommandError(f"There is no file {video}.")
        yield opened.enter_context(open_video(file))


def _claim(folder: Folder, video: str, frames: VideoFrames, size: int | None) -> None:
    """Note whose frames the folder holds, so that those of two videos never mix.

    Raises:
        CommandError: it holds those of another video, or at another size.
    """
    table = frames.table
    claim = {
        "video": _public(video),
        "frames": len(table),
        "first_pts": int(table.pts[0]),
        "last_pts": int(table.pts[-1]),
        "time_base": str(table.time_base),
        "size": size,
    }
    known = folder.read(SOURCE)
    if known is None:
        folder.write(SOURCE, json.dumps(claim).encode())
    elif known != json.dumps(claim).encode():
        raise CommandError(
            f"The folder holds frames of another video or size ({SOURCE} there says which): "
            "choose another folder, or delete it."
        )


def _write_frames(
    folder: Folder, frames: VideoFrames, chosen: Sequence[int], size: int | None
) -> int:
    """Write the frames that are not there yet; returns how many."""
    present = folder.names()
    missing = [index for index in chosen if frame_name(index) not in present]
    said_at = time.monotonic()
    for done, index in enumerate(missing):
        if time.monotonic() - said_at > PROGRESS_SECONDS:
            said_at = time.monotonic()
            say(f"{len(chosen) - len(missing) + done} of {counted(len(chosen), 'frame')}")
        picture = frames[index]
        if size is not None:
            picture = within(picture, size)
        folder.write(frame_name(index), jpeg(picture, JPEG_QUALITY))
    return len(missing)


def _task(
    folder: Folder, video: str, frames: VideoFrames, chosen: Sequence[int], size: int | None
) -> dict[str, Any]:
    """The task to import. Its ``meta`` stays with it in Label Studio and in exports."""
    times = frames.times
    seconds = float(times[-1] - times[0])
    return {
        "data": {"frames": [folder.address(frame_name(index)) for index in chosen]},
        "meta": {
            "video": _public(video),
            "fps": round((len(times) - 1) / seconds, 6) if seconds > 0 else None,
            "frames_count": len(times),
            "width": frames.width,
            "height": frames.height,
            "size": size,
            "frame_indices": list(chosen),
            "times": [round(float(times[index]), 6) for index in chosen],
        },
    }


def _public(video: str) -> str:
    """The video's name for files that others read: without the query, which may be a signature."""
    return shown(video) if video.startswith(("http://", "https://")) else video


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
    made = [_checked(task, tasks) for task in _read_list(tasks)]
    converted = []
    for about, frames, items in _annotations(_read_list(results)):
        meta = _meta_of(frames, made, tasks)
        found = [_placed(item, meta) for item in mappings(items)]
        converted.append({**about, "video": meta.get("video"), "results": found})
    with writing(out):
        out.write_text(json.dumps(converted, indent=1))
    return sum("frame" in item for entry in converted for item in entry["results"])


def _annotations(exported: list[Any]) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """The annotations of an export: of which task, its pages, the results. Task and pages are None
    where it does not say them."""
    items = list(mappings(exported))
    if items and all("value" in item for item in items):  # results without their task
        yield {"task": None, "annotation": None}, None, items
        return
    for task in items:
        data = task.get("data")
        frames = data.get("frames") if isinstance(data, Mapping) else None
        for annotation in mappings(task.get("annotations")):
            if not annotation.get("was_cancelled"):
                about = {"task": task.get("id"), "annotation": annotation.get("id")}
                yield about, frames, annotation.get("result")


def _meta_of(frames: object, made: Sequence[Json], path: Path) -> Json:
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


def _checked(task: Any, path: Path) -> Json:
    try:
        meta = task["meta"]
        if len(meta["frame_indices"]) == len(meta["times"]) == len(task["data"]["frames"]):
            return task
    except (TypeError, KeyError):
        pass
    raise CommandError(
        f"{path} is not a tasks.json of the frames command: it has no frame numbers."
    )


def _read_list(path: Path) -> list[Any]:
    """The list in a JSON file; an object is a list of one."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, list | dict):
        raise CommandError(f"{path} holds neither a list nor an object.")
    return found if isinstance(found, list) else [found]
