"""One task labelled ahead: images segmented, sequences and videos tracked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.job_state import JobState
from backend.labelstudio.commands import ParsedCommand
from backend.labelstudio.json_values import Results
from backend.labelstudio.prompts import prompts_from_task
from backend.labelstudio.read_results import joined_labels, read_results
from backend.labelstudio.timing import page_number
from backend.labelstudio.video_regions import read_video_regions
from backend.labelstudio.write_results import with_note
from backend.predict.dispatch import Dispatcher
from backend.runs.command_line import CommandError
from backend.runs.projects import Project
from backend.runs.prompt_sources import mark_kinds, marks_of
from backend.runs.review_file import Remark
from backend.tracking.review import LOW_IOU, doubts
from backend.tracking.store import Job, Sighting
from backend.tracking.track_commands import JobRequest

SECONDS = 600.0  # for the images of one task
SHOWN_FRAMES = 50  # in the note of a video's region


class Stopped(Exception):
    """The command was stopped; what is done of the task is in the store."""


@dataclass
class Labelled:
    """What a task got.

    Attributes:
        scores: predicted IoU of the masks, 0 to 1.
    """

    results: Results = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    @property
    def score(self) -> float | None:
        """The mean; None without masks."""
        return sum(self.scores) / len(self.scores) if self.scores else None


@dataclass(frozen=True)
class Labeller:
    """Labels tasks of one project; for several threads.

    Attributes:
        parsed: direction and range, as of a ``track`` command.
        stopping: when set, tasks under way raise ``Stopped``.
        progress: called with a task's number and its job, at least once a second.
    """

    service: Dispatcher
    project: Project
    parsed: ParsedCommand
    stopping: threading.Event
    progress: Callable[[int, Job], None]

    def label(self, task: Mapping[str, Any]) -> Labelled | None:
        """Do all that the task's marks ask for; None where nothing is marked.

        Raises:
            Stopped: as above.
            ExpectedError: why it cannot be done.
        """
        marks = marks_of(task, self.service.engine.model_version)
        kinds = mark_kinds(marks, self.project.config)
        if not kinds:
            return None
        plain = {"id": task["id"], "data": task.get("data"), "annotations": [{"result": marks}]}
        made = Labelled()
        regions = read_video_regions(marks, self.project.config)
        marked = {region.to_name for region in regions}
        for tag in self.project.config.videos:
            if tag.name in marked:
                self._video(plain, tag.name, marks, made)
        if kinds & {"image", "sequence"}:
            self._pictures(plain, marks, made)
        return made

    def _pictures(self, task: Mapping[str, Any], marks: Results, made: Labelled) -> None:
        """Masks for boxes and clicks on images, and for all pages of sequences."""
        config = self.project.config
        sequences = {tag.name for tag in config.images if tag.is_sequence}
        elsewhere = {*sequences, None} if sequences else set()
        single = [mark for mark in marks if mark.get("to_name") not in elsewhere]
        alone = {**task, "annotations": [{"result": single}]}
        prompts = prompts_from_task(alone, config)
        whole = self.project.with_task(alone)
        found = self.service.retrieval.predict(whole, prompts, time.monotonic() + SECONDS)
        if found.errors:
            raise found.errors[0]
        for result in found.prediction["result"] if found.prediction else ():
            score = float(result.get("score", 1.0))
            made.results.append(result)
            made.scores.append(score)
            if score < LOW_IOU:
                _note(result, "unsure")
                label = joined_labels(result["value"].get(result["type"], ()))
                made.remarks.append(Remark(result["id"], label, None, "unsure"))
        for tag in config.images:
            on_tag = [mark for mark in marks if mark.get("to_name") in (tag.name, None)]
            if tag.is_sequence and read_results(on_tag, config).regions:
                self._sequence(task, tag.name, on_tag, made)

    def _sequence(
        self, task: Mapping[str, Any], image: str, marks: Results, made: Labelled
    ) -> None:
        whole = self.project.with_task(_without_people(task))
        sequence = self.service.tracking.sequences.sequence(whole, image)
        planned = self.service.tracking.sequences.plan(sequence, self.parsed, marks)
        job = self._run(task, planned)
        outcome, _ = self.service.tracking.outcome(job)
        names, sent = _objects(job), sequence.sent_ids()
        regions: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for item in outcome:
            owner = sent.get(item["id"])
            if owner is not None and owner[0] not in names:
                continue  # an object of an earlier job
            made.results.append(item)
            if owner is not None:
                regions.setdefault(owner[:2], []).append(item)
        masks = self._sightings(job)
        for doubt in doubts(masks):
            label = joined_labels(sequence.known[doubt.object_id].labels)
            made.remarks.append(
                Remark(doubt.object_id, label, page_number(doubt.frame), doubt.reason)
            )
            for item in regions.get((doubt.object_id, doubt.frame), ()):
                _note(item, doubt.reason)
        made.scores += [each.iou for each in masks if each.area]

    def _video(self, task: Mapping[str, Any], name: str, marks: Results, made: Labelled) -> None:
        videos = self.service.tracking.videos
        whole = self.project.with_task(_without_people(task))
        job = self._run(task, videos.plan(whole, self.parsed, marks, name))
        every = read_video_regions(marks, self.project.config)
        regions = [region for region in every if region.to_name == name]
        timeline = videos.clip(whole, name, regions).timeline
        results, _ = self.service.tracking.outcome(job)
        labels = {region.id: joined_labels(region.labels) for region in regions}
        notes: dict[str, list[str]] = {}
        masks = self._sightings(job)
        for doubt in doubts(masks):
            frame = timeline.editor_frame(doubt.frame)
            label = labels.get(doubt.object_id, "")
            made.remarks.append(Remark(doubt.object_id, label, frame, doubt.reason))
            notes.setdefault(doubt.object_id, []).append(f"{frame} ({doubt.reason})")
        for item in results:
            if item["id"] in notes and item.get("type") == "videorectangle":
                _note(item, ", ".join(notes[item["id"]][:SHOWN_FRAMES]))
        made.results += results
        made.scores += [each.iou for each in masks if each.area]

    def _run(self, task: Mapping[str, Any], planned: tuple[str, JobRequest] | str) -> Job:
        """The job when it has ended; it goes on where an earlier run was stopped."""
        if isinstance(planned, str):
            raise CommandError(planned)
        jobs = self.service.tracking.jobs
        job = jobs.submit(*planned)
        while not job.state.ended:
            if self.stopping.is_set():
                raise Stopped
            job = jobs.wait(job.id, 1.0)
            self.progress(int(task["id"]), job)
        if job.state is not JobState.DONE:
            raise CommandError(job.message or "the track was cancelled")
        return job

    def _sightings(self, job: Job) -> list[Sighting]:
        """What was found of the objects that the job is about."""
        every, names = self.service.tracking.store.sightings(job.track), _objects(job)
        return [each for each in every if each.object_id in names]


def _objects(job: Job) -> set[str]:
    return {each["id"] for each in job.request["objects"]}


def _note(result: dict[str, Any], reason: str) -> None:
    result.update(with_note(result, f"look here: {reason}"))


def _without_people(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """A task whose tracks are nobody's: a run goes on with its own, and with no annotator's."""
    return {name: task[name] for name in task if name not in ("drafts", "annotations")}
