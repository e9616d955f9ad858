"""Pictures for pages: a frame of a track or the picture of a task, small, with its masks drawn.

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
from backend.expected import ExpectedError
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.label_config import LabelConfigError
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import (
    Point,
    Region,
    UnreadableMask,
    newest_results,
    rasterise,
    read_results,
)
from backend.pixels.jpegs import jpeg
from backend.pixels.recipes import Frame, ImageRecipe, Picture, Video
from backend.recent_values import Recent
from backend.runs.projects import Project, read_project, read_task
from backend.settings import Settings
from backend.threads.caller import reply_by, serving
from backend.threads.fair_queue import Busy
from backend.tracking.store import Job
from backend.tracking.tracking import Tracking
from backend.tracking.video import video_tag
from backend.web.guard import refuse
from backend.web.site import site_blueprint

WIDTHS = (160, 320, 480, 640, 960, 1280, 1920)
"""The sizes that pictures are made at; what is asked for is rounded up to one of them."""
COLOURS = (
    *("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008b8b"),
    *("#f032e6", "#9a6324", "#808000", "#000075", "#469990", "#b8860b"),
)
"""Of the objects of a picture, in their order; the pages draw them alike."""
MOST_OBJECTS = 100  # whose masks are drawn
_SECONDS = 10.0  # for one picture, waiting included
_SIDE_BY_SIDE = 2
_SHARE_OF_THREADS = 4  # one in so many may make pictures, or wait to
_OF_A_CLIENT = 6  # at the same time: as many as a browser asks for
_MOST = 2**31 - 1  # numbers of Label Studio
_KEPT_BYTES = 64 << 20
_KEPT_SECONDS = 600.0
_QUALITY = 82
_FRESH_SECONDS = 60.0  # for which a task is as Label Studio had it

Load = Callable[[float], tuple[ImageRecipe, Sequence["Layer"]]]
"""Finds out, by a deadline, which picture it is and what is drawn over it."""


class NoSuchFrame(ExpectedError):
    """There is no such job, or it has no such frame."""


@dataclass(frozen=True)
class Layer:
    """A mask to draw, and the position of its object's colour."""

    mask: PackedMask
    colour: int


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
        self._making = threading.BoundedSemaphore(_SIDE_BY_SIDE)
        self._requests: Recent[Mapping[str, Any]] = Recent(entries=10, seconds=_KEPT_SECONDS)
        self._kept: Recent[bytes] = Recent(entries=_KEPT_BYTES, seconds=_KEPT_SECONDS)

    def of_job(
        self, job_id: str, frame: int, width: int, objects: Sequence[int] | None
    ) -> Response:
        """A frame that a job tracks through, with masks.

        Args:
            objects: positions of those whose masks are drawn, in the job's own order; None for
                all.

        Raises:
            NoSuchFrame: there is no such frame, or no such job.
            ExpectedError: why it cannot be had.
        """
        job = self._tracking.store.job(job_id)
        if job is None:
            raise NoSuchFrame(f"there is no job {job_id}")
        asked = self._asked(job)
        names = [str(each["id"]) for each in asked.get("objects", ())]
        chosen = range(len(names)) if objects is None else objects
        colours = {names[at]: at for at in chosen if at < len(names)}
        found = self._tracking.store.masks_on(job.track, frame, list(colours)[:MOST_OBJECTS])
        layers = [Layer(each.mask, colours[each.object_id]) for each in found if each.area]
        with serving(project=job.project):
            recipe = partial(self._frame, asked, frame)
            return self.answer(f"{job.track} {frame}", recipe, layers, width)

    def answer(
        self,
        name: str,
        recipe: Callable[[float], ImageRecipe],
        layers: Sequence[Layer],
        width: int,
    ) -> Response:
        """What ``recipe`` leads to, by a deadline, with masks drawn; 304 where the browser has it.

        Args:
            name: of the picture among all others.
        """
        width = _rounded_up(width)
        said = hashlib.sha256(f"{name} {width}".encode())
        for layer in layers:
            said.update(b"%d " % layer.colour + layer.mask.runs)
        return self._reply(
            said.hexdigest()[:32], lambda deadline: (recipe(deadline), layers), width, "no-cache"
        )

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
        with self._allowance.take(str(request.remote_addr)):
            if not self._making.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise Busy("other pictures are being made; ask again in a moment")
            try:
                recipe, layers = load(deadline)
                made = draw(self._pixels.find(recipe, deadline).load(), layers, width)
            finally:
                self._making.release()
        self._kept.put(tag, made, entries=len(made))
        return made

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
        """What regions cover, no larger than it is shown; one that cannot be read is left out."""
        decode = self._pixels.masks(max(0.0, deadline - time.monotonic()))
        layers = []
        for at, each in enumerate(regions):
            across, down = each.original_width or 0, each.original_height or 0
            if isinstance(each.geometry, Point) or across <= 0 or down <= 0:
                continue
            height = max(1, min(4 * width, round(width * down / across)))
            with suppress(UnreadableMask, ValueError):
                mask = rasterise(each.geometry, width, height, decode)
                layers.append(Layer(PackedMask.pack(mask), at))
        return layers

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
            raise NoSuchFrame(f"the video has {len(index.table.times)} frames")
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
    return jpeg(shown, _QUALITY)


def _lay_over(shown: np.ndarray, layer: Layer) -> None:
    """Tint what a mask covers, with a line around it."""
    height, width = shown.shape[:2]
    whole = layer.mask.unpack().astype(np.uint8)
    small = cv2.resize(whole * 255, (width, height), interpolation=cv2.INTER_AREA)
    inside = small > 127
    text = COLOURS[layer.colour % len(COLOURS)]
    colour = [int(text[at : at + 2], 16) for at in (1, 3, 5)]
    shown[inside] = (shown[inside] * 0.55 + np.array(colour) * 0.45).astype(np.uint8)
    lines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(shown, lines, -1, colour, max(1, width // 320), cv2.LINE_AA)


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
