"""What a run looks like from outside: how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from backend.engine.embedding_disk import DiskRoom
from backend.expected import counted
from backend.job_state import iso_time
from backend.labelstudio.model_names import shown_version
from backend.runs.run import RunAtWork
from backend.runs.run_store import Run, RunStore, RunTask, TaskState
from backend.runs.warm_tasks import room_text

LOOK_FIRST = 50  # tasks, the most doubtful first
SHOWN_FAILURES = 100
SHOWN_LEFT_OUT = 100  # tasks
SHOWN_LOOKS = 5  # of a task, in text
_AT_ONCE = 1000

MeanSeconds = Callable[[str], float | None]
"""How long a stage takes here, see ``Metrics.mean_seconds``."""


def shown(run: Run, store: RunStore, at_work: RunAtWork | None) -> dict[str, Any]:
    """A run as JSON.

    Args:
        at_work: what works on it here.
    """
    counts = store.counts(run.id)
    pace = None if at_work is None else at_work.tasks_per_hour
    left = counts[TaskState.QUEUED]
    times = {name: getattr(run, name) for name in ("created", "updated", "begun", "ended")}
    return {
        "id": run.id,
        "project": run.request.project,
        "kind": run.request.kind,
        "source": run.request.source,
        "state": run.state,
        "message": run.message,
        "model_version": shown_version(run.model) if run.model else None,
        "options": run.request.as_json(),
        "total": run.total,
        "counts": counts,
        "under_way": 0 if at_work is None else at_work.under_way,
        "tasks_per_hour": pace and round(pace, 1),
        "seconds_left": round(left / pace * 3600) if pace else None,
        **{name: None if at is None else iso_time(at) for name, at in times.items()},
    }


def shown_task(task: RunTask) -> dict[str, Any]:
    """A task of a run as JSON."""
    return {
        "task": task.task,
        "position": task.position,
        "state": task.state,
        "message": task.message,
        "score": task.score,
        "prediction": task.prediction,
        "looks": [
            {"object": name, "label": label, "frame": frame, "reason": reason}
            for name, label, frame, reason in task.found.looks
        ],
        "more_looks": task.found.more_looks,
        "left_out": list(task.found.left_out),
    }


def report(
    run: Run, store: RunStore, mean_seconds: MeanSeconds, room: DiskRoom | None = None
) -> dict[str, Any]:
    """What came of a run so far: per label its objects, the tasks to look at first, and the first
    of which something was left out; of a dry run, how long it would take.

    Args:
        room: for what the run encodes ahead, where it does.
    """
    labels: dict[str, tuple[int, float, float]] = {}
    doubtful: list[RunTask] = []
    left_out: list[RunTask] = []
    pictures = frames = 0
    for task in every_task(run.id, store):
        for label, (count, total, worst) in task.found.objects.items():
            known = labels.get(label, (0, 0.0, 1.0))
            labels[label] = known[0] + count, known[1] + total, min(known[2], worst)
        pictures, frames = pictures + task.found.pictures, frames + task.found.frames
        if task.found.left_out and len(left_out) < SHOWN_LEFT_OUT:
            left_out.append(task)
        if task.score is not None:
            doubtful.append(task)
            if len(doubtful) > 4 * LOOK_FIRST:
                doubtful = _most_doubtful(doubtful)
    found: dict[str, Any] = {
        "labels": [
            {"label": label, "objects": count, "mean": round(total / count, 4), "worst": worst}
            for label, (count, total, worst) in sorted(labels.items())
        ],
        "look_first": [shown_task(task) for task in _most_doubtful(doubtful)],
        "failed": [
            {"task": task.task, "message": task.message}
            for task in store.tasks(run.id, state=TaskState.FAILED, limit=SHOWN_FAILURES)
        ],
        "left_out": [
            {"task": task.task, "messages": list(task.found.left_out)} for task in left_out
        ],
        "estimate": None,
    }
    if run.request.dry_run:
        found["estimate"] = estimate = _estimate(pictures, frames, mean_seconds)
        if room is not None:
            estimate["text"] += f"; {room_text(pictures, room)}"
            estimate["disk_bytes"] = pictures * room.each
            estimate["disk_fits"] = room.fits
    return found


def report_text(run: dict[str, Any], found: dict[str, Any]) -> str:
    """A report for people; of what ``shown`` and ``report`` give."""
    counts = ", ".join(f"{number} {state}" for state, number in run["counts"].items() if number)
    lines = [
        f"Run {run['id']} on project {run['project']} is {run['state']}: {counts or 'no tasks'}",
        *([run["message"]] if run["message"] else []),
    ]
    if (estimate := found["estimate"]) is not None:
        lines += ["", estimate["text"]]
    if found["labels"]:
        lines += ["", "Objects by label, with the confidence of their worst page or second"]
        lines += [
            f"  {each['label'] or 'unlabelled'}: {each['objects']}, mean {each['mean']:.2f}, "
            f"worst {each['worst']:.2f}"
            for each in found["labels"]
        ]
    if found["look_first"]:
        lines += ["", "Tasks to look at first"]
        lines += [f"  {_look_line(each)}" for each in found["look_first"]]
    if found["failed"]:
        lines += ["", "Tasks that failed"]
        lines += [f"  task {each['task']}: {each['message']}" for each in found["failed"]]
    if found["left_out"]:
        lines += ["", "What was found and left out"]
        lines += [f"  task {e['task']}: {'; '.join(e['messages'])}" for e in found["left_out"]]
    return "\n".join(lines) + "\n"


def every_task(run_id: str, store: RunStore) -> Iterator[RunTask]:
    """All tasks of a run, in order, some at a time."""
    after = -1
    while tasks := store.tasks(run_id, after=after, limit=_AT_ONCE):
        yield from tasks
        after = tasks[-1].position


def _look_line(task: dict[str, Any]) -> str:
    looks = [
        f"{'' if each['frame'] is None else each['frame']} {each['label']} {each['reason']}".strip()
        for each in task["looks"][:SHOWN_LOOKS]
    ]
    return f"task {task['task']}: {task['score']:.2f}" + (f" ({'; '.join(looks)})" if looks else "")


def _most_doubtful(tasks: list[RunTask]) -> list[RunTask]:
    return sorted(tasks, key=lambda task: (task.score, task.position))[:LOOK_FIRST]


def _estimate(pictures: int, frames: int, mean_seconds: MeanSeconds) -> dict[str, Any]:
    """How long the model would be at work, by what its stages have taken here."""
    encode, prompt, track = (mean_seconds(each) for each in ("encode", "prompt", "track"))
    picture = None if encode is None else encode + (prompt or 0.0)
    unknown = [
        name
        for name, number, seconds in (("pictures", pictures, picture), ("frames", frames, track))
        if number and seconds is None
    ]
    hours = None
    if unknown:
        text = (
            f"how long {' and '.join(unknown)} take is not known yet: since its start this service "
            "has worked on none; label a few tasks (limit), then ask again"
        )
    else:
        hours = (pictures * (picture or 0.0) + frames * (track or 0.0)) / 3600
        text = f"about {_duration(hours)} of the model's time, when nobody else needs it"
    others = counted(frames, "page or frame", "pages or frames")
    work = f"{counted(pictures, 'picture')} and {others}: {text}"
    return {
        "pictures": pictures,
        "frames": frames,
        "seconds_per_picture": picture,
        "seconds_per_frame": track,
        "hours": hours,
        "text": work,
    }


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else counted(max(1, round(hours * 60)), "minute")
