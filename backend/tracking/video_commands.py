"""``<Video>`` with VideoRectangle: boxes are the prompts, tracked boxes the answer.

The pixel masks behind the boxes stay in the store, for exports and for later commands.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from backend.engine.pixel_prompts import PixelPrompt
from backend.labelstudio.commands import (
    NOT_ON_VIDEOS,
    NOTED,
    TRACK_HELP,
    ParsedCommand,
    TextKind,
    Word,
    kept,
    parse_command,
    unknown_command,
)
from backend.labelstudio.geometry import Box, box_to_percent, box_to_pixels
from backend.labelstudio.json_values import Results, mappings
from backend.labelstudio.keyframes import Keyframe, merge_human, thin
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import newest_first, newest_results
from backend.labelstudio.timing import Timeline
from backend.labelstudio.video_regions import (
    Trigger,
    VideoRegion,
    answered_regions,
    human_keyframes,
    read_video_regions,
    typed_for_video,
    video_context,
    video_results,
    video_status,
)
from backend.pixels.open_videos import OpenVideos
from backend.pixels.pixel_resolver import VIDEO_SECONDS
from backend.pixels.recipes import Video
from backend.tracking.owners import NO_DRAFT, find_track, own_track
from backend.tracking.review import report
from backend.tracking.runner import Work
from backend.tracking.spans import Goal, plan_goal
from backend.tracking.store import Job, Sighting, track_name
from backend.tracking.track_commands import (
    TRACK,
    JobRequest,
    TrackCommands,
    frames_asked_for,
    job_request,
)
from backend.tracking.video import read_timeline, video_tag, video_work

KEPT_KEYFRAMES = 5000  # of each region, over all its answers


Find = Callable[[ParsedCommand, str, Sequence[VideoRegion]], tuple[Results, str]]
"""Carries out ``find`` on the Video tag of a name, on which are those regions."""


@dataclass(frozen=True)
class Clip:
    """The video that the Video tag called ``name`` shows for a task.

    Attributes:
        base, track: name what is tracked, by anybody and by who asks; see ``find_track``.
        timeline: the editor's frames, from 1, and the file's, from 0.
    """

    task: ProjectTask
    name: str
    base: str
    track: str
    timeline: Timeline


@dataclass(frozen=True)
class _Marked:
    """A region with what a human put on it; ``human`` ascending."""

    region: VideoRegion
    human: tuple[Keyframe, ...]


class VideoCommands:
    """Answers requests on videos: commands, relabelled boxes."""

    kind = "video"

    def __init__(self, commands: TrackCommands, videos: OpenVideos) -> None:
        self._commands = commands
        self._store = commands.store
        self._videos = videos

    def reply(self, task: ProjectTask, context: object, find: Find) -> Results:
        """The results for an interactive request; empty where there is nothing to say.

        Args:
            find: carries out ``find``.

        Raises:
            ExpectedError: why there is no track.
        """
        config = task.config
        found = video_context(context, config)
        if found.trigger in (Trigger.NOTHING, Trigger.NOTE):
            return []
        saved = _saved(task)
        shown = found.commanded or found.regions
        every = shown or ([] if task.owner is None else read_video_regions(saved, config))
        name = every[0].to_name if every else config.videos[0].name
        regions = [region for region in every if region.to_name == name]
        parsed = TRACK if found.trigger is Trigger.LABEL else parse_command(found.command or "")
        area = config.status_area(name, found.typed.area if found.typed else None)
        untouched = area is not None and area.read_only  # what was typed stands elsewhere
        results: Results = []
        if parsed.kind is TextKind.NOTE and untouched:
            text: str | None = NOTED
        elif not parsed.kind.answered:
            return []
        elif parsed.word is None:
            text = unknown_command(parsed.text)
        elif parsed.word is Word.HELP:
            text = TRACK_HELP
        elif parsed.word is Word.EVERYTHING:
            text = NOT_ON_VIDEOS
        elif parsed.word is Word.FIND:
            # The editor does not say which frame it shows; a box is where it was drawn last.
            last = found.commanded[0].keyframes[-1].frame if found.commanded else None
            results, text = find(replace(parsed, at=parsed.at or last), name, regions)
        elif not regions and parsed.word is Word.CLEAR:
            text = None
        elif not regions and task.owner is None:
            text = f"no box yet: draw one around the object. {NO_DRAFT}"
        elif not regions:
            text = "no box yet: draw one around the object, wait 5 seconds, then track"
        else:
            results, text = self._carry_out(task, parsed, regions)
        if found.trigger is Trigger.REGION_COMMAND:
            answer = "" if area else text or ""
            results = answered_regions(results, regions, answer)
        items = context.get("result") if isinstance(context, Mapping) else None
        known = [*mappings(items), *saved]
        noted = typed_for_video(saved, config) if found.typed is None and not untouched else None
        if noted is None or not kept(noted.entries, shared=True):
            results += video_status(text, config, name, known, found.typed)
        return results

    def _carry_out(
        self, task: ProjectTask, parsed: ParsedCommand, regions: Sequence[VideoRegion]
    ) -> tuple[Results, str | None]:
        """The tracked regions, and the text for the text box (None empties it)."""
        clip = self.clip(task, regions[0].to_name, regions)
        marked = [self._marked(clip, region) for region in regions]
        done = self._commands.carry_out(
            parsed, clip.track, lambda: self._request(clip, parsed, marked)
        )
        if not isinstance(done, Job):
            return [], done
        results: Results = []
        for each in marked:
            results += self._results(clip, each)
        return results, self._report(clip, done, regions)

    def retrieve(self, task: ProjectTask, *, patient: bool) -> list[Job]:
        """Track the boxes that a task holds already, both ways, for "Retrieve predictions".

        Args:
            patient: wait for each job as long as a reply may.

        Returns:
            A job for each video with boxes, ended or to be delivered when it ends.

        Raises:
            ExpectedError: why there is no track.
        """
        parsed = replace(TRACK, direction="both")
        saved = _saved(task)
        jobs = []
        for tag in task.config.videos:
            planned = self.plan(task, parsed, saved, tag.name)
            if not isinstance(planned, str):
                jobs.append(self._commands.run(*planned, wait=patient))
        return jobs

    def plan(
        self, task: ProjectTask, parsed: ParsedCommand, results: Results, name: str
    ) -> tuple[str, JobRequest] | str:
        """The track and the request of the job that carries on the boxes in ``results``, those on
        the Video tag ``name``, for ``JobRunner.submit``; or why there is none.

        Raises:
            ExpectedError: the video cannot be had, or read.
        """
        every = read_video_regions(results, task.config)
        regions = [region for region in every if region.to_name == name]
        if not regions:
            return "no box yet"
        clip = self.clip(task, name, regions)
        request = self._request(clip, parsed, [self._marked(clip, region) for region in regions])
        return request if isinstance(request, str) else (clip.track, request)

    def clip(
        self,
        task: ProjectTask,
        name: str,
        regions: Sequence[VideoRegion],
        *,
        seconds: float | None = None,
        track: str | None = None,
    ) -> Clip:
        """The video that the Video tag called ``name`` shows for ``task``.

        Args:
            regions: on it; they say how many frames the editor counts.
            seconds: how long it may take to come; None for what a reply may.
            track: whose it is need not be found out.

        Raises:
            ExpectedError: there is no such tag, or no address in the task; or the video cannot be
                had, not be read, or not in time.
        """
        video = Video.of(task, video_tag(task.config, name))
        commands = self._commands
        deadline = time.monotonic() + (commands.budget_seconds if seconds is None else seconds)
        index = self._videos.index(video, deadline)
        timeline = read_timeline(task.config, name, task.data, regions, index)
        version = commands.engine.family
        base = track_name(task.project, task.task.get("id"), name, version, video.address)
        if track is None:
            ids = {region.id for region in regions if region.id}
            found = find_track(self._store, base, task, self._store.objects, ids)
            track = found or own_track(base, "nobody")
        return Clip(task, name, base, track, timeline)

    def open(self, task: ProjectTask, request: JobRequest) -> Work:
        """See ``JobKind``."""
        return video_work(self._videos, task, request, partial(_read_goal, request))

    def outcome(self, task: ProjectTask, job: Job) -> tuple[Results, list[float]]:
        """All regions of a job with what was tracked of them, and the masks' scores."""
        request = job.request
        items = [item for each in request["objects"] for item in each["items"]]
        regions = read_video_regions(items, task.config)
        clip = self.clip(task, request["video"], regions, seconds=VIDEO_SECONDS, track=job.track)
        results: Results = []
        for region in regions:
            results += self._results(clip, self._marked(clip, region))
        names = {region.id for region in regions}
        found = self._store.sightings(clip.track)
        return results, [each.iou for each in found if each.object_id in names]

    def _results(self, clip: Clip, marked: _Marked) -> Results:
        """The region with all that was tracked of it, and a human's key frames as they are; its
        score is the mean of those of its masks."""
        timeline = clip.timeline
        masks = self._store.sightings(clip.track, marked.region.id)
        found = {each.frame: _box(each) for each in masks}
        boxes = {
            frame: found[index]
            for frame in range(1, timeline.frames_count + 1)
            if (index := timeline.file_frame(frame)) in found
        }
        human = {each.frame: each for each in marked.human}
        boxes |= {frame: each.box for frame, each in human.items()}
        model = thin(boxes, human, frames_count=timeline.frames_count)
        merged = merge_human(marked.human, model)
        self._remember(clip, marked, merged)
        return video_results(
            marked.region,
            merged,
            clip.task.config,
            framerate=timeline.framerate,
            score=sum(mask.iou for mask in masks) / len(masks) if masks else None,
        )

    def _marked(self, clip: Clip, region: VideoRegion) -> _Marked:
        """Tell a human's key frames from those that the service sent."""
        known = self._store.objects(clip.track).get(region.id, {})
        before = _read_keyframes(known.get("human", ()))
        sent: dict[int, list[Keyframe]] = {}
        for each in _read_keyframes(known.get("sent", ())):
            sent.setdefault(each.frame, []).append(each)
        human = human_keyframes(region, sent, before)
        if _saved_before(clip.task, known.get("answered", 0.0)):
            # The draft is older than the last answer, which held boxes that it does not.
            by_frame = {each.frame: each for each in [*before, *human]}
            human = tuple(by_frame[frame] for frame in sorted(by_frame))
        return _Marked(region, human)

    def _remember(self, clip: Clip, marked: _Marked, merged: Sequence[Keyframe]) -> None:
        """Keep what is sent, to tell it from what a human does with it."""
        known = self._store.objects(clip.track).get(marked.region.id, {})
        earlier = known.get("sent", ())
        before = set(_read_keyframes(earlier))
        new = _write_keyframes([each for each in merged if each not in before])
        description = {
            "labels": list(marked.region.labels),
            "from_name": marked.region.from_name,
            "sent": [*earlier, *new][-KEPT_KEYFRAMES:],
            "human": _write_keyframes(marked.human),
            "answered": time.time(),
        }
        self._store.describe(clip.track, marked.region.id, description)

    def _request(
        self, clip: Clip, parsed: ParsedCommand, marked: Sequence[_Marked]
    ) -> JobRequest | str:
        """The request of the job that a command asks for, or why there is none."""
        timeline = clip.timeline
        frames = frames_asked_for(parsed, 1, timeline.frames_count)
        if isinstance(frames, str):
            return frames
        objects = [
            {
                "id": each.region.id,
                "items": video_results(
                    each.region,
                    each.region.keyframes,
                    clip.task.config,
                    framerate=timeline.framerate,
                ),
                "prompts": {timeline.file_frame(key.frame): list(key.box) for key in each.human},
                "ends": [timeline.file_frame(key.frame) for key in each.human if not key.enabled],
            }
            for each in marked
            if each.human and each.region.id
        ]
        if not objects:
            return "no box of yours is left: draw one around the object, then track"
        if clip.track != clip.base:
            self._store.claim(clip.track, clip.base, clip.task.owner or "")
        first, last = (timeline.file_frame(frame) for frame in frames)
        request = job_request(clip.task, parsed, first, last)
        return {**request, "kind": self.kind, "video": clip.name, "objects": objects}

    def _report(self, clip: Clip, job: Job, regions: Sequence[VideoRegion]) -> str:
        names = {region.id for region in regions}
        masks = [each for each in self._store.sightings(clip.track) if each.object_id in names]
        timeline, left = clip.timeline, self._commands.jobs.seconds_left(job)
        return report(job, masks, timeline.frames_count, left, shown_as=timeline.editor_frame)


def box_digest(box: Box) -> str:
    """Names what a box says as a prompt."""
    return hashlib.sha256(json.dumps(box).encode()).hexdigest()[:16]


def _write_keyframes(keyframes: Sequence[Keyframe]) -> list[list[Any]]:
    return [[each.frame, list(each.box), each.enabled] for each in keyframes]


def _read_keyframes(written: Sequence[Sequence[Any]]) -> list[Keyframe]:
    return [Keyframe(frame, Box(*numbers), enabled) for frame, numbers, enabled in written]


def _read_goal(request: JobRequest, described: Mapping[str, Any], width: int, height: int) -> Goal:
    """One object of a job's request, on a video of this size in pixels."""
    boxes = {int(frame): Box(*numbers) for frame, numbers in described["prompts"].items()}
    prompts = {
        frame: PixelPrompt(box=box_to_pixels(box, width, height)) for frame, box in boxes.items()
    }
    digests = {frame: box_digest(box) for frame, box in boxes.items()}
    ends = set(described["ends"])
    return plan_goal(described["id"], prompts, request, digests=digests, ends=ends)


def _box(found: Sighting) -> Box | None:
    """The tight box around a mask, in percent."""
    return None if found.box is None else box_to_percent(found.box, found.width, found.height)


def _saved(task: ProjectTask) -> Results:
    """The boxes that the annotation at hand holds, or a prediction."""
    return newest_results(task.task, "drafts", "annotations", "predictions")


def _saved_before(task: ProjectTask, moment: float) -> bool:
    """Whether the newest draft of a task was saved before ``moment`` (seconds since 1970)."""
    newest = next(iter(newest_first(task.task.get("drafts"))), {})
    try:
        return datetime.fromisoformat(str(newest.get("updated_at"))).timestamp() < moment
    except ValueError:
        return False
