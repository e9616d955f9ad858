"""Runs through whole projects: everything once, whoever goes away meanwhile."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.expected import ExpectedError
from backend.labelstudio.project_task import ProjectTask
from backend.runs.prompt_sources import Place, Prompts, SourceOptions, SourceUnavailable
from backend.runs.run_store import Mark, RunState, RunStore, TaskState
from backend.runs.storing import digest_of
from backend.tracking.purge import forget_old_runs
from backend.tracking.store import Sighting
from benchmarks.support.recording_server import Reply, Seen
from benchmarks.support.server import body as request_body
from benchmarks.support.server import click
from tests.command_line import FakeModel, LabelStudio, use_fake_model
from tests.e2e.services import any_free_port
from tests.labelstudio.masks import region_mask
from tests.pixels.clips import steady, write_clip
from tests.runs.service import Service, running_service
from tests.runs.test_preannotate import (
    FRAMES,
    IMAGE,
    MADE_BY,
    PAGES,
    SEQUENCE,
    VIDEO,
    addresses,
    annotated,
    area,
    box,
    keyframe,
    made,
    pictures,
    predicted,
    rectangle,
)
from tests.waiting import PATIENCE, until

__all__ = ["addresses", "pictures"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    return use_fake_model(monkeypatch)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def service(label_studio: LabelStudio, model: FakeModel) -> Iterator[Service]:
    with running_service() as service:
        yield service
        model.hold.set()


@pytest.fixture
def images(label_studio: LabelStudio, addresses: list[str]) -> list[int]:
    """The tasks of a project of pictures, each with a detector's box."""
    label_studio.add_project(5, IMAGE)
    numbers = list(range(10, 16))
    for number in numbers:
        data = {"image": addresses[number - 10]}
        label_studio.add_task(number, 5, data, **predicted(box("b", number)))
    return numbers


def ours(label_studio: LabelStudio, task: int) -> list[dict[str, Any]]:
    return [p for p in label_studio.tasks[task]["predictions"] if p["model_version"] == MADE_BY]


def labelled(label_studio: LabelStudio) -> list[int]:
    return [number for number in label_studio.tasks if ours(label_studio, number)]


def add_sequence(label_studio: LabelStudio, number: int, addresses: list[str], **more: Any) -> None:
    marks = more or annotated(box("b", 40, page=0))
    label_studio.add_task(number, 5, {"frames": addresses}, **marks)


def test_which_tasks(service: Service, label_studio: LabelStudio, images: list[int]) -> None:
    label_studio.tasks[11]["annotations"] = [{"id": 1, "result": [box("b", 20)]}]
    label_studio.views[3] = [14, 11, 12]
    run = service.start(view=3, only_unlabelled=True)
    service.ended(run)
    assert list(service.messages(run)) == [14, 12]
    assert labelled(label_studio) == [12, 14]
    service.run(tasks=[15, 15])
    assert labelled(label_studio) == [12, 14, 15]
    gone = service.start(tasks=[99])
    service.ended(gone)
    assert service.messages(gone) == {99: "failed: there is no such task"}
    label_studio.add_project(6, IMAGE)
    label_studio.add_task(60, 6, {})
    other = service.start(tasks=[60])
    service.ended(other)
    assert service.messages(other) == {60: "failed: it is a task of project 6"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"project": 0}, "project must be a whole number from 1"),
        ({"project": True}, "project must be a whole number from 1"),
        ({"url": "http://10.0.0.1/"}, "a run has no option url"),
        ({"range": [9, 3]}, "the smaller first"),
        ({"tasks": []}, "at least one"),
        ({"tasks": [1], "view": 2}, "not both"),
        ({"kind": "paint"}, "kind must be one of"),
        ({"source": "nowhere"}, "source must be one of"),
        ({"concurrency": 9}, "concurrency must be a whole number from 1 to 8"),
        ({"project": 77}, "There is no project 77"),
    ],
)
def test_what_cannot_be_asked_for(
    service: Service, images: list[int], options: dict[str, Any], said: str
) -> None:
    reply = service.client.post("/runs", json={"project": 5, **options})
    assert reply.status_code == 400
    assert said in reply.json["error"]
    assert service.client.get("/runs").json == {"runs": []}


def test_without_a_label_studio_there_are_no_runs(
    monkeypatch: pytest.MonkeyPatch, model: FakeModel
) -> None:
    with running_service() as service:
        reply = service.client.post("/runs", json={"project": 5})
    assert reply.status_code == 409
    assert "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY" in reply.json["error"]


def test_paused_and_resumed_nothing_is_lost(
    service: Service, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    for number in (7, 8, 9):
        add_sequence(label_studio, number, addresses)
    model.hold.clear()
    run = service.start()
    until(model.hold.reached.is_set)
    assert service.post(run, "pause")["state"] == "paused"
    model.hold.set()
    service.until(run, lambda now: now["under_way"] == 0)
    assert service.get(run)["counts"]["failed"] == 0
    assert service.post(run, "resume")["state"] in ("queued", "running")
    service.ended(run)
    assert labelled(label_studio) == [7, 8, 9]
    assert len(made(label_studio, 7)["result"]) == PAGES
    # What is stored is not tracked again but for the last page, which stands for the memory; and
    # one page was computed ahead of the pause.
    assert len(model.steps) <= 3 * PAGES + 3 + 3


def test_cancelled_what_is_stored_stays(
    service: Service, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    add_sequence(label_studio, 7, addresses)
    add_sequence(label_studio, 8, addresses)
    run = service.start(concurrency=1, tasks=[7])
    service.ended(run)
    model.hold.clear()
    run = service.start(tasks=[8])
    until(model.hold.reached.is_set)
    assert service.post(run, "cancel")["state"] == "cancelled"
    model.hold.set()
    service.until(run, lambda now: now["under_way"] == 0)
    assert service.get(run)["state"] == "cancelled"
    assert labelled(label_studio) == [7]


def test_runs_of_a_project_go_one_after_another_and_others_beside_them(
    service: Service, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    label_studio.add_project(6, IMAGE)
    add_sequence(label_studio, 7, addresses)
    label_studio.add_task(60, 6, {"image": addresses[0]}, **predicted(box("b", 10)))
    model.hold.clear()
    first = service.start()
    until(model.hold.reached.is_set)
    second = service.start()
    other = service.start(project=6)
    service.until(other, lambda now: now["under_way"] == 1)
    assert service.get(second)["state"] == "queued"
    model.hold.set()
    service.ended(other)
    service.ended(first)
    service.ended(second)
    assert service.messages(second) == {7: "has a prediction of demo"}
    runs = service.client.get("/runs?project=6").json["runs"]
    assert [each["project"] for each in runs] == [6]


def test_a_run_leaves_its_project_a_place(
    service: Service, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    """Whatever the jobs of a run hold up, an annotator of the same project is next."""
    label_studio.add_project(5, SEQUENCE)
    for number in (7, 8, 9, 10):
        add_sequence(label_studio, number, addresses)
    model.hold.clear()
    run = service.start(concurrency=4)
    until(model.hold.reached.is_set)
    store, jobs = service.dispatcher.tracking.store, service.dispatcher.tracking.jobs
    until(lambda: len(store.jobs(unfinished=True)) == 4)
    [theirs, *_] = store.jobs()
    asked = {name: value for name, value in theirs.request.items() if name != "run"}
    job = jobs.submit("another track", asked)
    until(lambda: job.id in jobs._running)
    model.hold.set()
    service.ended(run)


def test_while_somebody_clicks_a_run_works_on_one_task(
    service: Service,
    label_studio: LabelStudio,
    addresses: list[str],
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it has done for it elsewhere takes the cores that the click is computed on."""
    label_studio.add_project(5, SEQUENCE)
    for number in (7, 8, 9):
        add_sequence(label_studio, number, addresses)
    begun: list[list[int]] = []  # each time, the tasks under way
    begin = RunStore.begin_task

    def noted(store: RunStore, run: str, position: int) -> None:
        begin(store, run, position)
        [at_work] = service.runs._at_work.values()
        begun.append(sorted(at_work._taken))

    monkeypatch.setattr(RunStore, "begin_task", noted)
    # As long as the test takes, and longer: who clicked once goes on clicking.
    monkeypatch.setattr("backend.predict.dispatch.CLICKED_SECONDS", PATIENCE)
    task = {"id": 70, "data": {"image": addresses[0]}}
    asked = request_body(task, [click(0)], project="999.1")
    assert service.client.post("/predict", json=asked).status_code == 200
    service.ended(service.start(concurrency=3))
    assert begun == [[0], [1], [2]]
    assert labelled(label_studio) == [7, 8, 9]

    monkeypatch.setattr("backend.predict.dispatch.CLICKED_SECONDS", 0.0)
    model.hold.clear()
    run = service.start(concurrency=2, tasks=[7, 8], overwrite=True)
    service.until(run, lambda now: now["under_way"] == 2)
    model.hold.set()
    service.ended(run)


def test_label_studio_goes_away_and_comes_back(
    service: Service, label_studio: LabelStudio, images: list[int]
) -> None:
    def goes_away(seen: Seen) -> Reply:
        label_studio.is_down = True
        return Reply(503)

    label_studio.server.route("/api/tasks/12/", goes_away)
    run = service.start(concurrency=1)
    now = service.until(run, lambda now: now["state"] == "waiting")
    assert "tries again" in now["message"]
    assert "answered 503" in now["message"]
    label_studio.server.route("/api/tasks/12/", label_studio._answer)
    label_studio.is_down = False
    assert service.ended(run)["counts"] == {
        **dict.fromkeys(("queued", "planned", "skipped", "failed"), 0),
        "stored": 6,
    }
    assert [len(ours(label_studio, number)) for number in images] == [1] * 6


def test_an_answer_that_is_lost_is_looked_for(
    service: Service, label_studio: LabelStudio, images: list[int]
) -> None:
    """Label Studio stores the prediction and cannot say so: it is not sent again."""
    label_studio.loses_answers = True
    run = service.start()
    service.until(run, lambda now: now["state"] == "waiting")
    label_studio.loses_answers = False
    service.ended(run)
    assert [len(ours(label_studio, number)) for number in images] == [1] * 6
    numbers = {each["prediction"] for each in service.get(run, "/tasks")["tasks"]}
    assert numbers == {ours(label_studio, number)[0]["id"] for number in images}


def test_a_prediction_that_arrives_late_is_deleted(
    service: Service, label_studio: LabelStudio, images: list[int]
) -> None:
    """The first attempt is stored by a slow server after the second one was."""
    late: list[Seen] = []

    def slow(seen: Seen) -> Reply:
        if seen.method != "POST":
            return label_studio._answer(seen)
        if not late:
            late.append(seen)
            return Reply(504)
        reply = label_studio._answer(seen)
        if len(late) == 1:
            late.append(seen)
            label_studio._answer(late[0])
        return reply

    label_studio.server.route("/api/predictions/", slow)
    service.run(tasks=[10, 11], concurrency=1)
    assert [len(ours(label_studio, number)) for number in (10, 11)] == [1, 1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_between_storing_and_noting_it(
    label_studio: LabelStudio,
    images: list[int],
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
    overwrite: bool,
) -> None:
    earlier = {"id": 90, "model_version": MADE_BY, "result": [{**box("e", 1), "id": "e"}]}
    if overwrite:
        label_studio.tasks[10]["predictions"].append(earlier)
    end_task = RunStore.end_task

    def dies(*arguments: Any, **options: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, running_service() as service:
        patch.setattr(RunStore, "end_task", dies)
        patch.setattr("threading.excepthook", lambda arguments: None)
        run = service.start(tasks=[10], overwrite=overwrite)
        until(lambda: [p for p in ours(label_studio, 10) if p["id"] != 90])
        until(lambda: not service.runs._at_work)
    assert RunStore.end_task is end_task
    database = sqlite3.connect(Path(os.environ["STATE_DIR"]) / "tracks.sqlite3")
    with database:  # as a kill leaves it
        database.execute("UPDATE runs SET state = 'running' WHERE id = ?", (run,))
    database.close()
    with running_service() as service:
        service.ended(run)
        assert len(ours(label_studio, 10)) == 1
        assert service.get(run, "/tasks")["tasks"][0]["prediction"] != 90


def test_what_an_annotator_had_tracked_meanwhile_is_left_alone(
    service: Service, label_studio: LabelStudio, images: list[int]
) -> None:
    theirs = {"id": 90, "model_version": MADE_BY, "result": [{**box("t", 1), "id": "t"}]}

    def delivers(seen: Seen) -> Reply:
        label_studio.tasks[10]["predictions"].append(theirs)
        label_studio.server.route("/api/predictions/?task=10", label_studio._answer)
        return label_studio._answer(seen)

    label_studio.server.route("/api/predictions/?task=10", delivers)
    run = service.start(tasks=[10])
    service.ended(run)
    assert ours(label_studio, 10) == [theirs]
    assert service.messages(run) == {10: "was stored meanwhile by somebody else"}


@pytest.mark.slow
def test_killed_in_the_middle_of_a_video_it_goes_on_at_the_last_frame(
    label_studio: LabelStudio, model: FakeModel, tmp_path: Path
) -> None:
    label_studio.add_project(5, VIDEO)
    clip = write_clip(tmp_path / "a.mp4", times=steady(FRAMES, 25))
    video = label_studio.serve("/data/upload/5/0a1b2c3d-a.mp4", clip)
    label_studio.add_task(
        9, 5, {"video": video}, **annotated(rectangle("r1", "Ball", keyframe(1, 20)))
    )
    port = any_free_port()
    command = [sys.executable, "-m", "tests.runs.slow_service", str(port)]
    process = subprocess.Popen(command, env=dict(os.environ))
    try:
        address = f"http://127.0.0.1:{port}/runs"
        until(lambda: _posted(address), pause=0.2)
        store = tmp_path / "state/tracks.sqlite3"
        until(lambda: stored(store) >= 4)
    finally:
        process.kill()
        process.wait(PATIENCE)
    before = stored(store)
    assert before < FRAMES
    assert label_studio.tasks[9]["predictions"] == []
    with running_service() as service:
        [run] = service.client.get("/runs").json["runs"]
        service.ended(run["id"])
    # The last finished mask is gone through once more, as the prompt of what follows.
    assert min(model.steps) >= before - 1
    assert stored(store) == FRAMES
    assert len(ours(label_studio, 9)) == 1


def _posted(address: str) -> bool:
    try:
        return requests.post(address, json={"project": 5}, timeout=PATIENCE).status_code == 201
    except requests.ConnectionError:
        return False


def stored(path: Path) -> int:
    """Masks in a store that another process writes."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM masks").fetchone()[0])


def test_a_task_that_ends_the_process_is_given_up(
    label_studio: LabelStudio, images: list[int], model: FakeModel
) -> None:
    with running_service() as service:
        run = service.start(limit=1)
        service.ended(run)
        service.runs.store.queue_again(run)
    database = sqlite3.connect(Path(os.environ["STATE_DIR"]) / "tracks.sqlite3")
    with database:
        database.execute("UPDATE runs SET state = 'running' WHERE id = ?", (run,))
        database.execute("UPDATE run_tasks SET state = 'queued', starts = 3 WHERE run = ?", (run,))
    database.close()
    with running_service() as service:
        assert service.ended(run)["counts"]["failed"] == 1
        assert "given up: 3 starts of it ended the backend" in service.messages(run)[10]
        label_studio.tasks[10]["predictions"] = predicted(box("b", 10))["predictions"]
        service.post(run, "resume")  # tries what failed again
        assert service.ended(run)["counts"]["stored"] == 1


def test_what_may_pass_is_tried_again_and_what_does_not_fails(
    service: Service,
    label_studio: LabelStudio,
    images: list[int],
    addresses: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    label_studio.server.route(addresses[0], Reply(404))
    label_studio.server.route(addresses[1], Reply(503))
    run = service.start(tasks=[10, 11, 12])
    service.ended(run)
    assert service.get(run)["counts"]["stored"] == 1
    messages = service.messages(run)
    assert messages[10].startswith("failed: Label Studio has no upload")
    assert messages[11].startswith("failed: "), messages
    assert (caplog.text.count("task 10 is tried"), caplog.text.count("task 11 is tried")) == (0, 3)


class Finder:
    """A source that sees an object on the first page, and another one from the third on."""

    every = 2

    def __init__(self, options: SourceOptions) -> None:
        self.asked: list[tuple[int, list[str]]] = []
        self.is_down = False
        self.is_asked, self.begun = threading.Event(), threading.Event()
        self.begun.set()

    def begin(self, task: ProjectTask, until: float) -> Prompts:
        self.is_asked.set()
        self.begun.wait(PATIENCE)
        if self.is_down:
            raise SourceUnavailable("The detector does not answer.")
        return Prompts(finished=brush_on_image() if "image" in task.data else [])

    def look(
        self, task: ProjectTask, place: Place, seen: Sequence[Sighting], until: float
    ) -> Prompts:
        self.asked.append((place.number, sorted(each.object_id for each in seen)))
        page = place.number - 1
        new = {1: box("one", 0, page=page), 3: box("two", 60, page=page)}
        return Prompts([new[place.number]] if place.number in new else [])


def brush_on_image() -> list[dict[str, Any]]:
    from tests.export.test_export import brush

    return [{**brush("m", None, area(5, 5, 6, 6)), "score": 0.4}]


@pytest.fixture
def finder(service: Service, monkeypatch: pytest.MonkeyPatch) -> Finder:
    source = Finder(SourceOptions())
    opened: dict[str, Callable[[SourceOptions], Any]] = {"finder": lambda options: source}
    monkeypatch.setattr(service.runs, "_sources", {**service.runs._sources, **opened})
    return source


def test_a_source_is_asked_on_every_nth_page_about_what_is_new(
    service: Service, label_studio: LabelStudio, addresses: list[str], finder: Finder
) -> None:
    label_studio.add_project(5, SEQUENCE)
    add_sequence(label_studio, 7, addresses, annotations=[])
    service.run(source="finder")
    assert finder.asked == [(1, []), (3, ["one"]), (5, ["one", "two"]), (7, ["one", "two"])]
    places = [(item["item_index"], region_mask(item)) for item in made(label_studio, 7)["result"]]
    assert len(places) == 2 * PAGES  # the second one was tracked back, too
    assert (dict(places[PAGES:])[2] == area(36, 8, 12, 20)).all()


def test_masks_that_are_finished_are_stored_as_they_are(
    service: Service, label_studio: LabelStudio, images: list[int], finder: Finder
) -> None:
    run = service.start(source="finder", tasks=[10])
    service.ended(run)
    [mask] = made(label_studio, 10)["result"]
    assert (region_mask(mask) == area(5, 5, 6, 6)).all()
    assert mask["meta"] == {"text": ["SAM 2: look here: unsure"]}
    assert made(label_studio, 10)["score"] == pytest.approx(0.4)


def test_a_source_that_goes_away_is_waited_for(
    service: Service, label_studio: LabelStudio, images: list[int], finder: Finder
) -> None:
    finder.is_down = True
    run = service.start(source="finder")
    now = service.until(run, lambda now: now["state"] == "waiting")
    assert "The detector does not answer." in now["message"]
    finder.is_down = False
    assert service.ended(run)["counts"]["stored"] == 6


def test_what_a_source_says_to_a_request_is_its_answer(
    service: Service, images: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(options: SourceOptions) -> Any:
        raise ExpectedError("The words are too long.")

    monkeypatch.setattr(service.runs, "_sources", {"finder": refuse})
    reply = service.client.post("/runs", json={"project": 5, "source": "finder"})
    assert (reply.status_code, reply.json["error"]) == (400, "The words are too long.")


def test_cancelled_while_a_source_answers_the_model_is_not_asked(
    service: Service, label_studio: LabelStudio, images: list[int], finder: Finder
) -> None:
    finder.begun.clear()
    run = service.start(source="finder", tasks=[10])
    until(lambda: finder.is_asked.is_set())
    service.post(run, "cancel")
    finder.begun.set()
    service.until(run, lambda now: now["under_way"] == 0)
    assert labelled(label_studio) == []


def test_what_a_source_said_is_not_asked_for_again(
    service: Service, label_studio: LabelStudio, addresses: list[str], finder: Finder, model: Any
) -> None:
    label_studio.add_project(5, SEQUENCE)
    add_sequence(label_studio, 7, addresses, annotations=[])
    model.hold.clear()
    run = service.start(source="finder")
    until(model.hold.reached.is_set)
    service.post(run, "pause")
    model.hold.set()
    service.until(run, lambda now: now["under_way"] == 0)
    service.post(run, "resume")
    service.ended(run)
    assert [number for number, _ in finder.asked] == [1, 3, 5, 7]


def test_whoever_sorts_by_score_is_told_what_to_choose(
    service: Service, label_studio: LabelStudio, images: list[int]
) -> None:
    label_studio.projects[5]["model_version"] = "SAM 2"
    said = service.run(tasks=[10])["message"]
    assert f"choose {MADE_BY} in the project's Settings" in said
    label_studio.projects[5]["model_version"] = MADE_BY
    assert service.run(tasks=[11])["message"] == ""


def test_the_report_names_the_doubtful_first(
    service: Service, label_studio: LabelStudio, images: list[int]
) -> None:
    run = service.start()
    service.ended(run)
    found = service.get(run, "/report")
    assert found["labels"] == [{"label": "Cat", "objects": 6, "mean": 0.9, "worst": 0.9}]
    assert [each["task"] for each in found["look_first"]] == images
    text = service.client.get(f"/runs/{run}/report?format=text")
    assert text.mimetype == "text/plain"
    assert "  Cat: 6, mean 0.90, worst 0.90" in text.text


def test_metrics_and_log_lines_name_the_run(
    service: Service, label_studio: LabelStudio, images: list[int], caplog: Any
) -> None:
    run = service.start()
    service.ended(run)
    text = service.client.get("/metrics").text
    assert 'sam2_runs{state="done"} 1.0' in text
    assert "sam2_run_tasks_per_hour" in text


def test_old_runs_leave_the_store(
    service: Service, label_studio: LabelStudio, images: list[int]
) -> None:
    run = service.start()
    service.ended(run)
    database = service.dispatcher.tracking.store.database
    assert forget_old_runs(database, time.time() - 60) == 0
    assert forget_old_runs(database, time.time() + 60) == 1
    assert service.client.get(f"/runs/{run}").status_code == 404
    assert database.read("SELECT * FROM run_tasks") == []


def test_only_one_of_two_who_turn_a_run_succeeds(service: Service, images: list[int]) -> None:
    run = service.start()
    service.ended(run)
    store = service.runs.store
    assert store.turn(run, [RunState.DONE], RunState.QUEUED)
    assert not store.turn(run, [RunState.DONE], RunState.QUEUED)
    store.mark_task(run, 0, Mark((1,), (digest_of([]),), doubtful=True))
    [task] = store.doubtful(run)[:1]
    assert (task.state, task.mark and task.mark.before) == (TaskState.STORED, (1,))
