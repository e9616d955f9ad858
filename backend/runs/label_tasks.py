"""The kind of run that labels: prompts from a source, masks and tracks, one prediction a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from backend.expected import counted
from backend.labelstudio.media_refs import page_count
from backend.labelstudio.model_names import shown_version
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import prompts_from_task
from backend.labelstudio.read_results import read_results
from backend.labelstudio.video_regions import read_video_regions
from backend.runs.labeller import Labelled, Labeller
from backend.runs.prompt_sources import (
    THERE,
    Prompts,
    mark_kinds,
    own_predictions,
)
from backend.runs.run import Setting, TaskEnd
from backend.runs.run_store import RunStore, RunTask, TaskResult, TaskState
from backend.runs.storing import Storing
from backend.tracking.store import Job
from backend.tracking.track_commands import frames_asked_for

UNMARKED = "no box or click to start from: it holds "
NOT_CHOSEN = (
    "to sort the Data Manager by prediction score, choose {ours} in the project's Settings > "
    "Annotation > Prelabeling: it shows the scores of one version, and {chosen} is chosen"
)
KEPT_LOOKS = 200  # frames to look at of one task


class LabelTasks:
    """See ``TaskWork``."""

    def __init__(self, setting: Setting) -> None:
        run, parts = setting.run, setting.parts
        self._setting, self._request, self._store = setting, run.request, parts.store
        self._engine = parts.service.engine
        self._source = parts.sources[run.request.source](run.request.source_options)

    @property
    def _model(self) -> str:
        return self._engine.model_version

    def plan(self, task: ProjectTask) -> TaskEnd:
        """See ``TaskWork``. A source other than the task itself is not asked."""
        if (done := self._done_before(task)) is not None:
            return done
        found = Prompts()
        if self._request.source == THERE:
            found = self._source.begin(task, 0.0)
            if found.nothing:
                return TaskEnd(TaskState.SKIPPED, UNMARKED + found.nothing)
        kinds, result = self._extent(task, found)
        line = f"would be labelled ({' and '.join(sorted(kinds))})"
        if self._request.source == THERE:
            line += f" from {counted(len(found.marks), 'result')}"
        return TaskEnd(TaskState.PLANNED, line, found=result)

    def carry_out(self, task: ProjectTask, of_run: RunTask) -> TaskEnd:
        """See ``TaskWork``."""
        if of_run.mark is None and (done := self._done_before(task)) is not None:
            return done
        made = self._labelled(task, of_run)
        if made.nothing:
            return TaskEnd(TaskState.SKIPPED, UNMARKED + made.nothing)
        if not made.results:
            return TaskEnd(TaskState.SKIPPED, "nothing was found", found=_result(made))
        number, mark = self._storing().put(
            of_run.task,
            made.results,
            made.score,
            mark=of_run.mark,
            keep=partial(self._store.mark_task, self._setting.run.id, of_run.position),
            overwrite=self._request.overwrite,
        )
        return TaskEnd(
            *(TaskState.STORED, _stored(made), made.score, number, mark), found=_result(made)
        )

    def tidy(self) -> str:
        """See ``TaskWork``: delete what attempts without an answer have stored twice, and look
        whether the Data Manager shows the scores."""
        run_id = self._setting.run.id
        for task in self._store.doubtful(run_id):
            if task.mark is not None and task.prediction is not None:
                self._storing().delete_doubles(task.task, task.mark, task.prediction)
                mark = replace(task.mark, doubtful=False)
                self._store.mark_task(run_id, task.position, mark)
        if not self._store.counts(run_id)[TaskState.STORED]:
            return ""
        found = self._setting.parts.client.get_project(self._request.project)
        chosen, ours = str(found.get("model_version") or ""), shown_version(self._model)
        return "" if chosen == ours else NOT_CHOSEN.format(ours=ours, chosen=chosen or "no version")

    def _done_before(self, task: ProjectTask) -> TaskEnd | None:
        if self._request.overwrite or not own_predictions(task.task, self._model):
            return None
        return TaskEnd(TaskState.SKIPPED, f"has a prediction of {self._model}")

    def _labelled(self, task: ProjectTask, of_run: RunTask) -> Labelled:
        done = 0

        def progress(number: int, job: Job) -> None:
            nonlocal done
            if job.done > done:
                done = job.done
                self._setting.got_on(of_run.position)

        setting = self._setting
        labeller = Labeller(
            setting.parts.service,
            setting.project,
            self._request.command,
            self._source,
            setting.stopping,
            progress,
        )
        answers = _Answers(self._store, setting.run.id, of_run.position)
        return labeller.label(task.task, answers)

    def _storing(self) -> Storing:
        return Storing(self._setting.parts.client, self._model)

    def _extent(self, task: ProjectTask, found: Prompts) -> tuple[set[str], TaskResult]:
        """What a task has to work on: kinds of media, and how many pictures and frames."""
        config, marks = task.config, found.marks
        asks = self._request.source != THERE
        kinds = mark_kinds(marks, config)
        pictures = {
            prompt.image
            for prompt in prompts_from_task({"annotations": [{"result": marks}]}, config)
        }
        frames = 0
        for tag in config.images:
            if tag.is_sequence:
                on_tag = [mark for mark in marks if mark.get("to_name") in (tag.name, None)]
                if asks or read_results(on_tag, config).regions:
                    frames += self._asked_for(page_count(task.data, tag))
                    kinds.add("sequence")
                pictures.discard(tag.name)
            elif asks:
                pictures.add(tag.name)
                kinds.add("image")
        regions = read_video_regions(marks, config)
        for video in config.videos:
            counts = [each.frames_count for each in regions if each.to_name == video.name]
            if counts or asks:
                frames += self._asked_for(max((count or 0 for count in counts), default=0))
                kinds.add("video")
        return kinds, TaskResult(pictures=len(pictures), frames=frames)

    def _asked_for(self, count: int) -> int:
        """How many of so many pages or frames would be tracked."""
        asked = frames_asked_for(self._request.command, 1, count)
        frames = 0 if isinstance(asked, str) else asked[1] - asked[0] + 1
        return -(-frames // (self._request.stride or 1))


@dataclass(frozen=True)
class _Answers:
    """See ``labeller.Answers``."""

    store: RunStore
    run_id: str
    position: int

    def recall(self, question: str) -> Prompts | None:
        return self.store.answer(self.run_id, self.position, question)

    def remember(self, question: str, answer: Prompts) -> None:
        self.store.keep_answer(self.run_id, self.position, question, answer)


def _stored(made: Labelled) -> str:
    score = "" if made.score is None else f", score {made.score:.2f}"
    frames = len({(each.object_id, each.frame) for each in made.remarks})
    look = f", {counted(frames, 'mask deserves', 'masks deserve')} a look" if frames else ""
    return f"stored {counted(len(made.results), 'result')}{score}{look}"


def _result(made: Labelled) -> TaskResult:
    objects: dict[str, tuple[int, float, float]] = {}
    for label, worst in zip(made.labels, made.worst, strict=True):
        count, total, least = objects.get(label, (0, 0.0, 1.0))
        objects[label] = count + 1, total + worst, min(least, worst)
    looks = [(each.object_id, each.label, each.frame, each.reason) for each in made.remarks]
    more = max(0, len(looks) - KEPT_LOOKS)
    return TaskResult(objects, looks[:KEPT_LOOKS], more, left_out=made.left_out)
