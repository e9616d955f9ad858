"""One task labelled ahead: images segmented, sequences and videos tracked."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from backend.expected import ExpectedError
from backend.job_state import JobState
from backend.labelstudio.commands import ParsedCommand
from backend.labelstudio.json_values import Result, Results
from backend.labelstudio.prompts import prompts_from_task
from backend.labelstudio.read_results import joined_labels, read_results
from backend.labelstudio.timing import Timeline, page_index, page_number
from backend.labelstudio.video_regions import VideoRegion, read_video_regions
from backend.labelstudio.write_results import with_note
from backend.predict.dispatch import Dispatcher
from backend.runs.projects import Project
from backend.runs.prompt_sources import Place, Prompts, PromptSource
from backend.runs.review_file import Remark
from backend.threads.caller import caller
from backend.tracking.review import LOW_SCORE, doubts
from backend.tracking.store import Job, Sighting
from backend.tracking.track_commands import JobRequest, frames_asked_for

SECONDS = 600.0  # for the images of one task
VIDEO_SECONDS = 1800.0  # for the index of one video
SHOWN_FRAMES = 50  # in the note of a video's region


class Stopped(Exception):
    """The run was stopped; what is done of the task is in the store."""


class TrackFailed(ExpectedError):
    """A track of the task ended before its time; ``str()`` says why."""


class NothingToTrack(ExpectedError):
    """The marks of the task, and what the run asks for, leave no frame to track; ``str()`` says
    why."""


class Answers(Protocol):
    """What a source answered about a task: it is asked once, whatever ends the process."""

    def recall(self, question: str) -> Prompts | None:
        """What it answered, if it was asked."""

    def remember(self, question: str, answer: Prompts) -> None:
        """Keep an answer."""


@dataclass
class Labelled:
    """What a task got.

    Attributes:
        worst: per object, the predicted IoU (0 to 1) of its worst page, or second of a video.
        labels: per object, its label.
        nothing: why there was nothing to start from.
        left_out: what the source found and left out, in words.
    """

    results: Results = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    nothing: str = ""
    left_out: Sequence[str] = ()

    @property
    def score(self) -> float | None:
        """That of the worst stretch; None without masks."""
        return min(self.worst, default=None)

    def add_object(self, label: str, worst: float) -> None:
        self.labels.append(label)
        self.worst.append(worst)

    def add_mask(self, result: Result) -> None:
        """A mask on a picture, finished."""
        score = float(result.get("score", 1.0))
        kind = str(result.get("type", ""))
        label = joined_labels(result["value"].get(kind, ()))
        made = dict(result)
        if score < LOW_SCORE:
            _note(made, "unsure")
            self.remarks.append(Remark(str(made["id"]), label, None, "unsure"))
        self.results.append(made)
        self.add_object(label, score)


@dataclass(frozen=True)
class Labeller:
    """Labels tasks of one project; for several threads.

    Attributes:
        parsed: direction, range and stride, as of a ``track`` command.
        stopping: when set, tasks under way raise ``Stopped``.
        progress: called with a task's number and its job, at least once a second.
    """

    service: Dispatcher
    project: Project
    parsed: ParsedCommand
    source: PromptSource
    stopping: Callable[[], bool]
    progress: Callable[[int, Job], None]

    def label(self, task: Mapping[str, Any], answers: Answers) -> Labelled:
        """Do all that the prompts for a task ask for.

        Raises:
            Stopped: as above.
            SourceUnavailable, ExpectedError: why it cannot be done.
        """
        config, every = self.project.config, self.source.every
        whole = self.project.with_task(task)
        found = _asked_once(
            answers, "begin", lambda: self.source.begin(whole, time.monotonic() + SECONDS)
        )
        if self.stopping():
            raise Stopped  # before the model is asked; what the source answered is kept
        work = _Task(self, task, answers, Labelled(nothing=found.nothing, left_out=found.left_out))
        for result in found.finished:
            work.made.add_mask(result)
        marked = {region.to_name for region in read_video_regions(found.marks, config)}
        for video in config.videos:
            if every is not None or video.name in marked:
                work.video(video.name, [*found.marks])
        work.pictures(found.marks)
        for tag in config.images:
            on_tag = [mark for mark in found.marks if mark.get("to_name") in (tag.name, None)]
            if tag.is_sequence and (every is not None or read_results(on_tag, config).regions):
                work.sequence(tag.name, on_tag)
        return work.made


class _Task:
    """A task under way."""

    def __init__(
        self, labeller: Labeller, task: Mapping[str, Any], answers: Answers, made: Labelled
    ) -> None:
        self.made = made
        self._labeller, self._task, self._answers = labeller, task, answers
        self._tracking = labeller.service.tracking
        self._whole = labeller.project.with_task(_without_people(task))

    def pictures(self, marks: Results) -> None:
        """Masks for boxes and clicks on images that are no sequences."""
        project = self._labeller.project
        sequences = {tag.name for tag in project.config.images if tag.is_sequence}
        elsewhere = {*sequences, None} if sequences else set()
        single = [mark for mark in marks if mark.get("to_name") not in elsewhere]
        alone = {"id": self._task["id"], "data": self._task.get("data")}
        alone["annotations"] = [{"result": single}]
        prompts = prompts_from_task(alone, project.config)
        if not prompts:
            return
        deadline = time.monotonic() + SECONDS
        found = self._labeller.service.retrieval.predict(
            project.with_task(alone), prompts, deadline
        )
        if found.errors:
            raise found.errors[0]
        for result in found.prediction["result"] if found.prediction else ():
            self.made.add_mask(result)

    def sequence(self, image: str, marks: Results) -> None:
        """Masks on all pages that are asked for."""
        commands, parsed = self._tracking.sequences, self._labeller.parsed
        found: Results = []

        def track(new: Results) -> Job:
            found.extend(new)
            alone = {str(mark["id"]) for mark in found}
            sequence = commands.sequence(self._whole, image, alone=alone)
            return self._run(commands.plan(sequence, parsed, [*marks, *found]))

        sequence = commands.sequence(self._whole, image)
        job = self._look_through(image, (1, sequence.pages), page_index, track)
        if job is None and marks:
            job = track([])
        if job is None:
            return
        sequence = commands.sequence(self._whole, image, track=job.track)
        outcome, _ = self._tracking.outcome(job)
        names, sent = _objects(job), sequence.sent_ids()
        regions: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for item in outcome:
            owner = sent.get(item["id"])
            if owner is not None and owner[0] not in names:
                continue  # an object of an earlier job
            self.made.results.append(item)
            if owner is not None:
                regions.setdefault(owner[:2], []).append(item)
        labels = {name: joined_labels(sequence.known[name].labels) for name in names}
        for doubt in self._note_doubts(job, labels, page_number, stretch=1):
            for item in regions.get((doubt[0], doubt[1]), ()):
                _note(item, doubt[2])

    def video(self, name: str, marks: Results) -> None:
        """Boxes on all frames that are asked for."""
        videos, config = self._tracking.videos, self._labeller.project.config
        every = [*marks]

        def regions() -> list[VideoRegion]:
            return [each for each in read_video_regions(every, config) if each.to_name == name]

        def track(new: Results) -> Job:
            every.extend(new)
            return self._run(videos.plan(self._whole, self._labeller.parsed, every, name))

        clip = videos.clip(self._whole, name, regions(), seconds=VIDEO_SECONDS)
        timeline = clip.timeline
        job = self._look_through(name, (1, timeline.frames_count), timeline.file_frame, track)
        if job is None and regions():
            job = track([])
        if job is None:
            return
        results, _ = self._tracking.outcome(job)
        labels = {region.id: joined_labels(region.labels) for region in regions()}
        notes: dict[str, list[str]] = {}
        doubtful = self._note_doubts(job, labels, timeline.editor_frame, stretch=_second(timeline))
        for object_id, frame, reason in doubtful:
            notes.setdefault(object_id, []).append(f"{timeline.editor_frame(frame)} ({reason})")
        for item in results:
            if item["id"] in notes and item.get("type") == "videorectangle":
                _note(item, ", ".join(notes[item["id"]][:SHOWN_FRAMES]))
        self.made.results += results

    def _look_through(
        self,
        tag: str,
        numbers: tuple[int, int],
        stored_as: Callable[[int], int],
        track: Callable[[Results], Job],
    ) -> Job | None:
        """Ask the source on every n-th page or frame for what is not tracked yet, and track that
        before it is asked on; those found before are in the store, so a job tracks what is new.

        Args:
            numbers: of the first and the last one, as the editor counts.
            stored_as: under which number the store has a page or frame.

        Returns:
            The last job; None where nothing was found.
        """
        source, every = self._labeller.source, self._labeller.source.every
        if every is None:
            return None
        asked = frames_asked_for(self._labeller.parsed, *numbers)
        if isinstance(asked, str):
            raise NothingToTrack(asked)
        whole = self._labeller.project.with_task(self._task)
        job: Job | None = None
        tracked: defaultdict[int, list[Sighting]] = defaultdict(list)
        for number in range(asked[0], asked[1] + 1, every):
            if self._labeller.stopping():
                raise Stopped
            place, seen = Place(tag, number), tracked.get(stored_as(number), [])
            ask = partial(source.look, whole, place, seen, time.monotonic() + SECONDS)
            found = _asked_once(self._answers, f"{tag} {number}", ask)
            if found.marks:
                job = track(found.marks)
                tracked.clear()
                for each in self._sightings(job):
                    if each.area:
                        tracked[each.frame].append(each)
        return job

    def _run(self, planned: tuple[str, JobRequest] | str) -> Job:
        """The job when it has ended; it goes on where an earlier run was stopped."""
        if isinstance(planned, str):
            raise NothingToTrack(planned)
        jobs, (track, request) = self._tracking.jobs, planned
        job = jobs.submit(track, {**request, "run": caller().run})
        while not job.state.ended:
            if self._labeller.stopping():
                jobs.cancel(job.id)
                raise Stopped
            job = jobs.wait(job.id, 1.0)
            self._labeller.progress(int(self._task["id"]), job)
        if self._labeller.stopping():
            raise Stopped
        if job.state is not JobState.DONE:
            raise TrackFailed(job.message or "the track was cancelled")
        return job

    def _note_doubts(
        self,
        job: Job,
        labels: Mapping[str, str],
        shown_as: Callable[[int], int],
        *,
        stretch: int,
    ) -> list[tuple[str, int, str]]:
        """Note the objects of a job with their worst stretches, and the frames to look at; returns
        these: object, frame as it is stored, reason."""
        masks = self._sightings(job)
        by_object: defaultdict[str, list[Sighting]] = defaultdict(list)
        for each in masks:
            by_object[each.object_id].append(each)
        for name, of_object in by_object.items():
            worst = worst_stretch(of_object, stretch)
            if worst is not None:
                self.made.add_object(labels.get(name, ""), worst)
        found = doubts(masks)
        for doubt in found:
            label = labels.get(doubt.object_id, "")
            shown = shown_as(doubt.frame)
            self.made.remarks.append(Remark(doubt.object_id, label, shown, doubt.reason))
        return [(doubt.object_id, doubt.frame, doubt.reason) for doubt in found]

    def _sightings(self, job: Job) -> list[Sighting]:
        """What was found of the objects that the job is about."""
        every, names = self._tracking.store.sightings(job.track), _objects(job)
        return [each for each in every if each.object_id in names]


def worst_stretch(masks: Sequence[Sighting], frames: int) -> float | None:
    """The lowest mean of the predicted IoU over so many frames in a row, of one object in the order
    of its frames; those on which it is absent do not count. None where it is on no frame."""
    present = [(each.frame, each.iou) for each in masks if each.area]
    worst: float | None = None
    stretch: deque[tuple[int, float]] = deque()
    for number, (frame, iou) in enumerate(present):
        stretch.append((frame, iou))
        while stretch[0][0] <= frame - frames:
            stretch.popleft()
        is_whole = frame - stretch[0][0] == frames - 1
        is_last = number + 1 == len(present) or present[number + 1][0] != frame + 1
        if is_whole or is_last:
            mean = sum(each for _, each in stretch) / len(stretch)
            worst = mean if worst is None else min(worst, mean)
    return worst


def _second(timeline: Timeline) -> int:
    """How many frames of the file a second has."""
    times = timeline.times
    span = times[-1] - times[0]
    return max(1, round((len(times) - 1) / span)) if span > 0 else 1


def _asked_once(answers: Answers, question: str, ask: Callable[[], Prompts]) -> Prompts:
    known = answers.recall(question)
    if known is None:
        known = ask()
        answers.remember(question, known)
    return known


def _objects(job: Job) -> set[str]:
    return {each["id"] for each in job.request["objects"]}


def _note(result: dict[str, Any], reason: str) -> None:
    result.update(with_note(result, f"look here: {reason}"))


def _without_people(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """A task whose tracks are nobody's: a run goes on with its own, and with no annotator's."""
    return {name: task[name] for name in task if name not in ("drafts", "annotations")}
