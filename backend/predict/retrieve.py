"""Requests without a context: a page that opens a task, and "Retrieve predictions".

Both ask "what do you predict for these tasks?" and look alike on the wire. Label Studio
1.23 asks on opening only for a single task that has no prediction yet
(``label_studio/tasks/api.py``, ``TaskAPI.get``), so several tasks, or one that has
predictions, are certainly a retrieval and get its whole time budget; what is done by then is
the reply, with a sentence that says what is left out. A single task without predictions may be
a page that waits: it gets ``open_seconds``; what is not done by then goes on in the background
and is there when Label Studio asks again.

Reading what a task holds is part of the work: of a large task it takes longer than a page waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any, Protocol

from backend.engine.engine import Answer
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError, counted
from backend.job_state import JobState
from backend.labelstudio.json_values import Results
from backend.labelstudio.model_names import shown_version
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, task_prompts
from backend.labelstudio.read_results import newest_results
from backend.labelstudio.write_results import region_id, status_results
from backend.predict.segment import Segmenter
from backend.recent_values import Recent
from backend.threads.caller import caller, reply_by
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy
from backend.tracking.store import Job
from backend.tracking.tracking import Tracking

NEXT = 2  # encoded ahead
_ASKED_SECONDS = 60.0  # within which opening a task again asks nobody
_KEPT = 1000


class TaskLister(Protocol):
    """As much of ``LabelStudioClient`` as this module uses."""

    def tasks_after(self, project: int, task: int, count: int) -> list[dict[str, Any]]: ...


class NextTasks:
    """Asks Label Studio, at most once a minute for each task."""

    def __init__(self, label_studio: TaskLister) -> None:
        self._label_studio = label_studio
        self._asked: Recent[bool] = Recent(entries=_KEPT, seconds=_ASKED_SECONDS)

    def after(self, task: ProjectTask) -> list[ProjectTask]:
        """The tasks that are likely to be opened next; none where that cannot be told.

        Raises:
            LabelStudioError: it does not say.
        """
        project, _, created = task.project.partition(".")
        number = task.task.get("id")
        known = task.project, number
        if not (project.isdecimal() and created) or type(number) is not int:
            return []
        if self._asked.get(known):
            return []
        self._asked.put(known, True)
        found = self._label_studio.tasks_after(int(project), number, NEXT)
        return [
            ProjectTask(task.project, each, task.label_config, task.config)
            for each in found
            if isinstance(each.get("data"), dict)
        ]


logger = logging.getLogger(__name__)

Prediction = dict[str, Any]
Scored = tuple[Results, list[float]]
"""Results, and the scores of the masks that they are from."""

PREFETCH_SECONDS = 120.0
MAX_PREFETCHES = 8
WORTH_WAITING = 2  # videos of one request
PROMPTS_AT_ONCE = 64  # what is done of a page is known after so many
MANY_REASONS = 3  # in one text


@dataclass
class Progress:
    """What has come of a task so far: the thread that works on it writes, that which replies reads.

    Attributes:
        prompts, done: how many there are, and how many were looked at.
        errors: why there is less than was asked for.
        ignored: what the task holds that cannot be used.
    """

    prompts: int = 0
    done: int = 0
    made: list[Scored] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    ignored: Sequence[str] = ()

    @property
    def left_out(self) -> str | None:
        """A line that says what is left out; None where nothing is."""
        reasons = [*dict.fromkeys(str(e) for e in self.errors if isinstance(e, ExpectedError))]
        reasons += self.ignored
        if self.done < self.prompts:
            left = self.prompts - self.done
            reasons.insert(0, f"{left} of {counted(self.prompts, 'prompt')} had no time")
        return "; ".join(["left out", *reasons[:MANY_REASONS]]) if reasons else None


@dataclass(frozen=True)
class Found:
    """What came of a task.

    Attributes:
        prediction: as Label Studio takes it; None where there is nothing.
        errors: of the pages that could not be predicted.
        jobs: the tracks that the prediction is from.
    """

    prediction: Prediction | None = None
    errors: Sequence[Exception] = ()
    jobs: Sequence[Job] = ()


class Retrieval:
    """Predictions for whole tasks, and encoding ahead of the first click.

    Args:
        model_version: of the model that answers now.
        open_seconds: longest wait of a page that opens a task.
        retrieve_seconds: longest wait of "Retrieve predictions".
        next_tasks: says which tasks are opened next; None to encode only those that are.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        tracking: Tracking,
        *,
        model_version: Callable[[], str],
        open_seconds: float,
        retrieve_seconds: float,
        next_tasks: NextTasks | None = None,
    ) -> None:
        self._segmenter = segmenter
        self._tracking = tracking
        self._version = model_version
        self._open_seconds = open_seconds
        self._retrieve_seconds = retrieve_seconds
        self._next_tasks = next_tasks
        self._pool = FairPool(4, "retrieve")
        # Of their own: encoding ahead waits for everything else, and must let nobody wait for it.
        self._ahead = FairPool(4, "ahead", capacity=MAX_PREFETCHES)

    def reply(self, tasks: Sequence[ProjectTask]) -> tuple[list[Any], str]:
        """One entry per task, in order: a prediction, or an empty list where there is none; and
        what the request is, "open" or "retrieve".

        An empty list stores nothing in Label Studio; an empty prediction would be shown. Boxes on
        videos are tracked only where the request is certainly a retrieval; a track that takes
        longer than the request is stored as a prediction when it is done.
        """
        retrieval = len(tasks) > 1 or any(task.task.get("predictions") for task in tasks)
        kind = "retrieve" if retrieval else "open"
        if retrieval and tasks[0].config.video_rectangles:
            return self._track_all(tasks), kind
        deadline = reply_by(self._retrieve_seconds)
        progress = {number: Progress() for number in range(len(tasks))}
        asked = {}
        for number, task in enumerate(tasks):
            if any(newest_results(task.task, kind) for kind in ("annotations", "predictions")):
                find = partial(self._find, task, deadline, progress[number], retrieval)
                asked[number] = self._submit(task, find)
            elif not retrieval:
                self._prefetch(task)
        seconds = self._retrieve_seconds if retrieval else self._open_seconds
        results, late = _in_time(asked, len(tasks), seconds)
        for number, each in asked.items():
            if each in late and not each.cancel() and retrieval:
                logger.warning("task %s: %s", tasks[number].task_id, progress[number].left_out)
                results[number] = self._told(tasks[number], progress[number]) or []
        return results, kind

    def predict(
        self,
        task: ProjectTask,
        prompts: Sequence[ObjectPrompt],
        deadline: float,
        progress: Progress | None = None,
    ) -> Found:
        """Masks for ``prompts``, page by page; a page that fails spoils no other.

        Args:
            deadline: on ``time.monotonic``; what is not done by then is left out.
            progress: what to note there how far it is.
        """
        progress = progress or Progress()
        progress.prompts = len(prompts)
        for _, on_page in groupby(sorted(prompts, key=_page), key=_page):
            page = list(on_page)
            for start in range(0, len(page), PROMPTS_AT_ONCE):
                if time.monotonic() > deadline:
                    return Found(self._prediction(progress.made), _reasons(progress))
                part = page[start : start + PROMPTS_AT_ONCE]
                try:
                    self._predict_part(task, part, deadline, progress)
                except Exception as error:  # noqa: BLE001 - logged or raised by whoever asked
                    progress.errors.append(error)
                    progress.done += len(page) - start
                    break
        return Found(self._prediction(progress.made), _reasons(progress))

    def close(self) -> None:
        """Stop; what runs is abandoned."""
        for pool in (self._pool, self._ahead):
            pool.shutdown(wait=False, cancel_futures=True)

    def _find(
        self, task: ProjectTask, deadline: float, progress: Progress, retrieval: bool
    ) -> Found:
        """Read a task, and predict what it asks for."""
        read = task_prompts(task.task, task.config, lambda: time.monotonic() > deadline)
        progress.ignored = read.ignored
        if not read.objects and not retrieval:
            self._prefetch(task)
        found = self.predict(task, read.objects, deadline, progress)
        return replace(found, prediction=self._told(task, progress))

    def _told(self, task: ProjectTask, progress: Progress) -> Prediction | None:
        """The prediction, with a line that says what is left out where the label config has a place
        for it."""
        made = self._prediction(list(progress.made))
        left_out = progress.left_out
        if made is not None and left_out is not None:
            made["result"] += status_results(left_out, task.config, task.config.images[0].name)
        return made

    def _submit(self, task: ProjectTask, find: Callable[[], Found]) -> Future[Found]:
        """Begin to find what there is of ``task``; what goes wrong is logged."""

        def run() -> Found:
            try:
                found = find()
            except Exception as error:  # noqa: BLE001 - one task must not spoil the others
                found = Found(errors=[error])
            for reason in list({str(each): each for each in found.errors}.values())[:MANY_REASONS]:
                if isinstance(reason, ExpectedError):
                    logger.warning("task %s: not predicted: %s", task.task_id, reason)
                else:
                    logger.error("task %s: not predicted", task.task_id, exc_info=reason)
            return found

        return self._pool.submit(run)

    def _predict_part(
        self, task: ProjectTask, prompts: list[ObjectPrompt], deadline: float, progress: Progress
    ) -> None:
        """Note what becomes of some prompts of a page."""
        priority = Priority.RUN if caller().run else Priority.RETRIEVE
        answers = self._segmenter.answer(task, prompts, priority, deadline)
        for prompt, answer in zip(prompts, answers, strict=True):
            if isinstance(answer, Busy):
                continue  # counted as not done
            if isinstance(answer, Answer):
                regions = self._segmenter.regions(prompt, answer, task.config, region_id(prompt))
                progress.made.append((regions, [answer.score] if regions else []))
            else:
                progress.errors.append(answer)
            progress.done += 1

    def _prediction(self, made: Sequence[Scored]) -> Prediction | None:
        regions = [region for results, _ in made for region in results]
        scores = [score for _, of_results in made for score in of_results]
        if not regions:
            return None
        score = sum(scores) / len(scores) if scores else 0.0
        version = shown_version(self._version())
        return {"result": regions, "score": score, "model_version": version}

    def _track_all(self, tasks: Sequence[ProjectTask]) -> list[Any]:
        """All begin now; only few are worth waiting for, the others are stored one by one."""
        patient = len(tasks) <= WORTH_WAITING
        asked = {
            number: self._submit(task, partial(self._track, task, patient))
            for number, task in enumerate(tasks)
        }
        results, late = _in_time(asked, len(tasks), self._retrieve_seconds)
        for each in late:
            each.add_done_callback(self._store_late)
        return results

    def _store_late(self, asked: Future[Found]) -> None:
        """What missed the reply is stored as the results of longer tracks are."""
        if not asked.cancelled():
            for job in asked.result().jobs:
                self._tracking.deliveries.promise(job)

    def _track(self, task: ProjectTask, patient: bool) -> Found:
        jobs = self._tracking.videos.retrieve(task, patient=patient)
        done = [job for job in jobs if job.state is JobState.DONE]
        outcomes = [self._tracking.outcome(job) for job in done]
        prediction = self._prediction([(list(results), scores) for results, scores in outcomes])
        return Found(prediction, jobs=done if prediction else ())

    def _prefetch(self, task: ProjectTask) -> None:
        """Encode the images of ``task`` (of a sequence: the first page) in the background, and then
        those of the next tasks."""
        with suppress(Busy):  # enough is waiting already; the click will encode
            for prompt in _first_pages(task):
                self._ahead.submit(self._encode, task, prompt)
            if self._next_tasks is not None:
                self._ahead.submit(self._encode_next, task, self._next_tasks)

    def _encode_next(self, task: ProjectTask, next_tasks: NextTasks) -> None:
        try:
            for each in next_tasks.after(task):
                for prompt in _first_pages(each):
                    self._encode(each, prompt)
        except ExpectedError as error:
            logger.info("the tasks after %s are not encoded ahead: %s", task.task_id, error)
        except Exception:  # thread boundary: nobody waits for them
            logger.exception("the tasks after %s are not encoded ahead", task.task_id)

    def _encode(self, task: ProjectTask, prompt: ObjectPrompt) -> None:
        try:
            deadline = time.monotonic() + PREFETCH_SECONDS
            self._segmenter.encode(task, prompt, deadline)
        except ExpectedError as error:
            logger.info("task %s: not encoded ahead: %s", task.task_id, error)
        except Exception:  # thread boundary: the click that follows reports the cause
            logger.exception("task %s: not encoded ahead", task.task_id)


def _first_pages(task: ProjectTask) -> list[ObjectPrompt]:
    images = task.config.images
    return [ObjectPrompt(tag.name, 0 if tag.is_sequence else None) for tag in images]


def _page(prompt: ObjectPrompt) -> tuple[str, int]:
    return prompt.image, -1 if prompt.item_index is None else prompt.item_index


def _reasons(progress: Progress) -> list[Exception]:
    """Why there is less than was asked for: no time is a reason of its own."""
    reasons = list(progress.errors)
    if progress.done < progress.prompts and not reasons:
        reasons.append(Busy(f"{progress.left_out} (RETRIEVE_BUDGET_SECONDS)"))
    return reasons


def _in_time(
    asked: Mapping[int, Future[Found]], count: int, seconds: float
) -> tuple[list[Any], set[Future[Found]]]:
    """What is done of ``count`` tasks ``seconds`` after the request came in, an empty list for the
    others; and the futures that are late."""
    done, late = wait(asked.values(), timeout=max(0.0, reply_by(seconds) - time.monotonic()))
    results: list[Any] = [[] for _ in range(count)]
    for number, future in asked.items():
        if future in done and not future.cancelled():
            results[number] = future.result().prediction or []
    return results, late
