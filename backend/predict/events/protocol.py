"""The interactive video protocol: one event of an editor, one reply."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from backend.engine.engine import Answer, Engine, Outcome
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.job_state import JobState
from backend.labelstudio.prompts import ObjectPrompt
from backend.pixels.open_videos import OpenVideos
from backend.predict.click import Failure, OnlyBackground, Reply, Request, attempt
from backend.predict.events.editor_videos import EditorVideo, EditorVideos, Prewarmer
from backend.predict.events.messages import (
    Event,
    EventContext,
    EventPrompts,
    Target,
    capabilities,
    find_target,
    frame_value,
    item,
    mask_value,
    read_context,
    read_prompts,
)
from backend.predict.events.sessions import (
    FrameOrder,
    TrackReading,
    TrackSessions,
    UnknownSession,
    track_request,
)
from backend.predict.segment import Segmenter
from backend.threads.caller import reply_by
from backend.tracking.spans import Direction
from backend.tracking.tracking import Tracking

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0  # how often idle videos and abandoned tracks are looked for


class NothingToAnswer(ExpectedError):
    """There is nothing to answer with."""


@dataclass(frozen=True)
class _EventCall:
    """A request as the handlers get it."""

    request: Request
    asked: EventContext
    target: Target
    deadline: float

    def reply(
        self, kind: str, value: Mapping[str, Any], outcome: str = "ok", error: str | None = None
    ) -> Reply:
        """One item of type ``kind``."""
        return Reply([item(kind, self.target, value)], outcome, error)


class VideoProtocol:
    """Replies to the events of ``Event``.

    Args:
        budget_seconds: longest wait of a request for a frame or a mask.
        clock: seconds that only grow, for what idles.
    """

    def __init__(
        self,
        engine: Engine,
        segmenter: Segmenter,
        videos: OpenVideos,
        tracking: Tracking,
        *,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._segmenter = segmenter
        self._budget = budget_seconds
        self.videos = EditorVideos(videos, clock=clock)
        self._prewarmer = Prewarmer(engine)
        self.sessions = TrackSessions(tracking.store, tracking.jobs, clock=clock)
        self._stopping = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="sweep", daemon=True)
        self._sweeper.start()

    def capabilities(self) -> Reply:
        """The reply to ``capabilities``, which needs neither task nor label config."""
        return Reply([capabilities(self._engine.model_version)], "ok")

    def reply(self, event: Event, request: Request) -> Reply:
        """The reply to any event but ``capabilities``; never raises, whatever the request holds."""
        call = self._call(request)
        found = attempt(request, f"this {event} request", self._reply, event, call)
        return self._failed(event, call, found) if isinstance(found, Failure) else found

    def reply_busy(self, event: Event, request: Request, text: str) -> Reply:
        """The reply where the service has no place for a request; light events need none."""
        if event in (Event.TRACK_CANCEL, Event.RELEASE):
            return self.reply(event, request)
        call = self._call(request)
        if event is Event.TRACK_PROGRESS:  # the track goes on, and so shall the editor
            return call.reply(
                "track_progress", {"frames": [], "done": False, "error": None}, "busy"
            )
        return self._failed(event, call, Failure(text, "busy"))

    def expire(self) -> None:
        """Close idle videos, cancel and forget abandoned tracks; done regularly by itself."""
        self.videos.expire()
        self.sessions.expire()

    def close(self) -> None:
        """Stop background work; tracks go on at the next start."""
        self._stopping.set()
        self._prewarmer.close()

    def _reply(self, event: Event, call: _EventCall) -> Reply:
        if not call.target.to_name and event in (Event.PREWARM, Event.PREDICT, Event.TRACK):
            raise NothingToAnswer("the label config has no tag that takes masks or boxes")
        return {
            Event.PREWARM: self._prewarm,
            Event.PREDICT: self._predict,
            Event.TRACK: self._track,
            Event.TRACK_PROGRESS: self._progress,
            Event.TRACK_CANCEL: self._cancel,
            Event.RELEASE: self._release,
        }[event](call)

    def _failed(self, event: Event, call: _EventCall, failure: Failure) -> Reply:
        """Events that only acknowledge do so with the reason in it, as the editor expects one."""
        text = failure.text
        value: dict[str, Any] = {"error": text}
        if event is Event.PREWARM:
            value |= {"status": "error", "cached": [], "pending": []}
            return call.reply("prewarm_ack", value, failure.outcome, text)
        if event is Event.TRACK_PROGRESS:
            value |= {"frames": [], "done": True}
            return call.reply("track_progress", value, failure.outcome, text)
        return Reply([], failure.outcome, text)

    # Events.

    def _prewarm(self, call: _EventCall) -> Reply:
        if not call.target.is_video:  # encoded when its task was opened
            value = {"status": "ok", "cached": [0], "pending": [], "frame_count": 1}
            return call.reply("prewarm_ack", value)
        asked = call.asked
        with self._video(call) as video:
            at, count = video.index(asked.moment), len(video.timeline.times)
            if asked.direction is Direction.BACK:
                frames = range(at, max(-1, at - asked.window - 1), -1)
            else:
                frames = range(at, min(count, at + asked.window + 1))
            cached, pending = self._prewarmer.ask(video, frames)
        value = {"status": "ok", "cached": cached, "pending": pending, "frame_count": count}
        return call.reply("prewarm_ack", value)

    def _predict(self, call: _EventCall) -> Reply:
        prompts = self._prompts(call)
        if not call.target.is_video:
            asked = [each.prompt for each in prompts.usable]
            answers = self._segmenter.answer(call.request, asked, Priority.CLICK, call.deadline)
            return _masks(call, prompts, answers, [{} for _ in answers])
        answers, places = [], []
        with self._video(call) as video:
            for each in prompts.usable:
                index = video.index(each.moment or call.asked.moment)
                frame = video.frame(index)
                answers.append(self._segmenter.answer_frame(frame, each.prompt, call.deadline))
                video.mark_encoded(index)
                places.append(frame_value(index, video.timeline.times))
        return _masks(call, prompts, answers, places)

    def _track(self, call: _EventCall) -> Reply:
        if not call.target.is_video:
            raise NothingToAnswer("there is nothing to track on a single picture")
        prompts = self._prompts(call)
        with self._video(call) as video:
            by_object = _by_object(prompts, video, call.asked)
            order = _order(by_object, video, call.asked)
            value = {
                "total_frames": len(order),
                "fps": video.framerate,
                "duration_ms": video.duration * 1000,
            }
        request = track_request(call.request, call.target.to_name, by_object, order)
        job = self.sessions.start(call.request, request)
        started = {"session_id": job.id, **value, "objects": list(by_object)}
        return call.reply("track_started", started, error=_reasons(prompts))

    def _progress(self, call: _EventCall) -> Reply:
        try:
            found = self.sessions.read(call.request, call.asked.session, call.asked.cursor)
        except UnknownSession:
            value = {"frames": [], "done": True, "error": "session not found"}
            return call.reply("track_progress", value, "unknown")
        times: Sequence[float] = ()
        if found.frames:
            with self._video(call) as video:
                times = video.timeline.times
        return call.reply("track_progress", _progress_value(found, times))

    def _cancel(self, call: _EventCall) -> Reply:
        outcome = "ok"
        try:
            self.sessions.cancel(call.request, call.asked.session)
        except UnknownSession:
            outcome = "unknown"  # whatever it was, nothing runs for it
        return call.reply("track_cancel_ack", {"status": "cancelled"}, outcome)

    def _release(self, call: _EventCall) -> Reply:
        self.sessions.release(call.request, call.asked.session)
        if not call.asked.session:
            self.videos.release(call.request)
        return call.reply("release_ack", {"status": "released"})

    # Parts of them.

    def _call(self, request: Request) -> _EventCall:
        target = find_target(request.config)
        return _EventCall(request, read_context(request.context), target, reply_by(self._budget))

    def _video(self, call: _EventCall) -> AbstractContextManager[EditorVideo]:
        """The call's video."""
        return self.videos.use(call.request, call.target.to_name, call.deadline)

    def _prompts(self, call: _EventCall) -> EventPrompts:
        """The prompts of a request, each of which says where its object is.

        Raises:
            TooManyPrompts, NothingToAnswer, OnlyBackground: see there.
        """
        prompts = read_prompts(call.request.items, call.target.to_name)
        if not prompts.usable:
            raise NothingToAnswer(
                "; ".join(["no prompt: give points or a box", *prompts.ignored[:3]])
            )
        lost = [each.object_id for each in prompts.usable if not each.prompt.has_positive]
        if lost:
            raise OnlyBackground(
                f"{', '.join(lost)}: every click is on the background; click on the object first"
            )
        return prompts

    def _sweep(self) -> None:
        while not self._stopping.wait(SWEEP_SECONDS):
            try:
                self.expire()
            except Exception:  # thread boundary: the next sweep tries again
                logger.exception("idle videos and tracks could not be cleared away")


def _masks(
    call: _EventCall,
    prompts: EventPrompts,
    answers: Sequence[Outcome],
    places: Sequence[Mapping[str, Any]],
) -> Reply:
    """The masks of ``prompts``; ``places`` name their frames."""
    items = []
    empty = []
    for prompted, answer, at in zip(prompts.usable, answers, places, strict=True):
        if not isinstance(answer, Answer):
            empty.append(str(answer))
            continue
        if not answer.mask.area:
            empty.append(f"no object there ({prompted.object_id}); try another spot or a box")
            continue
        value = {**mask_value(answer.mask.unpack()), **at, "object_id": prompted.object_id}
        if prompted.prompt.labels:
            value["labels"] = list(prompted.prompt.labels)
        items.append(item("bitmask", call.target, value, score=answer.score))
    return Reply(items, "ok" if items else "error", _reasons(prompts, empty))


def _reasons(prompts: EventPrompts, empty: Sequence[str] = ()) -> str | None:
    """Why there is less than was asked for; None where there is all."""
    return "; ".join([*empty, *prompts.ignored[:3]]) or None


def _by_object(
    prompts: EventPrompts, video: EditorVideo, asked: EventContext
) -> dict[str, dict[int, ObjectPrompt]]:
    """Prompts by object and frame of the file; those of one object that fall on one frame under
    two names work together."""
    found: dict[str, dict[int, ObjectPrompt]] = {}
    for each in prompts.usable:
        frames = found.setdefault(each.object_id, {})
        index = video.index(each.moment or asked.moment)
        known = frames.get(index)
        if known is None:
            frames[index] = each.prompt
        else:
            box = each.prompt.box if each.prompt.box is not None else known.box
            frames[index] = replace(known, points=known.points + each.prompt.points, box=box)
    return found


def _order(
    by_object: Mapping[str, Mapping[int, Any]], video: EditorVideo, asked: EventContext
) -> FrameOrder:
    """How far a track goes: from the frame on screen as far as was asked for, and over every
    prompted frame."""
    at, last = video.index(asked.moment), len(video.timeline.times) - 1
    reach = asked.max_frames
    if asked.max_seconds is not None:
        reach = round(asked.max_seconds * video.framerate)
    reach = last if reach is None else min(reach, last)
    prompted = {name: sorted(frames) for name, frames in by_object.items()}
    every = [frame for frames in prompted.values() for frame in frames]
    first = max(0, min([at - reach, *every]))
    return FrameOrder(prompted, first, min(last, max([at + reach, *every])), asked.direction)


def _progress_value(found: TrackReading, times: Sequence[float]) -> dict[str, Any]:
    labels = {each["id"]: each["labels"] for each in found.job.request["objects"]}
    frames, absent = [], []
    for index, mask in ((index, mask) for index, masks in found.frames for mask in masks):
        about = {
            **frame_value(index, times),
            "object_id": mask.object_id,
            "labels": labels[mask.object_id],
            "score": mask.iou,
            "presence": mask.presence,
        }
        if mask.mask.area:
            frames.append({**about, **mask_value(mask.mask.unpack())})
        else:
            absent.append(about)
    failed = found.job.state is JobState.FAILED and found.done
    return {
        "frames": frames,
        "absent": absent,
        "cursor": found.cursor,
        "produced": found.produced,
        "total": found.total,
        "done": found.done,
        "state": found.job.state,
        "error": found.job.message if failed else None,
    }
