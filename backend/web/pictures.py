"""Pictures for pages: a frame of a track or the picture of a task, small, with its masks drawn, and
what a human marked there.

A route names a job and a frame, never an address. What others wrote is decoded in the sandbox, as
for the model; a picture is made when somebody looks, at one of a few sizes, and kept for a while.
Who looks takes nothing from who clicks: few pictures are made side by side, few may wait for that,
and each client has an allowance. Whoever is refused asks again a moment later (``site.js``).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import cv2
import numpy as np
from flask import Blueprint, Response, request

from backend.engine.packed_masks import PackedMask
from backend.expected import ExpectedError, counted
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.geometry import Box, box_corners
from backend.labelstudio.label_config import LabelConfigError
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, clicked_pixels, prompts_from_context
from backend.labelstudio.read_results import (
    Geometry,
    OnPicture,
    Point,
    Region,
    UnreadableMask,
    newest_results,
    rasterise,
    read_results,
)
from backend.pixels.jpegs import jpeg
from backend.pixels.recipes import Frame, ImageRecipe, Picture, Video
from backend.predict.events.sessions import read_prompt
from backend.recent_values import Recent
from backend.runs.projects import Project, read_project, read_task
from backend.settings import Settings
from backend.threads.caller import reply_by, serving
from backend.threads.fair_queue import Busy
from backend.tracking.store import Job, TrackedMask
from backend.tracking.tracking import Tracking
from backend.tracking.video import video_tag
from backend.web.guard import refuse
from backend.web.site import SHARED_SECONDS, site_blueprint

WIDTHS = (160, 320, 480, 640, 960, 1280, 1920)
"""The sizes that pictures are made at; what is asked for is rounded up to one of them."""
COLOURS = (
    *("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008b8b"),
    *("#f032e6", "#9a6324", "#808000", "#000075", "#469990", "#b8860b"),
)
"""Of the objects of a picture, in their order; the pages draw them alike."""
MOST_OBJECTS = 100  # whose masks are drawn
BY_A_HUMAN = "by a human"  # stands beside what is
_LETTERS = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_SECONDS = 10.0  # for one picture, waiting included
_SIDE_BY_SIDE = 2
_SHARE_OF_THREADS = 4  # one in so many may make pictures, or wait to
_OF_A_CLIENT = 6  # at the same time: as many as a browser asks for
_MOST = 2**31 - 1  # numbers of Label Studio
_KEPT_BYTES = 64 << 20
_KEPT_SECONDS = 600.0
_QUALITY = 82
_SHARED = 100
_FRESH_SECONDS = 60.0  # for which a task is as Label Studio had it

Load = Callable[[float], tuple[ImageRecipe, Sequence["Layer"]]]
"""Finds out, by a deadline, which picture it is and what is drawn over it."""


class NoSuchFrame(ExpectedError):
    """There is no such job, or it has no such frame."""


@dataclass(frozen=True)
class Layer:
    """What is drawn of an object.

    Attributes:
        mask: None where there is none.
        colour: position of the object's colour.
        mark: what a human marked it with; of clicks and boxes ``mask`` is the answer, if it is
            there, of a drawn shape that shape.
    """

    mask: PackedMask | None
    colour: int
    mark: ObjectPrompt | None = None


class Allowance:
    """How many pictures each client may have made: a few at the same time, and so many a second on
    the average.

    Args:
        threads: of the server.
    """

    def __init__(
        self,
        threads: int,
        *,
        a_second: float = 30.0,
        at_once: float = 120.0,
        clients: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = max(2, threads // _SHARE_OF_THREADS)
        self._rate, self._burst, self._clock = a_second, at_once, clock
        self._lock = threading.Lock()
        self._inside: Counter[str] = Counter()
        self._left: Recent[tuple[float, float]] = Recent(
            entries=clients, seconds=at_once / a_second, clock=clock
        )

    @contextmanager
    def take(self, client: str) -> Iterator[None]:
        """Have one picture made inside the block.

        Raises:
            Busy: the client, or all of them, ask for too many.
        """
        with self._lock:
            if self._inside.total() >= self._places or self._inside[client] >= _OF_A_CLIENT:
                raise Busy("too many pictures are being made; ask again in a moment")
            now = self._clock()
            left, at = self._left.get(client) or (self._burst, now)
            left = min(self._burst, left + (now - at) * self._rate)
            if left < 1:
                raise Busy("you look at too many pictures; ask again in a moment")
            self._left.put(client, (left - 1, now))
            self._inside[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside[client] -= 1
                if not self._inside[client]:
                    del self._inside[client]


class Pictures:
    """Makes pictures, and keeps the last ones.

    Args:
        threads: of the server.
        label_studio: where tasks are looked up that no job is about; None without one.
    """

    def __init__(
        self,
        tracking: Tracking,
        threads: int,
        label_studio: Callable[[], LabelStudioClient | None] = lambda: None,
    ) -> None:
        self._label_studio = label_studio
        self._projects: Recent[Project] = Recent(entries=50, seconds=_FRESH_SECONDS)
        self._tracking = tracking
        self._pixels = tracking.pixels
        self._allowance = Allowance(threads)
        self._making: set[str] = set()  # by tag
        self._changed = threading.Condition()
        self._requests: Recent[Mapping[str, Any]] = Recent(entries=10, seconds=_KEPT_SECONDS)
        self._kept: Recent[bytes] = Recent(entries=_KEPT_BYTES, seconds=_KEPT_SECONDS)
        # What was found in the store, by what was asked.
        self._found: Recent[tuple[str, str, Load]] = Recent(entries=_SHARED, seconds=SHARED_SECONDS)

    def of_job(
        self, job_id: str, frame: int, width: int, objects: Sequence[int] | None
    ) -> Response:
        """A frame that a job tracks through, with masks, and with what a human marked there.

        Args:
            objects: positions of those whose masks are drawn, in the job's own order; None for
                all.

        Raises:
            NoSuchFrame: there is no such frame, or no such job.
            ExpectedError: why it cannot be had.
        """
        width = _rounded_up(width)
        key = job_id, frame, width, None if objects is None else tuple(objects)
        found = self._found.get(key)
        if found is None:
            found = self._look_up(job_id, frame, width, objects)
            self._found.put(key, found)
        project, tag, load = found
        with serving(project=project):
            return self._reply(tag, load, width, "no-cache")

    def _look_up(
        self, job_id: str, frame: int, width: int, objects: Sequence[int] | None
    ) -> tuple[str, str, Load]:
        """The project of a job, the tag of a picture of it, and what makes that; see ``of_job``."""
        job = self._tracking.store.job(job_id)
        if job is None:
            raise NoSuchFrame(f"there is no job {job_id}")
        asked = self._asked(job)
        described = asked.get("objects", ())
        chosen = range(len(described)) if objects is None else objects
        drawn = {at: described[at] for at in list(chosen)[:MOST_OBJECTS] if at < len(described)}
        names = [str(each["id"]) for each in drawn.values()]
        found = {e.object_id: e for e in self._tracking.store.masks_on(job.track, frame, names)}
        marked = {
            at: each["prompts"][str(frame)]
            for at, each in drawn.items()
            if str(frame) in each.get("prompts", ())
        }
        said = hashlib.sha256(f"{job.track} {frame} {width}".encode())
        if marked:  # a job's request stays as it is
            said.update(f"{job.id} {sorted(marked)} ".encode())
        for at, name in zip(drawn, names, strict=True):
            if name in found and found[name].area:
                said.update(b"%d " % at + found[name].mask.runs)

        def load(deadline: float) -> tuple[ImageRecipe, list[Layer]]:
            masks = {at: found.get(name) for at, name in zip(drawn, names, strict=True)}
            layers = self._layers_of_job(asked, masks, marked, width, deadline)
            return self._frame(asked, frame, deadline), layers

        return job.project, said.hexdigest()[:32], load

    def of_task(self, project: int, number: int, width: int) -> Response:
        """The picture of a task, or its first page or frame, with the masks of its newest
        prediction as Label Studio has it; what a browser has stays there for a minute.

        Raises:
            NoSuchFrame: there is no such task.
            ExpectedError: why it cannot be had.
        """
        width = _rounded_up(width)
        name = f"task {project} {number} {width} {int(time.time() // _FRESH_SECONDS)}"
        tag = hashlib.sha256(name.encode()).hexdigest()[:32]
        with serving(project=str(project)):
            load = partial(self._of_label_studio, project, number, width)
            return self._reply(tag, load, width, f"max-age={_FRESH_SECONDS:.0f}")

    def _reply(self, tag: str, load: Load, width: int, kept: str) -> Response:
        response = Response(mimetype="image/jpeg")
        response.headers["Cache-Control"] = f"private, {kept}"
        response.set_etag(tag)
        if tag not in request.if_none_match:
            response.data = self._kept.get(tag) or self._make(tag, load, width)
        response.make_conditional(request)
        return response

    def _make(self, tag: str, load: Load, width: int) -> bytes:
        deadline = reply_by(_SECONDS)
        with self._allowance.take(str(request.remote_addr)), self._alone_with(tag, deadline):
            made = self._kept.get(tag)  # by another, meanwhile
            if made is None:
                recipe, layers = load(deadline)
                made = draw(self._pixels.find(recipe, deadline).load(), layers, width)
                self._kept.put(tag, made, entries=len(made))
        return made

    @contextmanager
    def _alone_with(self, tag: str, deadline: float) -> Iterator[None]:
        """One of the few places to make pictures at, where nobody makes the same one.

        Raises:
            Busy: there was none in time.
        """
        with self._changed:
            may_begin = self._changed.wait_for(
                lambda: tag not in self._making and len(self._making) < _SIDE_BY_SIDE,
                max(0.0, deadline - time.monotonic()),
            )
            if not may_begin:
                raise Busy("other pictures are being made; ask again in a moment")
            self._making.add(tag)
        try:
            yield
        finally:
            with self._changed:
                self._making.remove(tag)
                self._changed.notify_all()

    def _of_label_studio(
        self, number: int, task_number: int, width: int, deadline: float
    ) -> tuple[ImageRecipe, list[Layer]]:
        client = self._label_studio()
        if client is None:
            raise NoSuchFrame("no Label Studio is configured: set LABEL_STUDIO_URL")
        project = self._projects.get(number)
        if project is None:
            project = read_project(client, number)
            self._projects.put(number, project)
        found = read_task(client, task_number)
        if found.get("project") != number:
            raise NoSuchFrame(f"there is no task {task_number} in project {number}")
        task = project.with_task(found)
        if not task.config.images:
            if not task.config.videos:
                raise NoSuchFrame("the label config shows neither pictures nor videos")
            video = Video.of(task, task.config.videos[0])
            return Frame(video, self._pixels.videos.index(video, deadline).content_key, 0), []
        tag = task.config.images[0]
        results = newest_results(found, "predictions", "annotations")
        regions = [
            each
            for each in read_results(results, task.config).regions
            if each.image == tag.name and not each.item_index and each.positive is None
        ]
        return Picture.of(task, tag, 0), self._layers(regions[:MOST_OBJECTS], width, deadline)

    def _layers(self, regions: Sequence[Region], width: int, deadline: float) -> list[Layer]:
        """What regions cover; one that cannot be read is left out."""
        found = [
            Layer(self._cover(each, each.geometry, width, deadline), at)
            for at, each in enumerate(regions)
            if not isinstance(each.geometry, Point)
        ]
        return [layer for layer in found if layer.mask is not None]

    def _layers_of_job(
        self,
        asked: Mapping[str, Any],
        masks: Mapping[int, TrackedMask | None],
        marked: Mapping[int, Any],
        width: int,
        deadline: float,
    ) -> list[Layer]:
        """The objects of a job on a frame.

        Args:
            masks: by position of the object, what is stored; of a marked frame it is shown where it
                answers clicks or a box, as in Label Studio.
            marked: by position of the object, its prompts on this frame as the job has them.
        """
        layers = []
        for at, found in masks.items():
            mark = self._mark(asked, marked[at]) if at in marked else None
            mask = found.mask if found is not None and found.area else None
            if mark is not None and mark.shape is not None:
                mask = self._cover(mark, mark.shape, width, deadline)
            elif mark is not None and found is not None and not found.prompted:
                mask = None  # of an earlier job
            if mask is not None or mark is not None:
                layers.append(Layer(mask, at, mark))
        return layers

    def _mark(self, asked: Mapping[str, Any], said: Any) -> ObjectPrompt | None:
        """A prompt in a job's request, in whichever of the forms that jobs have; None where it says
        nothing."""
        if isinstance(said, Mapping):  # of an interactive session
            return read_prompt(said)
        if said and not isinstance(said[0], Mapping):  # of a <Video>
            return ObjectPrompt(image="", box=Box(*said))
        config = self._tracking.parse(asked["label_config"])
        return next(iter(prompts_from_context({"result": said}, config).objects), None)

    def _cover(
        self, drawn: OnPicture, geometry: Geometry, width: int, deadline: float
    ) -> PackedMask | None:
        """What a shape covers, no larger than it is shown; None where it cannot be read."""
        across, down = drawn.original_width or 0, drawn.original_height or 0
        if across <= 0 or down <= 0:
            return None
        height = max(1, min(4 * width, round(width * down / across)))
        decode = self._pixels.masks(max(0.0, deadline - time.monotonic()))
        with suppress(UnreadableMask, ValueError):
            return PackedMask.pack(rasterise(geometry, width, height, decode))
        return None

    def _asked(self, job: Job) -> Mapping[str, Any]:
        """The request of a job, which never changes; it may take a while to read."""
        asked = self._requests.get(job.id)
        if asked is None:
            asked = dict(job.request)
            self._requests.put(job.id, asked)
        return asked

    def _frame(self, asked: Mapping[str, Any], frame: int, deadline: float) -> ImageRecipe:
        try:
            config = self._tracking.parse(asked["label_config"])
        except LabelConfigError as error:
            raise NoSuchFrame(str(error)) from error
        task = ProjectTask(asked["project"], asked["task"], asked["label_config"], config)
        if "video" not in asked:
            tag = config.image(asked["image"])
            if tag is None:
                raise MissingMedia(f"the label config has no <Image name={asked['image']}>")
            return Picture.of(task, tag, frame)
        video = Video.of(task, video_tag(config, asked["video"]))
        index = self._pixels.videos.index(video, deadline)
        if frame >= len(index.table.times):
            raise NoSuchFrame(f"the video has {counted(len(index.table.times), 'frame')}")
        return Frame(video, index.content_key, frame)


def _rounded_up(width: int) -> int:
    return next((size for size in WIDTHS if size >= width), WIDTHS[-1])


def draw(pixels: np.ndarray, layers: Sequence[Layer], width: int) -> bytes:
    """A picture of at most ``width`` pixels with masks over it, as JPEG.

    Args:
        pixels: uint8 RGB ``[H, W, 3]``.
    """
    height_before, width_before = pixels.shape[:2]
    width = min(width, width_before)
    height = max(1, round(height_before * width / width_before))
    shown = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    for layer in layers:
        _lay_over(shown, layer)
    for layer in layers:  # over all masks
        if layer.mark is not None:
            _draw_mark(shown, layer, layer.mark)
    return jpeg(shown, _QUALITY)


def _lay_over(shown: np.ndarray, layer: Layer) -> None:
    """Tint what a mask covers, with a line around it."""
    if layer.mask is None:
        return
    height, width = shown.shape[:2]
    whole = layer.mask.unpack().astype(np.uint8)
    small = cv2.resize(whole * 255, (width, height), interpolation=cv2.INTER_AREA)
    inside = small > 127
    colour = _colour(layer)
    shown[inside] = (shown[inside] * 0.55 + np.array(colour) * 0.45).astype(np.uint8)
    lines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    if layer.mark is not None and layer.mark.shape is not None:
        cv2.drawContours(shown, lines, -1, _WHITE, 3 * _line(width), cv2.LINE_AA)
    cv2.drawContours(shown, lines, -1, colour, _line(width), cv2.LINE_AA)


def _draw_mark(shown: np.ndarray, layer: Layer, mark: ObjectPrompt) -> None:
    """Draw a box and clicks with a white edge, and say that they, or the drawn shape, are a
    human's."""
    height, width = shown.shape[:2]
    colour, line, reach = _colour(layer), _line(width), max(3, width // 90)
    corners = [] if mark.box is None else [box_corners(mark.box, width, height).round().astype(int)]
    for thick, each in ((3 * line, _WHITE), (line, colour)):
        cv2.polylines(shown, corners, True, each, thick, cv2.LINE_AA)
    clicked = clicked_pixels(mark.points, height, width) if mark.points else np.zeros((0, 2), int)
    for (x, y), point in zip(clicked.tolist(), mark.points, strict=True):
        cv2.circle(shown, (x, y), reach + line, _WHITE, -1, cv2.LINE_AA)
        cv2.circle(shown, (x, y), reach, colour if point.positive else _BLACK, -1, cv2.LINE_AA)
        cv2.line(shown, (x - reach // 2, y), (x + reach // 2, y), _WHITE, line, cv2.LINE_AA)
        if point.positive:
            cv2.line(shown, (x, y - reach // 2), (x, y + reach // 2), _WHITE, line, cv2.LINE_AA)
    covered = np.zeros((0, 2), int)
    if layer.mask is not None and layer.mask.box is not None:
        scale = np.array([width, height]) / (layer.mask.width, layer.mask.height)
        covered = (np.array([layer.mask.box[:2]]) * scale).astype(int)
    places = np.concatenate([*corners, clicked, covered])
    if len(places):
        _write(shown, BY_A_HUMAN, places.min(axis=0), colour)


def _write(shown: np.ndarray, text: str, corner: np.ndarray, colour: tuple[int, ...]) -> None:
    """Write white on a colour, above a place or as near as it finds room."""
    height, width = shown.shape[:2]
    size = float(np.clip(width / 1300, 0.3, 0.8))
    (across, up), below = cv2.getTextSize(text, _LETTERS, size, 1)
    rim = 2
    left = int(np.clip(corner[0], 0, max(0, width - across - 2 * rim)))
    base = int(np.clip(corner[1] - below - rim, up + rim, max(up + rim, height - below - rim)))
    end = left + across + 2 * rim, base + below + rim
    cv2.rectangle(shown, (left, base - up - rim), end, colour, -1)
    cv2.putText(shown, text, (left + rim, base), _LETTERS, size, _WHITE, 1, cv2.LINE_AA)


def _colour(layer: Layer) -> tuple[int, ...]:
    """Red, green, blue."""
    text = COLOURS[layer.colour % len(COLOURS)]
    return tuple(int(text[at : at + 2], 16) for at in (1, 3, 5))


def _line(width: int) -> int:
    """How thick lines are on a picture of that width, pixels."""
    return max(1, width // 320)


def wanted_width() -> int:
    """The ``width`` of the request's query: pixels."""
    text = request.args.get("width", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 320


def picture_error(error: ExpectedError) -> Response:
    """Why a picture is not there, for who asked for it."""
    if isinstance(error, NoSuchFrame):
        return refuse(HTTPStatus.NOT_FOUND, str(error))
    busy = isinstance(error, Busy)
    response = refuse(HTTPStatus.TOO_MANY_REQUESTS if busy else HTTPStatus.NOT_FOUND, str(error))
    if busy:
        response.headers["Retry-After"] = "1"
    return response


def pictures_blueprint(pictures: Pictures, settings: Settings) -> Blueprint:
    """The routes of pictures."""
    blueprint = site_blueprint("pictures", settings)
    blueprint.register_error_handler(ExpectedError, picture_error)

    @blueprint.get("/jobs/<job_id>/pictures/<int(max=999999999):frame>")
    def of_job(job_id: str, frame: int) -> Response:
        named = request.args.get("objects")
        objects = None
        if named is not None:
            parts = named.split(",")[:MOST_OBJECTS]
            objects = [int(each) for each in parts if each.isascii() and each.isdigit()]
        return pictures.of_job(job_id, frame, wanted_width(), objects)

    @blueprint.get(f"/projects/<int(max={_MOST}):project>/tasks/<int(max={_MOST}):task>/picture")
    def of_task(project: int, task: int) -> Response:
        return pictures.of_task(project, task, wanted_width())

    return blueprint
