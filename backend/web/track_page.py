"""``/tracks/<job>``: a track, frame by frame: its curves, what deserves a look, who marked what.

What is shown comes from the columns beside the masks; the masks of a frame are read when somebody
looks at that frame (``pictures.py``). Curves of long tracks are sent with one point for several
frames, and those of many objects in parts, so that an answer is bounded, whatever a job tracks;
whether objects met is known of those in one part.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import chain
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, jsonify, request

from backend.expected import ExpectedError
from backend.job_state import iso_time
from backend.labelstudio.json_values import whole_number
from backend.labelstudio.label_config import LabelConfigError
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import joined_labels
from backend.labelstudio.timing import page_number
from backend.labelstudio.video_regions import read_video_regions
from backend.pixels.recipes import Video
from backend.recent_values import Recent
from backend.settings import Settings
from backend.tracking.review import Doubt, doubts, stretches
from backend.tracking.sequence import shown_region
from backend.tracking.store import Job, Sighting
from backend.tracking.tracking import Tracking
from backend.tracking.video import read_timeline, video_tag
from backend.web.guard import refuse
from backend.web.pictures import COLOURS
from backend.web.site import site_blueprint, web_page

MAX_POINTS = 2000  # of a curve
MAX_SIGHTINGS = 10_000  # read for one answer, unless a single object has more
MAX_OBJECTS = 12  # of one answer
MAX_STRETCHES = 300  # of one object
MAX_JOBS = 20  # of a track, whose requests are read for its marks
MAX_NAME = 100
_NUMBERS_SECONDS = 5.0  # to find out how the editor counts the frames of a video


@dataclass(frozen=True)
class _Extent:
    """The frames that a job is about.

    Attributes:
        first, last: from 0.
        step: frames to a point of a curve.
    """

    first: int
    last: int

    @property
    def step(self) -> int:
        return math.ceil((self.last - self.first + 1) / MAX_POINTS)

    @classmethod
    def of(cls, job: Job) -> _Extent:
        asked = job.request
        marked = [int(frame) for each in _objects(job) for frame in each.get("prompts", ())]
        known = [asked.get("first", 0), asked.get("last", 0), *marked]
        return cls(max(0, min(known)), max(known))


class TrackPage:
    """Gathers what the page shows.

    Args:
        label_studio: its address, for links.
    """

    def __init__(self, tracking: Tracking, label_studio: str | None) -> None:
        self._tracking = tracking
        self._store = tracking.store
        self._label_studio = label_studio
        # Of jobs: their requests, which stay as they are, may hold megabytes of masks.
        self._marked: Recent[dict[str, list[dict[str, Any]]]] = Recent(entries=100, seconds=600.0)

    def page(self, job_id: str) -> Response:
        """The frame of the page; the rest is asked for by its script."""
        job = self._store.job(job_id)
        if job is None:
            return refuse(HTTPStatus.NOT_FOUND, f"there is no job {job_id[:MAX_NAME]}")
        unit = _unit(job)
        return web_page("track.html", job_id=job.id, task=job.task, unit=unit, running=_runs(job))

    def curves(self, job_id: str) -> Response:
        """What is known of a job and of some of its objects, beginning with the ``from``-th."""
        job = self._store.job(job_id)
        if job is None:
            return refuse(HTTPStatus.NOT_FOUND, f"there is no job {job_id[:MAX_NAME]}")
        begin = whole_number(request.args.get("from")) or 0
        response = Response(mimetype="application/json")
        response.headers["Cache-Control"] = "private, no-cache"
        response.set_etag(self._version(job, begin))
        if response.make_conditional(request).status_code != HTTPStatus.NOT_MODIFIED:
            response.data = jsonify(self._shown(job, begin)).data
        return response

    def numbers(self, job_id: str) -> Response:
        """How the editor counts the frames: see ``_numbers``."""
        job = self._store.job(job_id)
        if job is None:
            return refuse(HTTPStatus.NOT_FOUND, f"there is no job {job_id[:MAX_NAME]}")
        try:
            numbers, problem = self._numbers(job), ""
        except (ExpectedError, LabelConfigError) as error:
            numbers, problem = [], str(error)
        return jsonify(numbers=numbers, problem=problem)

    def _version(self, job: Job, begin: int) -> str:
        """Changes whenever something of the track does."""
        newest = max(each.updated for each in self._store.jobs(track=job.track, limit=MAX_JOBS))
        said = f"{job.id} {job.state} {job.done} {job.updated} {newest} {begin}"
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    def _shown(self, job: Job, begin: int) -> dict[str, Any]:
        extent, every = _Extent.of(job), _objects(job)
        count = min(MAX_OBJECTS, max(1, MAX_SIGHTINGS // (extent.last - extent.first + 1)))
        part = list(enumerate(every))[begin : begin + count]
        found = {each["id"]: self._store.sightings(job.track, each["id"]) for _, each in part}
        look = doubts(chain.from_iterable(found[name] for name in sorted(found)))
        described = self._store.objects(job.track)
        marks = self._marks(job)
        region = partial(_region, job, self._store.generations(job.track))
        seen = next(chain.from_iterable(found.values()), None)
        return {
            "job": {
                "id": job.id,
                "state": job.state,
                "done": job.done,
                "total": job.total,
                "message": job.message,
                "updated": iso_time(job.updated),
                "seconds_left": self._tracking.jobs.seconds_left(job),
            },
            "first": extent.first,
            "last": extent.last,
            "step": extent.step,
            "size": [seen.width, seen.height] if seen else None,
            "label_studio": self._link(job),
            "count": len(every),
            "next": begin + count if begin + count < len(every) else None,
            "objects": [
                {
                    "position": position,
                    "id": each["id"],
                    "name": _name(each, described.get(each["id"], {}), position),
                    "colour": COLOURS[position % len(COLOURS)],
                    "marks": marks.get(each["id"], []),
                    **_curve(found[each["id"]], extent),
                    **_look([one for one in look if one.object_id == each["id"]], region),
                }
                for position, each in part
            ],
        }

    def _marks(self, job: Job) -> dict[str, list[dict[str, Any]]]:
        """By object, what a human marked: on the frames that the first job of the track had, and
        as corrections after it."""
        known = self._marked.get(job.id)
        if known is None:
            known = self._read_marks(job)
            self._marked.put(job.id, known)
        return known

    def _read_marks(self, job: Job) -> dict[str, list[dict[str, Any]]]:
        jobs = self._store.jobs(track=job.track, limit=MAX_JOBS)
        earlier = [each for each in jobs if each.created <= job.created]
        first: dict[str, set[int]] = {}
        for each in reversed(earlier):  # the oldest first
            for described in _objects(each):
                frames = {int(frame) for frame in described.get("prompts", ())}
                first.setdefault(described["id"], frames)
        return {
            each["id"]: [
                {
                    "frame": int(frame),
                    "kind": _kind(said),
                    "correction": int(frame) not in first.get(each["id"], ()),
                }
                for frame, said in sorted(
                    each.get("prompts", {}).items(), key=lambda item: int(item[0])
                )
            ]
            for each in _objects(job)
        }

    def _link(self, job: Job) -> str | None:
        """The task in Label Studio."""
        project = job.project.partition(".")[0]
        if self._label_studio is None or not project.isdigit() or type(job.task) is not int:
            return None
        query = urlencode({"task": job.task})
        return f"{self._label_studio.rstrip('/')}/projects/{project}/data?{query}"

    def _numbers(self, job: Job) -> list[list[int]]:
        """Pairs of a frame, from 0, and its number in the editor, from which on both rise alike.

        Raises:
            ExpectedError, LabelConfigError: the video cannot be had, or read.
        """
        asked = job.request
        if "video" not in asked:
            return [[0, page_number(0)]]
        xml = asked["label_config"]
        config = self._tracking.parse(xml)
        task = ProjectTask(asked["project"], asked["task"], xml, config)
        video = Video.of(task, video_tag(config, asked["video"]))
        deadline = time.monotonic() + _NUMBERS_SECONDS
        index = self._tracking.pixels.videos.index(video, deadline)
        items = [item for each in _objects(job) for item in each.get("items", ())]
        regions = read_video_regions(items, config)
        timeline = read_timeline(config, asked["video"], task.data, regions, index)
        numbers = timeline.editor_frames()
        return [
            [frame, number]
            for frame, number in enumerate(numbers)
            if frame == 0 or number != numbers[frame - 1] + 1
        ][:MAX_POINTS]


def _objects(job: Job) -> Sequence[Mapping[str, Any]]:
    found = job.request.get("objects", ())
    return [each for each in found if isinstance(each, Mapping) and "id" in each]


def _runs(job: Job) -> bool:
    return not job.state.ended


def _unit(job: Job) -> str:
    return "frame" if "video" in job.request else "page"


def _name(described: Mapping[str, Any], known: Mapping[str, Any], position: int) -> str:
    labels = joined_labels(known.get("labels") or described.get("labels") or ())
    return f"{position + 1} {labels}"[:MAX_NAME].rstrip()


def _kind(said: object) -> str:
    """What a prompt in a job's request is: a box, clicks, or a drawn shape."""
    if isinstance(said, Mapping):  # of an interactive session
        return "box" if said.get("box") else "clicks"
    items = said if isinstance(said, Sequence) and not isinstance(said, str) else ()
    kinds = {each.get("type") for each in items if isinstance(each, Mapping)}
    if kinds & {"keypointlabels", "keypoint"}:
        return "clicks"
    drawn = {"brushlabels", "brush", "bitmask", "bitmasklabels", "polygonlabels", "polygon"}
    return "mask" if kinds & drawn else "box"


def _region(
    job: Job, generations: Mapping[tuple[str, int], int], object_id: str, frame: int
) -> str:
    """The id of the region that shows an object on a frame."""
    if "video" in job.request:
        return object_id
    generation = generations.get((object_id, frame), 0)
    return shown_region(str(job.request.get("image")), object_id, frame, generation)


def _curve(found: Sequence[Sighting], extent: _Extent) -> dict[str, Any]:
    """Of one object: its worst predicted IoU and presence in the frames of each point, None where
    nothing is stored."""
    size = (extent.last - extent.first) // extent.step + 1
    ious: list[float | None] = [None] * size
    presences: list[float | None] = [None] * size
    done = 0
    for each in found:
        if extent.first <= each.frame <= extent.last:
            done += 1
            at = (each.frame - extent.first) // extent.step
            ious[at] = min(_or_one(ious[at]), round(each.iou, 3))
            presences[at] = min(_or_one(presences[at]), round(_probability(each.presence), 3))
    return {"iou": ious, "presence": presences, "done": done}


def _look(found: Sequence[Doubt], region: Callable[[str, int], str]) -> dict[str, Any]:
    """What to look at of one object; the worst frames with their region in Label Studio."""
    places = stretches(found)
    return {
        "look": [
            {
                "first": each.first,
                "last": each.last,
                "worst": each.worst,
                "reason": each.reason,
                "region": region(each.object_id, each.worst),
            }
            for each in places[:MAX_STRETCHES]
        ],
        "left_out": max(0, len(places) - MAX_STRETCHES),
    }


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


def _probability(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


def track_blueprint(page: TrackPage, settings: Settings) -> Blueprint:
    """The routes of the page."""
    blueprint = site_blueprint("tracks", settings)
    blueprint.get("/tracks/<job_id>")(page.page)
    blueprint.get("/tracks/<job_id>/curves")(page.curves)
    blueprint.get("/tracks/<job_id>/numbers")(page.numbers)
    return blueprint
