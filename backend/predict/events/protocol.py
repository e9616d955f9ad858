"""One request of the protocol, one reply."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.engine.engine import Engine, Segment
from backend.engine.pixel_prompts import pixel_prompt
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.job_state import JobState
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.tags import ImageTag
from backend.pixels.recipes import ImageSource, TaskPictures
from backend.predict.click import OnlyBackground, Request
from backend.predict.events.ask import Ask, Event, read_ask
from backend.predict.events.event_prompts import Prompted, PromptList, read_prompts
from backend.predict.events.messages import (
    Item,
    Target,
    capabilities,
    find_target,
    item,
    picture,
    place,
)
from backend.predict.events.open_videos import Clips, OpenClip
from backend.predict.events.order import Order
from backend.predict.events.prewarm import Prewarmer, remember
from backend.predict.events.sessions import NoSession, Progress, Tracks, track_request
from backend.tracking.spans import Direction
from backend.tracking.store import TrackedMask
from backend.tracking.tracking import Tracking

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0  # how often idle videos and abandoned tracks are looked for


class Nothing(ExpectedError):
    """There is nothing to answer with; the message is one line."""


@dataclass(frozen=True)
class EventAnswer:
    """Items for the editor; ``error`` says why there is less than was asked for."""

    items: list[Item]
    outcome: str = "ok"
    error: str | None = None


@dataclass(frozen=True)
class _Call:
    """A request as the handlers get it."""

    request: Request
    context: Mapping[str, object]
    ask: Ask
    target: Target
    deadline: float

    @property
    def task(self) -> tuple[str, str]:
        """Whose request it is."""
        return self.request.project, self.request.task_id


class VideoProtocol:
    """Answers the events of ``ask.Event``.

    Args:
        budget_seconds: longest wait of a request for a frame or a mask.
        clock: seconds that only grow, for what idles.
    """

    def __init__(
        self,
        engine: Engine,
        images: TaskPictures,
        tracking: Tracking,
        *,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._images = images
        self._budget = budget_seconds
        self.clips = Clips(images, clock=clock)
        self._prewarmer = Prewarmer(engine, self.clips)
        self.tracks = Tracks(tracking.store, tracking.jobs, images, self.clips, clock=clock)
        tracking.add_kind(self.tracks)
        self._stopping = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="sweep", daemon=True)
        self._sweeper.start()

    def capabilities(self) -> EventAnswer:
        """The answer to ``capabilities``, which needs neither task nor label config."""
        return EventAnswer([capabilities(self._engine.model_version)])

    def answer(self, event: Event, request: Request, context: Mapping[str, object]) -> EventAnswer:
        """The answer to any event; never raises, whatever the request holds."""
        call = self._call(request, context)
        handlers: dict[Event, Callable[[_Call], EventAnswer]] = {
            Event.CAPABILITIES: lambda call: self.capabilities(),
            Event.PREWARM: self._prewarm,
            Event.PREDICT: self._predict,
            Event.TRACK: self._track,
            Event.TRACK_PROGRESS: self._progress,
            Event.TRACK_CANCEL: self._cancel,
            Event.RELEASE: self._release,
        }
        try:
            if not call.target.to_name and event in (Event.PREWARM, Event.PREDICT, Event.TRACK):
                raise Nothing("the label config has no tag that takes masks or boxes")
            return handlers[event](call)
        except ExpectedError as error:
            logger.warning("task %s: %s: %s", request.task_id, event, error)
            return self._failed(event, call, str(error))
        except Exception:  # request boundary: the editor would hide a 500
            logger.exception("task %s: %s could not be answered", request.task_id, event)
            text = "the backend failed on this request; its log says why"
            return self._failed(event, call, text)

    def answer_busy(
        self, event: Event, request: Request, context: Mapping[str, object], text: str
    ) -> EventAnswer:
        """The answer where the service has no place for a request; light events need none."""
        if event in (Event.TRACK_CANCEL, Event.RELEASE):
            return self.answer(event, request, context)
        call = self._call(request, context)
        if event is Event.TRACK_PROGRESS:  # the track goes on, and so shall the editor
            value = {"frames": [], "done": False, "error": None}
            return EventAnswer([item("track_progress", call.target, value)], "busy")
        return self._failed(event, call, text)

    def close(self) -> None:
        """Stop background work; tracks go on at the next start."""
        self._stopping.set()
        self._prewarmer.close()
        self.clips.close()

    def _failed(self, event: Event, call: _Call, text: str) -> EventAnswer:
        """Events that only acknowledge do so with the reason in it, as the editor expects one."""
        items: list[Item] = []
        value: dict[str, Any]
        if event is Event.PREWARM:
            value = {"status": "error", "cached": [], "pending": [], "error": text}
            items = [item("prewarm_ack", call.target, value)]
        elif event is Event.TRACK_PROGRESS:
            value = {"frames": [], "done": True, "error": text}
            items = [item("track_progress", call.target, value)]
        return EventAnswer(items, "error", text)

    # Events.

    def _prewarm(self, call: _Call) -> EventAnswer:
        if not call.target.is_video:
            return self._prewarm_picture(call)
        ask = call.ask
        with self._clip(call) as clip:
            at, count = clip.index(ask.where), len(clip.frames)
            if ask.direction is Direction.BACK:
                frames = range(at, max(-1, at - ask.window - 1), -1)
            else:
                frames = range(at, min(count, at + ask.window + 1))
            cached, pending = self._prewarmer.ask(clip, frames)
        value = {"status": "ok", "cached": cached, "pending": pending, "frame_count": count}
        return EventAnswer([item("prewarm_ack", call.target, value)])

    def _prewarm_picture(self, call: _Call) -> EventAnswer:
        """A picture is encoded when its task is opened; there is nothing more to do ahead."""
        value = {"status": "ok", "cached": [0], "pending": [], "frame_count": 1}
        return EventAnswer([item("prewarm_ack", call.target, value)])

    def _predict(self, call: _Call) -> EventAnswer:
        prompts = self._prompts(call)
        if not call.target.is_video:
            tag = call.request.config.image(call.target.to_name) or ImageTag("")
            source = self._images.source(call.request.task, tag, None, call.deadline)
            found = [self._segment(call, source, each) for each in prompts.prompts]
            return _masks(
                call, prompts, [(each, found[i], {}) for i, each in enumerate(prompts.prompts)]
            )
        masks = []
        with self._clip(call) as clip:
            for each in prompts.prompts:
                index = clip.index(each.where if each.where.is_given else call.ask.where)
                segment = self._segment(call, clip.source(index), each)
                remember(clip, index)
                masks.append((each, segment, place(index, clip.timeline.times)))
        return _masks(call, prompts, masks)

    def _track(self, call: _Call) -> EventAnswer:
        if not call.target.is_video:
            raise Nothing("there is nothing to track on a single picture")
        prompts = self._prompts(call)
        with self._clip(call) as clip:
            by_object = _by_object(prompts, clip, call.ask)
            order = _order(by_object, clip, call.ask)
            value = {"total_frames": len(order), "fps": clip.framerate}
            value["duration_ms"] = clip.seconds * 1000
        request = track_request(
            call.task,
            call.request.task,
            call.request.label_config,
            call.target.to_name,
            by_object,
            order,
        )
        job = self.tracks.start(call.task, request)
        started = {"session_id": job.id, **value, "objects": list(by_object)}
        return EventAnswer(
            [item("track_started", call.target, started)], error=_passed_over(prompts)
        )

    def _progress(self, call: _Call) -> EventAnswer:
        try:
            found = self.tracks.read(call.task, call.ask.session, call.ask.cursor)
        except NoSession:
            value = {"frames": [], "done": True, "error": "session not found"}
            return EventAnswer([item("track_progress", call.target, value)], "unknown")
        times: Any = ()
        if found.frames:
            with self._clip(call) as clip:
                times = clip.timeline.times
        return EventAnswer([item("track_progress", call.target, _progress_value(found, times))])

    def _cancel(self, call: _Call) -> EventAnswer:
        outcome = "ok"
        try:
            self.tracks.cancel(call.task, call.ask.session)
        except NoSession:
            outcome = "unknown"  # whatever it was, nothing runs for it
        return EventAnswer(
            [item("track_cancel_ack", call.target, {"status": "cancelled"})], outcome
        )

    def _release(self, call: _Call) -> EventAnswer:
        self.tracks.release(call.task, call.ask.session)
        if not call.ask.session:
            self.clips.release(call.task)
        return EventAnswer([item("release_ack", call.target, {"status": "released"})])

    # Parts of them.

    def _call(self, request: Request, context: Mapping[str, object]) -> _Call:
        target = find_target(request.config) or Target()
        deadline = time.monotonic() + self._budget
        return _Call(request, context, read_ask(context), target, deadline)

    def _clip(self, call: _Call) -> Any:
        """The call's video, for a ``with`` statement."""
        request = call.request
        return self.clips.use(
            call.task, request.task, request.config, call.target.to_name, call.deadline
        )

    def _prompts(self, call: _Call) -> PromptList:
        """The prompts of a request, each of which says where its object is.

        Raises:
            TooMany, Nothing, OnlyBackground: see there.
        """
        prompts = read_prompts(call.context, call.target.to_name)
        if not prompts.prompts:
            raise Nothing("; ".join(["no prompt: give points or a box", *prompts.ignored[:3]]))
        lost = [each.object_id for each in prompts.prompts if not each.prompt.has_positive]
        if lost:
            raise OnlyBackground(
                f"{', '.join(lost)}: every click is on the background; click on the object first"
            )
        return prompts

    def _segment(self, call: _Call, source: ImageSource, prompted: Prompted) -> Segment:
        image = self._engine.embed(source, Priority.CLICK, call.deadline - time.monotonic())
        pixels = pixel_prompt(prompted.prompt, image.width, image.height)
        timeout = call.deadline - time.monotonic()
        [segment] = self._engine.segment(image, [pixels], Priority.CLICK, timeout)
        return segment

    def expire(self) -> None:
        """Close idle videos, cancel and forget abandoned tracks; done regularly by itself."""
        self.clips.expire()
        self.tracks.expire()

    def _sweep(self) -> None:
        while not self._stopping.wait(SWEEP_SECONDS):
            try:
                self.expire()
            except Exception:  # thread boundary: the next sweep tries again
                logger.exception("idle videos and tracks could not be cleared away")


def _masks(
    call: _Call, prompts: PromptList, found: list[tuple[Prompted, Segment, dict[str, Any]]]
) -> EventAnswer:
    items = []
    empty = []
    for prompted, segment, frame in found:
        if not segment.mask.any():
            empty.append(f"no object there ({prompted.object_id}); try another spot or a box")
            continue
        value = {**picture(segment.mask), **frame, "object_id": prompted.object_id}
        if prompted.prompt.labels:
            value["labels"] = list(prompted.prompt.labels)
        items.append(item("bitmask", call.target, value, score=segment.score))
    reasons = "; ".join([*empty, *prompts.ignored[:3]]) or None
    return EventAnswer(items, "ok" if items else "error", reasons)


def _passed_over(prompts: PromptList) -> str | None:
    return "; ".join(prompts.ignored[:3]) or None


def _by_object(prompts: PromptList, clip: OpenClip, ask: Ask) -> dict[str, dict[int, ObjectPrompt]]:
    """Prompts by object and frame of the file; those of one object that fall on one frame under
    two names work together."""
    found: dict[str, dict[int, ObjectPrompt]] = {}
    for each in prompts.prompts:
        frames = found.setdefault(each.object_id, {})
        index = clip.index(each.where if each.where.is_given else ask.where)
        known = frames.get(index)
        if known is None:
            frames[index] = each.prompt
        else:
            box = each.prompt.box if each.prompt.box is not None else known.box
            frames[index] = replace(known, points=known.points + each.prompt.points, box=box)
    return found


def _order(by_object: Mapping[str, Mapping[int, Any]], clip: OpenClip, ask: Ask) -> Order:
    """How far a track goes: from the frame on screen as far as was asked for, and over every
    prompted frame."""
    at, last = clip.index(ask.where), len(clip.frames) - 1
    reach = ask.max_frames
    if ask.max_seconds is not None:
        reach = round(ask.max_seconds * clip.framerate)
    reach = last if reach is None else min(reach, last)
    prompted = {name: sorted(frames) for name, frames in by_object.items()}
    every = [frame for frames in prompted.values() for frame in frames]
    first = max(0, min([at - reach, *every]))
    return Order(prompted, first, min(last, max([at + reach, *every])), ask.direction)


def _progress_value(found: Progress, times: Any) -> dict[str, Any]:
    frames, absent = [], []
    for index, mask in _each(found):
        about = {
            **place(index, times),
            "object_id": mask.object_id,
            "labels": list(found.labels[mask.object_id]),
            "score": mask.iou,
            "presence": mask.presence,
        }
        if mask.mask.any():
            frames.append({**about, **picture(mask.mask)})
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


def _each(found: Progress) -> Iterator[tuple[int, TrackedMask]]:
    for frame, masks in found.frames:
        for mask in masks:
            yield frame, mask
