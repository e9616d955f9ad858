"""``<Video>`` with VideoRectangle: boxes are the prompts, tracked boxes the answer.

The pixel masks behind the boxes stay in the store, for exports and for later commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from backend.engine.packed_masks import PackedMask
from backend.labelstudio.commands import (
    TRACK_HELP,
    ParsedCommand,
    TextKind,
    Word,
    holds_note,
    parse_command,
    unknown_command,
)
from backend.labelstudio.geometry import Box, box_to_percent
from backend.labelstudio.json_values import mappings
from backend.labelstudio.keyframes import Keyframe, merge_human, thin
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.media_refs import media_uri
from backend.labelstudio.read_results import newest_results
from backend.labelstudio.video_regions import (
    Trigger,
    VideoContext,
    VideoRegion,
    human_keyframes,
    read_video_regions,
    typed_for_video,
    video_context,
    video_results,
    video_status,
)
from backend.pixels.sandbox.video_decoding import open_video
from backend.tracking.review import doubts, progress, ranges
from backend.tracking.runner import Work
from backend.tracking.store import Job
from backend.tracking.video import (
    Clip,
    Tables,
    box_numbers,
    by_frame,
    clip_track,
    goal_of,
    on_one,
    read_keyframes,
    read_timeline,
    saved_before,
    video_tag,
    write_keyframes,
)
from backend.tracking.workshop import Workshop

FETCH_SECONDS = 600.0  # for a video, inside a job
KEPT_KEYFRAMES = 5000  # of each region, over all its answers
TRACK = ParsedCommand(TextKind.COMMAND, Word.TRACK, "track")

Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Marked:
    """A region with what a human put on it; ``human`` ascending."""

    region: VideoRegion
    human: tuple[Keyframe, ...]


class VideoCommands:
    """Answers requests on videos: commands, relabelled boxes."""

    kind = "video"

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop
        self._parse = lru_cache(maxsize=16)(parse_label_config)
        self._tables = Tables()

    def reply(
        self, project: str, task: Mapping[str, Any], label_config: str, context: object
    ) -> Results:
        """The results for an interactive request; empty where there is nothing to say.

        Raises:
            MissingMedia, MediaError, VideoError, EngineError: why there is no track.
        """
        config = self._parse(label_config)
        found = video_context(context, config)
        parsed = TRACK if found.trigger is Trigger.LABEL else parse_command(found.command or "")
        if found.trigger in (Trigger.NOTHING, Trigger.NOTE):
            return []
        if parsed.kind in (TextKind.NOTE, TextKind.OWN):
            return []
        saved = newest_results(task, "drafts", "annotations", "predictions")
        regions = on_one(
            found.commanded or found.regions or tuple(read_video_regions(saved, config))
        )
        name = regions[0].to_name if regions else config.videos[0].name
        known = [*mappings(_items(context)), *saved]

        typed = typed_for_video([*mappings(_items(context)), *saved], config)

        def say(text: str | None) -> Results:
            if typed is not None and holds_note(typed.entries):
                return []
            return [dict(result) for result in video_status(text, config, name, known)]

        if parsed.kind is TextKind.UNKNOWN:
            return say(unknown_command(parsed.text))
        if parsed.word is Word.HELP:
            return say(TRACK_HELP)
        if not regions:
            return say("no box yet: draw one around the object, wait 5 seconds, then track")
        clip = self.clip(project, task, label_config, name, regions)
        return self._carry_out(clip, parsed, found, regions, say)

    def retrieve(
        self, project: str, task: Mapping[str, Any], label_config: str, *, patient: bool
    ) -> list[Job]:
        """Track the boxes that a task holds already, both ways, for "Retrieve predictions".

        Args:
            patient: wait for each job as long as a reply may.

        Returns:
            A job for each video with boxes, ended or to be stored as a prediction when it ends.

        Raises:
            MissingMedia, MediaError, VideoError, EngineError: why there is no track.
        """
        parsed = replace(TRACK, direction="both")
        saved = newest_results(task, "drafts", "annotations", "predictions")
        jobs = []
        for tag in self._parse(label_config).videos:
            planned = self.plan(project, task, label_config, parsed, saved, tag.name)
            if not isinstance(planned, str):
                jobs.append(self._shop.run(*planned, wait=patient))
        return jobs

    def deliver(self, job: Job) -> None:
        """Store the result of an ended job of ``retrieve`` that nobody waits for any more."""
        self._shop.jobs.deliver(job)

    def plan(
        self,
        project: str,
        task: Mapping[str, Any],
        label_config: str,
        parsed: ParsedCommand,
        results: Results,
        name: str | None = None,
    ) -> tuple[str, dict[str, Any]] | str:
        """The track and the request of the job that carries the boxes in ``results`` on, for
        ``JobRunner.submit``; or why there is none.

        Args:
            name: of the Video tag; the one of the first box where None.

        Raises:
            MissingMedia, MediaError, VideoError, EngineError: the video cannot be had, or read.
        """
        regions = on_one(read_video_regions(results, self._parse(label_config)), name)
        if not regions:
            return "no box yet"
        clip = self.clip(project, task, label_config, regions[0].to_name, regions)
        request = self._request(clip, parsed, [self._marked(clip, region) for region in regions])
        return request if isinstance(request, str) else (clip.track, request)

    def _carry_out(
        self,
        clip: Clip,
        parsed: ParsedCommand,
        context: VideoContext,
        regions: Sequence[VideoRegion],
        say: Callable[[str | None], Results],
    ) -> Results:
        if parsed.word is Word.STOP:
            stopped = self._shop.cancel(clip.track)
            return say("stopped; what is done stays" if stopped else "nothing is being tracked")
        if parsed.word is Word.CLEAR:
            self._shop.cancel(clip.track)
            self._shop.store.forget(clip.track)
            return say(None)
        marked = [self._marked(clip, region) for region in regions]
        if parsed.word is Word.STATUS:
            jobs = self._shop.store.jobs(track=clip.track)
            if not jobs:
                return say(self._shop.engine.status().detail)
            job = jobs[0]
        else:
            request = self._request(clip, parsed, marked)
            if isinstance(request, str):
                return say(request)
            if parsed.word is Word.REDO:
                self._shop.cancel(clip.track)
                self._shop.store.forget_masks(clip.track)
            job = self._shop.run(clip.track, request)
        text = self._text(clip, job, marked)
        per_region = context.trigger is Trigger.REGION_COMMAND
        results = [
            result
            for each in marked
            for result in self.results(clip, each, status=text if per_region else None)
        ]
        return results if per_region else results + say(text)

    def clip(
        self,
        project: str,
        task: Mapping[str, Any],
        label_config: str,
        name: str,
        regions: Sequence[VideoRegion],
        *,
        seconds: float | None = None,
    ) -> Clip:
        """The video that the Video tag called ``name`` shows for ``task``.

        Args:
            seconds: how long it may take to come; None for what a reply may.

        Raises:
            MissingMedia: there is no such tag, or no address in the task.
            MediaError, VideoError, Busy: it cannot be had, read, or not in time.
        """
        config = self._parse(label_config)
        tag = video_tag(config, name)
        data = task.get("data") if isinstance(task.get("data"), Mapping) else {}
        address = media_uri(data, tag)  # type: ignore[arg-type]
        deadline = time.monotonic() + (self._shop.budget_seconds if seconds is None else seconds)
        with self._shop.images.video(task, tag, deadline) as file:
            table, duration = self._tables.get(file, deadline)
        timeline = read_timeline(config, name, data, regions, table, duration)  # type: ignore[arg-type]
        version = self._shop.engine.family
        track = clip_track(project, task.get("id"), name, version, address)
        return Clip(track, project, task, label_config, config, name, timeline)

    def results(self, clip: Clip, marked: Marked, *, status: str | None = None) -> Results:
        """The region with all that was tracked of it, and a human's key frames as they are."""
        merged, score = self._merged(clip, marked)
        self._remember(clip, marked, merged)
        made = video_results(
            marked.region,
            merged,
            clip.config,
            framerate=clip.timeline.framerate,
            score=score,
            status=status,
        )
        return [dict(result) for result in made]

    def _merged(self, clip: Clip, marked: Marked) -> tuple[tuple[Keyframe, ...], float | None]:
        """All key frames of a region, and the mean score of its masks."""
        timeline = clip.timeline
        masks = list(self._shop.store.masks(clip.track, object_id=marked.region.id))
        found = {each.frame: _box(each.mask) for each in masks}
        boxes: dict[int, Box | None] = {}
        for frame in range(1, timeline.frames_count + 1):
            index = timeline.file_frame(frame)
            if index in found:
                boxes[frame] = found[index]
        human = {each.frame: each for each in marked.human}
        boxes |= {frame: each.box for frame, each in human.items()}
        model = thin(boxes, human, frames_count=timeline.frames_count)
        merged = merge_human(marked.human, model)
        score = sum(mask.iou for mask in masks) / len(masks) if masks else None
        return merged, score

    def open(self, request: Mapping[str, Any]) -> Work:
        """See ``jobs.Opener``."""
        config = self._parse(request["label_config"])
        tag = video_tag(config, request["video"])
        deadline = time.monotonic() + FETCH_SECONDS
        file = self._shop.images.video(request["task"], tag, deadline)
        table, _ = self._tables.get(file, deadline)
        frames = open_video(file, table=table)
        size = (frames.width, frames.height)
        goals = [goal_of(each, request, *size) for each in request["objects"]]

        def close() -> None:
            frames.close()
            file.close()  # it may leave the cache now

        return Work(frames, goals, lambda frame: size, close, request.get("stride"))

    def outcome(self, job: Job) -> tuple[Results, list[float]]:
        """All regions of a job with what was tracked of them, and the masks' scores."""
        request = job.request
        items = [item for each in request["objects"] for item in each["items"]]
        regions = read_video_regions(items, self._parse(request["label_config"]))
        clip = self.clip(
            request["project"],
            request["task"],
            request["label_config"],
            request["video"],
            regions,
            seconds=FETCH_SECONDS,
        )
        results: Results = []
        for region in regions:
            results += self.results(clip, self._marked(clip, region))
        names = {region.id for region in regions}
        found = self._shop.store.masks(clip.track)
        return results, [mask.iou for mask in found if mask.object_id in names]

    def _marked(self, clip: Clip, region: VideoRegion) -> Marked:
        """Tell a human's key frames from those that the service sent."""
        known = self._shop.store.objects(clip.track).get(region.id, {})
        before = read_keyframes(known.get("human", ()))
        sent: dict[int, list[Keyframe]] = {}
        for each in read_keyframes(known.get("sent", ())):
            sent.setdefault(each.frame, []).append(each)
        human = human_keyframes(region, sent, before)
        if saved_before(clip.task, known.get("answered", 0.0)):
            # The draft is older than the last answer, which held boxes that it does not.
            human = tuple(by_frame([*before, *human]))
        return Marked(region, human)

    def _remember(self, clip: Clip, marked: Marked, merged: Sequence[Keyframe]) -> None:
        """Keep what is sent, to tell it from what a human does with it."""
        known = self._shop.store.objects(clip.track).get(marked.region.id, {})
        earlier = known.get("sent", ())
        new = [each for each in write_keyframes(merged) if each not in earlier]
        description = {
            "labels": list(marked.region.labels),
            "from_name": marked.region.from_name,
            "sent": [*earlier, *new][-KEPT_KEYFRAMES:],
            "human": write_keyframes(marked.human),
            "answered": time.time(),
        }
        self._shop.store.describe(clip.track, marked.region.id, description)

    def _request(
        self, clip: Clip, parsed: ParsedCommand, marked: Sequence[Marked]
    ) -> dict[str, Any] | str:
        """The job's request as JSON, or why there is none."""
        timeline = clip.timeline
        first, last = parsed.frames or (1, timeline.frames_count)
        if first > last or first > timeline.frames_count:
            return f"there is no range {first}-{last}: the frames are 1-{timeline.frames_count}"
        objects = [
            {
                "id": each.region.id,
                "items": _region_items(each.region, clip),
                "prompts": {
                    timeline.file_frame(key.frame): box_numbers(key.box) for key in each.human
                },
                "ends": [timeline.file_frame(key.frame) for key in each.human if not key.enabled],
            }
            for each in marked
            if each.human and each.region.id
        ]
        if not objects:
            return "no box of yours left: draw one around the object, then track"
        task = {"id": clip.task.get("id"), "data": clip.task.get("data")}
        stride = {} if parsed.stride is None else {"stride": parsed.stride}
        return {
            **stride,
            "kind": self.kind,
            "project": clip.project,
            "task": task,
            "label_config": clip.label_config,
            "video": clip.name,
            "objects": objects,
            "first": timeline.file_frame(max(first, 1)),
            "last": timeline.file_frame(last),
            "direction": parsed.direction or ("both" if parsed.frames else "forward"),
        }

    def _text(self, clip: Clip, job: Job, marked: Sequence[Marked]) -> str:
        names = {each.region.id for each in marked}
        masks = [m for m in self._shop.store.masks(clip.track) if m.object_id in names]
        editor = clip.timeline.editor_frame
        frames = {editor(mask.frame) for mask in masks}
        parts = [
            progress(job, frames, clip.timeline.frames_count, self._shop.jobs.seconds_left(job))
        ]
        look = sorted({editor(doubt.frame) for doubt in doubts(masks)})
        if look:
            parts.append(f"look at {ranges(look)}")
        return "; ".join(parts)


def _box(mask: PackedMask) -> Box | None:
    """The tight box around a mask, in percent."""
    return None if mask.box is None else box_to_percent(mask.box, mask.width, mask.height)


def _items(context: object) -> object:
    return context.get("result") if isinstance(context, Mapping) else None


def _region_items(region: VideoRegion, clip: Clip) -> Results:
    """The region in Label Studio's form, to be read again when the job has ended."""
    framerate = clip.timeline.framerate
    made = video_results(region, region.keyframes, clip.config, framerate=framerate)
    return [dict(item) for item in made]
