"""What becomes of tracks and clicks while replicas and nodes of a cluster are killed, and while its
weights are replaced: parts of ``benchmarks.load.cluster``."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from backend.engine.building import ModelChoice
from backend.engine.engine import Engine
from backend.engine.packed_masks import PackedMask
from backend.job_state import JobState
from backend.tracking.runner import JobRunner, Work
from backend.tracking.spans import Direction, Goal, plan_spans
from backend.tracking.store import Job, TrackStore
from benchmarks.support.local_cluster import (
    DEMO,
    PATIENCE,
    Clicking,
    LocalCluster,
    Media,
    cluster,
    local,
    on_disc,
    wait_for,
)
from benchmarks.support.simulated_model import MAKE_PACED, NOTES, Seconds, make_paced
from benchmarks.support.table import table
from sam2model.checkpoints import find_checkpoint

PACED = Seconds(encode=0.0, prompt=0.0, frame=0.2)
FRAMES, JOBS = 40, 4
LEFT = 5  # frames that a track has at least before it when it is killed


class Jobs:
    """So many tracking jobs at a time, each followed by another one, until it is enough."""

    def __init__(self, engine: Engine, media: Media, path: Path) -> None:
        self._media = media
        self.store = TrackStore(path)
        self.runner = JobRunner(
            self.store, engine, self._open, hand_over=lambda job: None, workers=2 * JOBS
        )
        self.all: list[Job] = []
        self._numbers = count()

    def _open(self, request: Mapping[str, Any]) -> Work:
        prompts = {0: on_disc(self._media)}
        spans = plan_spans(prompts, first=0, last=FRAMES - 1, direction=Direction.FORWARD)
        return Work(self._media.pages(FRAMES), [Goal("a", prompts, {0: "digest"}, spans)])

    def begin(self) -> Job:
        """One more."""
        number = next(self._numbers)
        job = self.runner.submit(f"t{number}", {"number": number})
        self.all.append(job)
        return job

    def now(self, job: Job) -> Job:
        """How it is."""
        found = self.store.job(job.id)
        assert found is not None
        return found

    def unfinished(self) -> list[Job]:
        """Jobs that go on; there are always ``JOBS`` of them, for new ones are begun here."""
        left = [job for job in self.all if not self.now(job).state.ended]
        while len(left) < JOBS:
            left.append(self.begin())
        return left

    def stored(self, job: Job) -> list[Any]:
        """What is stored of each frame."""
        found = [self.store.mask(job.track, "a", frame) for frame in range(1, FRAMES)]
        return [each and (each.mask, each.iou, each.presence) for each in found]

    def finish(self) -> list[Job]:
        """Wait for all that was begun."""
        return [self.runner.wait(job.id, PATIENCE) for job in self.all]

    def close(self) -> None:
        """End them."""
        self.runner.close()
        self.store.close()


@dataclass
class Kill:
    """What one kill did.

    Attributes:
        on: seconds until each of the tracks it met had its next mask stored.
        whole: seconds until all replicas were back.
        before: by job, what was stored when it happened.
    """

    on: list[float]
    whole: float
    before: dict[str, list[Any]]


def kills(media: Media, folder: Path, replicas: int = 5, nodes: int = 3) -> list[str]:
    """Replicas and nodes are killed while jobs track and somebody clicks."""
    notes = folder / "notes"
    os.environ |= {**PACED.variable(), NOTES: str(notes)}
    with (
        local(make_paced) as engine,
        closing(Jobs(engine, media, folder / "expected.sqlite3")) as jobs,
    ):
        job = jobs.begin()
        jobs.finish()
        expected = jobs.stored(job)
    rows = []
    with cluster(MAKE_PACED, (1, 1)) as found:
        for what, times in (("a replica", replicas), ("a node", nodes)):
            with closing(Jobs(found.engine, media, folder / f"{what}.sqlite3")) as jobs:
                clicking = Clicking(found.engine, media)
                with clicking.going_on():
                    done = [kill(what, found, jobs, notes) for _ in range(times)]
                    ended = jobs.finish()
                rows.append([what, times, *kill_cells(done, jobs, ended, expected, clicking)])
    head = ["killed", "times", "tracks", "met by it", "not done", "masks", "lost", "changed"]
    head += ["unlike a quiet run, before", "clicks", "unanswered", "slowest click, s"]
    head += ["median s until a track goes on", "most", "median s until all replicas are back"]
    text = (
        f"Two replicas, {JOBS} tracks of {FRAMES} frames at a time, {PACED.frame} s a frame at "
        "least; the demo weights. Lost: of what was to be stored in the end. Changed: stored when "
        "it happened, and different at the end."
    )
    return [table(head, rows), "", text]


def kill(what: str, found: LocalCluster, jobs: Jobs, notes: Path) -> Kill:
    """Kill one while both replicas are at work."""
    notes.write_text("")

    def all_at_work() -> bool:  # what was killed last is back, and has nothing to do yet
        jobs.unfinished()
        return len(set(noted(notes).values())) == len(found.nodes)

    wait_for(all_at_work)
    time.sleep(random.uniform(1.0, 3.0))  # anywhere within a frame
    notes.write_text("")
    going_on: list[Job] = []

    def all_noted() -> bool:
        going_on[:] = jobs.unfinished()
        return {job.id for job in going_on} <= set(noted(notes))

    wait_for(all_noted)
    where = noted(notes)
    killed = where[going_on[-1].id]
    replicas = {each.name for each in found.engine.replicas}
    before = {job.id: jobs.stored(job) for job in jobs.all}
    if what == "a node":
        host = next(host for host in found.nodes if killed in pids_of(found.nodes[host].pid))
        killed_ones = pids_of(found.nodes[host].pid)
        begun = time.monotonic()
        found.kill_node(host)
    else:
        killed_ones = {killed}
        begun = time.monotonic()
        os.kill(killed, signal.SIGKILL)
    at = {job.id: jobs.now(job).done for job in going_on if where[job.id] in killed_ones}
    met = [job for job in going_on if at.get(job.id, FRAMES) < FRAMES - LEFT]
    on: dict[str, float] = {}

    def gone_on() -> bool:
        for job in met:
            if job.id not in on and jobs.now(job).done > at[job.id]:
                on[job.id] = time.monotonic() - begun
        return len(on) == len(met)

    wait_for(gone_on)

    def whole() -> bool:
        if what == "a node":
            found.add(1, host)  # and again where it took too long to be heard of, as make join does
        present = {each.name for each in found.engine.replicas}
        return len(present) == len(replicas) and present != replicas

    wait_for(whole)
    return Kill(list(on.values()), time.monotonic() - begun, before)


def noted(notes: Path) -> dict[str, int]:
    """By job, the process that was at it last."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    return {line[1]: int(line[0]) for line in lines if len(line) == 2}


def pids_of(pid: int) -> set[int]:
    """A process and all below it."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= pids_of(int(child))
    return found


def kill_cells(
    done: Sequence[Kill], jobs: Jobs, ended: Sequence[Job], expected: list[Any], clicking: Clicking
) -> list[Any]:
    """See the head of the table."""
    after = {job.id: jobs.stored(job) for job in ended}
    lost = sum(mask is None for found in after.values() for mask in found)
    changed = unlike = 0
    for each in done:
        for job, before in each.before.items():
            changed += differing(before, after[job])
    for before in done[0].before.values():
        unlike += differing(before, expected)
    on = [seconds for each in done for seconds in each.on]
    return [
        len(ended),
        len(on),
        sum(job.state is not JobState.DONE for job in ended),
        sum(len(found) for found in after.values()),
        lost,
        changed,
        unlike,
        len(clicking.seconds),
        len(clicking.failed),
        f"{max(clicking.seconds):.1f}",
        f"{statistics.median(on):.1f}",
        f"{max(on):.1f}",
        f"{statistics.median(each.whole for each in done):.1f}",
    ]


def differing(before: Sequence[Any], after: Sequence[Any]) -> int:
    """Masks that were there and are others, or none, afterwards."""
    return sum(a is not None and a != b for a, b in zip(before, after, strict=True))


def weights(media: Media, folder: Path, times: int = 4) -> list[str]:
    """Other weights for all replicas while jobs track and people click."""
    os.environ |= PACED.variable()
    choices = [DEMO, ModelChoice("demo", other_weights(folder), device="cpu", family="demo")]
    right: list[dict[int, PackedMask]] = []
    for choice in choices:
        with local(make_paced, choice) as engine:
            clicking = Clicking(engine, media)
            for number in range(8):
                clicking.click(number)
            right.append(dict(clicking.answers))
    rows = []
    with (
        cluster(MAKE_PACED, (1, 1)) as found,
        closing(Jobs(found.engine, media, folder / "jobs.sqlite3")) as jobs,
    ):
        people = [Clicking(found.engine, media) for _ in range(2)]
        took = []
        with ExitStack() as all_of_it:
            for each in people:
                all_of_it.enter_context(each.going_on())
            for turn in range(times):
                jobs.unfinished()
                time.sleep(4.0)
                begun = time.monotonic()
                found.engine.replace(choices[(turn + 1) % 2])
                took.append(time.monotonic() - begun)
            time.sleep(4.0)
            ended = jobs.finish()
        clicks = sum(len(each.seconds) for each in people)
        failed = sum(len(each.failed) for each in people)
        answers = [answer for each in people for answer in each.answers]
        neither = sum(all(one[number] != mask for one in right) for number, mask in answers)
        by_new = sum(right[1][number] == mask != right[0][number] for number, mask in answers)
        lost = sum(mask is None for job in ended for mask in jobs.stored(job))
        not_done = sum(job.state is not JobState.DONE for job in ended)
        again = sum(job.crashes for job in ended)
    rows.append(
        [
            *(times, f"{statistics.median(took):.1f}", f"{max(took):.1f}", clicks, failed),
            *(by_new, neither, len(ended), not_done, again, lost),
        ]
    )
    head = ["replaced, times", "median s until all have them", "most", "clicks", "unanswered"]
    head += [
        "with the other weights",
        "with neither",
        "tracks",
        "not done",
        "begun anew",
        "masks lost",
    ]
    text = (
        f"Two replicas, two people who click all the time, {JOBS} tracks; the demo weights, and "
        "others with the same image encoder."
    )
    return [table(head, rows), "", text]


def other_weights(folder: Path) -> Path:
    """The demo weights with another mask decoder: same embeddings, other masks."""
    found = load_file(find_checkpoint("demo"))
    generator = torch.Generator().manual_seed(1)
    for name, tensor in found.items():
        if "output_hypernetworks" in name:
            noise = torch.randn(tensor.shape, generator=generator)
            found[name] = tensor + 0.2 * tensor.float().std().nan_to_num(1.0) * noise
    path = folder / "other.safetensors"
    save_file(found, path)
    return path
