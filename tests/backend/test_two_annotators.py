"""Two people on one task: each has tracks, clicks and regions of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.predict.recent import RecentPrompts
from backend.tracking.owners import NO_DRAFT
from tests.backend.conftest import box, click
from tests.backend.test_sequences import CONFIG, PAGES, Editor
from tests.waiting import PATIENCE

CAPTURES = Path(__file__).parents[1] / "captures"
USERS = {"anna": 1, "bert": 2, "cleo": 3}


class Person(Editor):
    """An editor whose draft says whose it is, as Label Studio's do."""

    def __init__(self, bench, name, *, regions=()):
        super().__init__(bench)
        self.name = name
        self.regions = {region["id"]: region for region in regions}

    def click(self, x, y, page, label="Cat"):
        name = f"{self.name}-{page}-{len(self.regions)}"  # the editor's are random
        return self.send(click(x, y, label, identifier=name, page=page))

    def task(self):
        task = super().task()
        if self.name:
            mail = f"{self.name}@example.org"
            named = {"user": mail, "created_username": f"{mail}, {USERS[self.name]}"}
            task["drafts"] = [{**draft, **named} for draft in task["drafts"]]
        return task


@pytest.fixture
def meet(bench):
    bench.engine.wait_ready(PATIENCE)

    def made(name, **options):
        return Person(bench, name, **options)

    return made


@pytest.fixture
def anna(meet):
    """Has tracked an object through all pages."""
    made = meet("anna")
    made.click(30, 50, page=0)
    made.say("track")
    assert len(made.regions) == PAGES
    return made


@pytest.mark.parametrize("word", ["status", "track", "redo", "stop", "clear"])
def test_an_empty_draft_gets_nothing_of_anothers_and_is_told_why(anna, meet, bench, word):
    steps, before = len(bench.steps), dict(anna.regions)
    bert = meet("bert")
    assert bert.say(word) == []
    assert bert.text == f"SAM 2: {NO_DRAFT}"
    assert len(bench.steps) == steps
    assert anna.say("status") == []  # the editor shows all of it already
    anna.regions = dict(list(before.items())[:1])
    anna.say("status")
    assert anna.regions.keys() == before.keys()


def test_each_tracks_their_own(anna, meet):
    bert = meet("bert")
    bert.click(30, 50, page=0)
    bert.say("track")
    assert len(bert.regions) == PAGES
    assert anna.regions.keys().isdisjoint(bert.regions)
    bert.regions = dict(list(bert.regions.items())[:1])
    assert len(bert.say("status")) == PAGES - 1  # and none of hers


def test_clearing_erases_ones_own_only(anna, meet, bench):
    cleo = meet("cleo")
    cleo.click(30, 50, page=0)
    cleo.say("track")
    cleo.say("clear")
    steps = len(bench.steps)
    anna.regions = dict(list(anna.regions.items())[:1])
    assert len(anna.say("track")) == PAGES - 1
    assert len(bench.steps) == steps  # nothing had to be tracked again


@pytest.mark.parametrize("page", [0, 5])
def test_the_same_click_takes_no_region_of_anothers(anna, meet, page):
    bert = meet("bert")
    bert.click(150, 150, page=9)  # has a draft
    [region] = bert.click(30 + page, 50, page=page)
    assert region["id"] not in anna.regions
    again = meet("cleo").click(30 + page, 50, page=page)  # and with an empty draft
    assert again[0]["id"] not in {*anna.regions, *bert.regions}


def test_the_same_prompt_becomes_a_region_of_each(bench, meet):
    ids = set()
    for name in ("anna", "bert"):
        person = meet(name)
        person.regions["mine"] = {"id": "mine", "type": "choices", "value": {}}
        [region] = person.send(click(30, 50, identifier="the same", page=0))
        ids.add(region["id"])
    assert len(ids) == 2


def test_tracks_from_before_owners_go_on_with_who_holds_their_regions(make_bench):
    """A draft that names nobody leaves a track under the name that every one had."""
    before = Person(make_bench(), "")
    before.bench.engine.wait_ready(PATIENCE)
    before.click(30, 50, page=0)
    before.say("track")
    one_of_them = list(before.regions.values())[:1]

    bench = make_bench()  # another process, on the same store
    bench.engine.wait_ready(PATIENCE)
    stranger = Person(bench, "bert")
    assert stranger.say("status") == []
    assert stranger.text == f"SAM 2: {NO_DRAFT}"
    stranger.click(30, 50, page=0)
    assert len(stranger.say("track")) == PAGES - 1
    assert before.regions.keys().isdisjoint(stranger.regions)

    steps = len(bench.steps)
    anna = Person(bench, "anna", regions=one_of_them)
    assert len(anna.say("status")) == PAGES - 1
    assert anna.regions.keys() == before.regions.keys()
    assert anna.say("track") == []
    assert len(bench.steps) == steps
    late = Person(bench, "cleo", regions=one_of_them)  # the track is somebody's now
    late.say("clear")
    assert anna.say("track") == []
    assert len(bench.steps) == steps


def test_what_was_clicked_before_there_was_a_draft_is_carried_on(make_bench):
    bench = make_bench(track_on_prompt=True)
    bench.engine.wait_ready(PATIENCE)
    for name in ("anna", "bert"):
        person = Person(bench, name)
        person.click(30, 50, page=0)
        [job, *_] = bench.store.jobs()
        bench.tracking.jobs.wait(job.id, PATIENCE)
        steps = len(bench.steps)
        person.say("track")
        assert len(person.regions) == PAGES
        assert len(bench.steps) == steps  # it is the track that the click began


# --- what a request says -------------------------------------------------------------------


def task_of(task, name="image"):
    return ProjectTask("1.1", task, CONFIG, parse_label_config(CONFIG))


def entry(number, *ids, **more):
    return {"id": number, "result": [{"id": each} for each in ids], **more}


def test_a_captured_draft_names_its_owner():
    captured = json.loads((CAPTURES / "02E_http200_not_json.json").read_text(encoding="utf-8"))

    def tasks(value):
        if isinstance(value, dict):
            yield from value.get("tasks") or []
        for each in value.values() if isinstance(value, dict) else value:
            if isinstance(each, dict | list):
                yield from tasks(each)

    found = [each for each in tasks(captured) if each.get("drafts")]
    assert found
    assert {task_of(each).owner for each in found} == {"1"}


@pytest.mark.parametrize(
    ("task", "owner", "held"),
    [
        ({"drafts": []}, None, set()),
        ({"drafts": [], "annotations": [entry(1, "a", completed_by=1)]}, None, set()),
        ({"drafts": [entry(1, "a", user="b@c.de", created_username="B, Cc, 7")]}, "7", {"a"}),
        ({"drafts": [entry(1, user="b@c.de")]}, "b@c.de", set()),
        ({"drafts": [entry(1, "a")]}, "", {"a"}),
        ({"annotations": [entry(1, "a", completed_by=1), entry(2, completed_by=4)]}, "4", {"a"}),
        ({"annotations": [entry(1, completed_by={"id": 3, "email": "c"})]}, "3", set()),
        ({}, "", set()),
        ({"drafts": "nonsense"}, None, set()),
    ],
)
def test_who_asks(task, owner, held):
    assert (task_of(task).owner, task_of(task).held) == (owner, held)


# --- what is remembered between two requests -----------------------------------------------


def named(name, *ids):
    made = {"user": name, "created_username": f"{name}, {USERS[name]}"}
    return task_of({"id": 7, "drafts": [entry(1, "note", *ids, **made)]})


def drawn(bench, task, *items):
    """The first prompt that items are."""
    from backend.labelstudio.prompts import prompts_from_context

    return prompts_from_context({"result": list(items)}, task.config).objects[0]


def test_boxes_and_fresh_regions_are_ones_own(bench):
    recent, anna, bert = RecentPrompts(), named("anna"), named("bert")
    boxed = drawn(bench, anna, box(10, 10, 40, 40, identifier="b"))
    point = drawn(bench, anna, click(20, 20))
    recent.remember_box(anna, boxed, "r1")
    recent.remember_sent(anna, [{"id": "r1", "type": "brushlabels"}])
    assert recent.box_for(bert, point) is None
    assert recent.fresh(bert) == []
    assert recent.box_for(anna, point) == (boxed.box, "r1")
    assert len(recent.fresh(anna)) == 1
    recent.forget_boxes(bert)
    recent.remember_note(bert, "cmd")
    assert recent.box_for(anna, point) is not None
    assert not recent.has_note(anna, "cmd")


def test_what_was_answered_without_a_draft_is_whose_draft_holds_it(bench):
    recent, nobody = RecentPrompts(), task_of({"id": 7, "drafts": []})
    boxed = drawn(bench, nobody, box(10, 10, 40, 40, identifier="b"))
    point = drawn(bench, nobody, click(20, 20))
    recent.remember_box(nobody, boxed, "r1")
    recent.remember_sent(nobody, [{"id": "r1", "type": "brushlabels"}])
    assert recent.box_for(named("bert"), point) is None
    assert recent.box_for(named("anna", "b"), point) == (boxed.box, "r1")
    assert recent.box_for(nobody, point) is None  # hers now
    assert len(recent.fresh(nobody)) == 1
    assert recent.fresh(named("anna", "r1")) == []  # her draft holds it
    assert recent.fresh(nobody) == []
