"""One contract for the engine of this machine and that of a cluster.

The answers are compared bit for bit; what is about time and turns is asked of each.
"""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.engine.engine import Answer, Engine, TrackedObject
from backend.engine.packed_masks import PackedMask
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.media.errors import MediaError, Reason
from backend.threads.caller import serving
from tests.cluster.conftest import LocalCluster
from tests.cluster.replicas import Control
from tests.cluster.scenes import (
    DISC,
    FRAMES,
    SCENARIOS,
    Scenario,
    on_disc,
    pages,
    picture,
    video,
)
from tests.command_line import LabelStudio, label_studio
from tests.export.test_export import VIDEO, keyframe
from tests.predict.events.conftest import Editor, point
from tests.runs.service import running_service
from tests.runs.test_preannotate import IMAGE, SEQUENCE, annotated, box, rectangle
from tests.waiting import PATIENCE, until

__all__ = ["label_studio"]

pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # Ray's
]


def plain(value: Any) -> Any:
    """A value that compares by content."""
    if isinstance(value, PackedMask):
        return value.runs, value.height, value.width
    if isinstance(value, Answer):
        return plain(value.mask), value.score
    if isinstance(value, TrackedObject):
        return value.object_id, plain(value.mask), value.iou, value.presence, value.elsewhere
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, ExpectedError):
        return type(value).__name__, str(value)
    return value


def masks_in(value: Any) -> list[PackedMask]:
    if isinstance(value, Answer | TrackedObject):
        return [value.mask]
    if isinstance(value, list | tuple):
        return [mask for each in value for mask in masks_in(each)]
    return []


@pytest.mark.parametrize("ask", SCENARIOS, ids=lambda each: each.__name__)
def test_both_answer_alike(both: tuple[Engine, Engine], ask: Scenario) -> None:
    here, there = (ask(engine) for engine in both)
    assert plain(here) == plain(there)
    masks = masks_in(here)
    assert not masks or any(mask.area for mask in masks)


class Kept:
    """An engine that goes on when the service over it is closed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def drain(self) -> None:
        """It takes more."""

    def close(self) -> None:
        """It goes on."""


def test_runs_and_the_events_of_newer_editors(
    both: tuple[Engine, Engine],
    label_studio: LabelStudio,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A whole service over each: the same for a picture, pages and a video."""
    shown = video().address
    tasks: dict[int, tuple[str, dict[str, Any], Any]] = {
        5: (IMAGE, {"image": picture().address}, box("a", 18)),
        6: (SEQUENCE, {"frames": [each.address for each in pages().pictures]}, box("a", 18, 1)),
        7: (VIDEO, {"video": shown}, rectangle("a", "Ball", keyframe(2, 18))),
    }
    for project, (config, data, mark) in tasks.items():
        label_studio.add_project(project, config)
        label_studio.add_task(project, project, data, **annotated(mark))
    found: list[Any] = []
    for name, engine in zip(("here", "there"), both, strict=True):
        monkeypatch.setenv("STATE_DIR", str(tmp_path / name))
        monkeypatch.setenv("CACHE_DIR", str(tmp_path / name / "cache"))
        kept: Any = Kept(engine)
        with running_service(kept) as service:
            for run in [service.start(project=project) for project in tasks]:
                service.ended(run)
            editor = Editor(service, data={"video": shown}, config=VIDEO)
            answer = editor.value("predict", time_ms=80, result=[point(28, 46)])
            session = editor.track(point(28, 46))
            frames, _ = editor.read_all(session)
        made = {each: label_studio.tasks[each]["predictions"] for each in tasks}
        values = {each: [one["value"] for one in made[each].pop()["result"]] for each in tasks}
        assert len(values[6]) == len(frames) == FRAMES
        found.append((values, answer, frames))
    assert found[0] == found[1]


def test_a_track_is_stopped_within_a_frame(engine: Engine, control: Control) -> None:
    stop = threading.Event()
    with closing(engine.open_tracker(pages())) as tracker, ThreadPoolExecutor(1) as thread:
        tracker.prompt(0, "a", on_disc())
        steps = tracker.step(0, FRAMES, reverse=False, stopped=stop.is_set)
        control.held.touch()
        first = thread.submit(next, steps)
        until(lambda: control.begun())
        control.seconds.write_text("60")  # of each that follows, also on a slow machine
        control.held.unlink()
        first.result(PATIENCE)
        rest = thread.submit(list, steps)
        until(lambda: len(control.begun()) > 1)
        stop.set()
        assert len(rest.result(PATIENCE)) <= 1  # the one that was computed ahead


def test_a_click_passes_the_track_of_its_replica(engine: Engine, control: Control) -> None:
    with closing(engine.open_tracker(pages())) as one, closing(engine.open_tracker(pages())) as two:
        for tracker in (one, two):  # one on each replica
            tracker.prompt(0, "a", on_disc())
        control.held.touch()
        with ThreadPoolExecutor(2) as threads:
            waiting = [
                threads.submit(next, tracker.step(0, FRAMES, reverse=False))
                for tracker in (one, two)
            ]
            until(lambda: control.begun())
            [answer] = engine.answer(picture(5), [DISC], Priority.CLICK, PATIENCE)
            assert isinstance(answer, Answer)
            assert not any(each.done() for each in waiting)
            control.held.unlink()
            assert all(each.result(PATIENCE) for each in waiting)


def test_projects_take_turns(engine: Engine, control: Control) -> None:
    """Many tracks of one project, and then one of another on each replica: that one gets on."""
    control.seconds.write_text("0.1")
    with ThreadPoolExecutor(8) as threads:

        def track(project: str, frames: int) -> bool:
            with (
                serving(project=project),
                closing(engine.open_tracker(pages(frames))) as tracker,
            ):
                tracker.prompt(0, "a", on_disc())
                for _ in tracker.step(0, frames, reverse=False):
                    if over.is_set():
                        return False
            return True

        over = threading.Event()
        many = [threads.submit(track, "many", 60) for _ in range(6)]
        until(lambda: len(control.begun()) > 6)
        few = [threads.submit(track, "few", FRAMES) for _ in range(2)]
        assert all(each.result(PATIENCE) for each in few)
        assert not any(each.done() for each in many)
        over.set()
        assert [each.result(PATIENCE) for each in many] == [False] * 6


def test_a_closed_tracker_is_freed(cluster: LocalCluster) -> None:
    until(lambda: sum(each.trackers for each in cluster.engine.replicas) == 0)
    tracker = cluster.engine.open_tracker(pages())
    tracker.prompt(0, "a", on_disc())
    until(lambda: sum(each.trackers for each in cluster.engine.replicas) == 1)
    tracker.close()
    until(lambda: sum(each.trackers for each in cluster.engine.replicas) == 0)


def test_clicks_on_a_picture_keep_their_replica(cluster: LocalCluster) -> None:
    """Its embedding is there: one miss, and then hits only."""
    before = counted(cluster, "sam2_embedding_lookups_total")
    for _ in range(10):
        cluster.engine.answer(picture(31), [DISC], Priority.CLICK, PATIENCE)
    after = counted(cluster, "sam2_embedding_lookups_total")
    rise = {key: after[key] - before.get(key, 0) for key in after}
    assert sum(rise.values()) == 10
    assert sum(number for key, number in rise.items() if key[0] == "miss") == 1
    assert len({replica for (_, replica), number in rise.items() if number}) == 1


def test_trackers_go_where_the_fewest_are(cluster: LocalCluster) -> None:
    """However much somebody clicks on a picture of one replica meanwhile."""
    until(lambda: sum(each.trackers for each in cluster.engine.replicas) == 0)
    over = threading.Event()

    def click() -> None:
        while not over.is_set():
            cluster.engine.answer(picture(31), [DISC], Priority.CLICK, PATIENCE)

    with ThreadPoolExecutor() as clicking, ExitStack() as open_ones:
        clicks = [clicking.submit(click) for _ in range(3)]
        open_ones.callback(over.set)
        for _ in range(6):
            open_ones.enter_context(closing(cluster.engine.open_tracker(pages())))
        until(lambda: sorted(each.trackers for each in cluster.engine.replicas) == [3, 3])
    for each in clicks:
        each.result()


def test_metrics_name_their_replica(cluster: LocalCluster) -> None:
    replicas = {each.name for each in cluster.engine.replicas}
    ready = counted(cluster, "sam2_model_ready")
    assert {key[-1]: number for key, number in ready.items()} == dict.fromkeys(replicas, 1.0)
    text = cluster.metrics.exposition().decode()
    assert text.count("# TYPE sam2_stage_seconds ") == 1


def counted(cluster: LocalCluster, name: str) -> dict[tuple[str, ...], float]:
    """By labels, the replica last: the samples of one name."""
    from prometheus_client.parser import text_string_to_metric_families

    text = cluster.metrics.exposition().decode()
    return {
        tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_errors_travel_as_they_are() -> None:
    """All that may be raised for an annotator survives the journey."""
    kinds = [each for each in subclasses(ExpectedError) if each.__module__.startswith("backend.")]
    assert MediaError in kinds
    for kind in kinds:
        error = (
            MediaError("It is gone.", "Look for it.", reason=Reason.NOT_FOUND)
            if kind is MediaError
            else kind()
            if kind.__name__ == "Moved"
            else kind("a sentence")
        )
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), vars(back)) == (kind, str(error), vars(error))


def subclasses(kind: type) -> list[type]:
    return [each for one in kind.__subclasses__() for each in (one, *subclasses(one))]


def test_what_travels_is_small(both: tuple[Engine, Engine]) -> None:
    """A prompt with a mask of a whole HD frame, and the answer to it."""
    mask = np.zeros((1080, 1920), bool)
    mask[200:700, 300:1200] = True
    assert len(pickle.dumps(PackedMask.pack(mask))) < 10_000
