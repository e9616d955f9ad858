"""Frame sequences: one click, ``track``, masks on all pages; corrections; jobs; restarts."""

from __future__ import annotations

import re
import sys
import threading
import time

import numpy as np
import pytest

from backend.engine.packed_masks import PackedMask
from backend.job_state import JobState
from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.read_results import Polygon
from backend.tracking import sequence, sequence_commands
from tests.backend.conftest import box, click
from tests.backend.fakes import Gate
from tests.labelstudio.masks import region_mask
from tests.waiting import LONGER, PATIENCE, until

CONFIG = """<View>
  <Image name="image" valueList="$frames"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true">
    <Label value="Cat"/><Label value="Dog"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
  <TextArea name="cmd" toName="image" placeholder="SAM 2: track"/>
</View>"""
PAGES = 10


class Editor:
    """An annotator's editor with Auto-Accept on: answers are kept, replaced by id, saved."""

    def __init__(self, bench, number=7, project="1.100"):
        self.bench, self.number, self.project = bench, number, project
        self.regions: dict[str, dict] = {}
        self.text = ""
        self.frames = [f"/data/upload/1/{page}.png" for page in range(PAGES)]

    def task(self):
        drafts = [{"id": 1, "result": list(self.regions.values())}] if self.regions else []
        return {"id": self.number, "data": {"frames": self.frames}, "drafts": drafts}

    def send(self, *results):
        task, project = self.task(), self.project
        reply = self.bench.predict(list(results), task=task, config=CONFIG, project=project)
        for item in reply["result"]:
            if item["type"] == "textarea":
                self.text = "".join(item["value"]["text"])
            elif item.get("dynamic"):  # accepting an answer deletes these
                self.regions.pop(item["id"], None)
            else:
                self.regions[item["id"]] = item
        return [i for i in reply["result"] if i["type"] != "textarea" and not i.get("dynamic")]

    def click(self, x, y, page, label="Cat", positive=True):
        name = f"kp-{x}-{y}-{page}-{len(self.regions)}"
        item = click(x, y, label, identifier=name, page=page, positive=positive)
        return self.send(item)

    def say(self, *entries):
        item = {"value": {"text": list(entries)}, "id": "t", "from_name": "cmd"}
        return self.send({**item, "to_name": "image", "type": "textarea"})

    def masks(self, label="Cat"):
        """By page: the union of the masks of a label, and how many there are."""
        found: dict[int, list[np.ndarray]] = {}
        for region in self.regions.values():
            if region["value"]["brushlabels"] == [label]:
                found.setdefault(region["item_index"], []).append(region_mask(region))
        return found


@pytest.fixture
def editor(bench):
    bench.engine.wait_ready(PATIENCE)
    return Editor(bench)


def noted(bench):
    """Whether the store knows of the newest prediction."""
    with bench.store.database.transaction() as connection:
        rows = connection.execute("SELECT prediction FROM delivered").fetchall()
    return len(bench.published) in [row["prediction"] for row in rows]


def columns(mask):
    found = np.flatnonzero(mask.any(axis=0))
    return int(found[0]), int(found[-1])


def test_one_click_and_track_fill_every_page(editor):
    [first] = editor.click(30, 50, page=0)
    tracked = editor.say("track")
    assert sorted(region["item_index"] for region in tracked) == list(range(1, PAGES))
    assert len({region["id"] for region in tracked} | {first["id"]}) == PAGES
    start, _ = columns(editor.masks()[0][0])
    for page, masks in editor.masks().items():
        assert len(masks) == 1
        assert columns(masks[0])[0] == start + page
    assert editor.text == "SAM 2: pages 1-10 of 10 done"


def test_asking_again_tracks_nothing_and_sends_nothing(editor, bench):
    editor.click(30, 50, page=0)
    editor.say("track")
    steps = len(bench.steps)
    assert editor.say("track") == []
    assert editor.say("status") == []
    assert len(bench.steps) == steps


def read_masks(monkeypatch):
    """Counts the masks that are read from here on."""
    read = []
    unpack = PackedMask.unpack
    monkeypatch.setattr(PackedMask, "unpack", lambda mask: (read.append(mask), unpack(mask))[1])
    return read


def test_a_reply_holds_so_many_regions_and_says_where_the_rest_is(editor, monkeypatch):
    monkeypatch.setattr(sequence_commands, "MAX_REGIONS", 4)
    editor.click(30, 50, page=4)
    shown = editor.say("track both")
    assert sorted(region["item_index"] for region in shown) == [2, 3, 5, 6]  # nearest to page 4
    assert "5 masks are not shown yet: type status for those next nearest to page 5" in editor.text
    assert sorted(region["item_index"] for region in editor.say("status")) == [0, 1, 7, 8]
    assert "1 mask is not shown yet" in editor.text
    assert [region["item_index"] for region in editor.say("status")] == [9]
    assert "not shown" not in editor.text


def test_the_page_that_a_request_names_is_the_one_at_hand(editor, monkeypatch):
    monkeypatch.setattr(sequence_commands, "MAX_REGIONS", 2)
    editor.click(30, 50, page=0)
    editor.say("track")
    typed = {"value": {"text": ["status"]}, "id": "t", "from_name": "cmd", "to_name": "image"}
    shown = editor.send({**typed, "type": "textarea", "item_index": 8})
    assert sorted(region["item_index"] for region in shown) == [7, 8]


def test_a_reply_reads_only_the_masks_that_it_shows(editor, monkeypatch):
    editor.click(30, 50, page=0)
    editor.say("track")
    editor.regions.clear()
    monkeypatch.setattr(sequence_commands, "MAX_REGIONS", 3)
    read = read_masks(monkeypatch)
    assert len(editor.say("status")) == 3
    assert len(read) <= 4  # and the one that is left


def test_a_delivery_reads_one_mask_after_the_other(make_bench, monkeypatch):
    bench = make_bench(track_budget_seconds=0.3)
    bench.engine.wait_ready(PATIENCE)
    editor = Editor(bench)
    editor.click(30, 50, page=0)
    counts = []

    def store_prediction(task, result, **kwargs):
        counts.extend(len(read) for _ in result)
        return {"id": 1}

    monkeypatch.setattr(bench, "create_prediction", store_prediction)
    bench.track_hold.clear()
    editor.say("track")
    read = read_masks(monkeypatch)
    bench.track_hold.set()
    until(lambda: len(counts) == PAGES)
    assert counts == [*range(counts[0], counts[0] + PAGES - 1), counts[-1]]


def test_a_stride_tracks_few_pages_and_fills_the_others(editor, bench):
    editor.click(30, 50, page=0)
    tracked = editor.say("track stride=3")
    assert sorted(region["item_index"] for region in tracked) == list(range(1, PAGES))
    assert len(bench.steps) == len([0, 3, 6, 9])
    # Without one, the pages between are no answer.
    assert sorted(region["item_index"] for region in editor.say("track")) == list(range(1, PAGES))
    assert len(bench.steps) == 4 + PAGES


def test_ranges_and_directions(editor):
    editor.click(30, 50, page=4)
    assert sorted(r["item_index"] for r in editor.say("track 3-7")) == [2, 3, 5, 6]
    assert sorted(r["item_index"] for r in editor.say("track back")) == [0, 1]
    assert sorted(r["item_index"] for r in editor.say("track both")) == [7, 8, 9]
    assert "no range" in (editor.say("track 20-30"), editor.text)[1]
    assert "the pages are 1-10" in editor.text


def test_a_correction_changes_only_the_pages_behind_it(editor, bench):
    editor.click(30, 50, page=0)
    editor.say("track")
    before = {page: masks[0] for page, masks in editor.masks().items()}
    # The annotator deletes the mask of page 5 and clicks anew, elsewhere.
    [gone] = [r["id"] for r in editor.regions.values() if r["item_index"] == 5]
    del editor.regions[gone]
    editor.click(60, 50, page=5)
    bench.steps.clear()
    changed = editor.say("track")
    assert sorted(region["item_index"] for region in changed) == [6, 7, 8, 9]
    after = editor.masks()
    assert all(len(masks) == 1 for masks in after.values())
    assert all((after[page][0] == before[page]).all() for page in range(5))
    start, _ = columns(after[5][0])
    assert [columns(after[page][0])[0] - start for page in range(6, 10)] == [1, 2, 3, 4]
    assert min(bench.steps) >= 5


@pytest.fixture
def tracked(editor, bench):
    """A disc at 30 % of page 0, one pixel farther on each page; what comes fresh is saved."""
    editor.click(30, 50, page=0)
    editor.say("track")
    bench.now += 60
    bench.predictor.calls.clear()
    return editor


def on(editor, page):
    """The only region of a page."""
    [region] = [each for each in editor.regions.values() if each["item_index"] == page]
    return region


@pytest.mark.parametrize("page", [0, 5])  # marked by a human; tracked
def test_a_click_beside_a_tracked_region_refines_it_in_place(tracked, bench, page):
    before = on(tracked, page)
    tracked.click(42, 50, page)
    after = on(tracked, page)
    assert after["id"] == before["id"]
    grown, shown = region_mask(after), region_mask(before)
    assert grown[shown].mean() > 0.95
    assert grown[100, 126]
    memory = bench.predictor.calls[-1]["memory"]
    known = {frame: known.prompted for frame, known in memory.known.items()}
    # Of the marked page itself only the tracked ones behind it are left.
    assert known == ({1: True, 2: False} if page == 0 else {0: True, 4: False, 3: False})
    assert (memory.frame, memory.num_frames, memory.reverse) == (page, PAGES, page == 0)


def test_a_correction_leaves_pages_out_where_time_is_short(tracked, bench, monkeypatch):
    monkeypatch.setattr("backend.engine.local.RECALL_SECONDS", -1.0)
    tracked.click(42, 50, page=5)
    assert list(bench.predictor.calls[-1]["memory"].known) == [0]


def test_an_alt_click_takes_away_and_clicks_add_up_though_each_comes_alone(tracked, bench):
    tracked.click(42, 50, page=5)
    tracked.click(30, 43, page=5, positive=False)
    mask = region_mask(on(tracked, 5))
    assert mask[100, 126]
    assert not mask[86, 90]
    call = bench.predictor.calls[-1]
    assert call["labels"].tolist() == [1, 0]
    changed = tracked.say("track")
    assert sorted(region["item_index"] for region in changed) == [6, 7, 8, 9]
    assert (region_mask(on(tracked, 6)) == np.roll(mask, 1, axis=1)).all()


def test_a_click_that_was_undone_in_the_editor_does_not_come_back(tracked, bench):
    before = on(tracked, 5)
    tracked.click(42, 50, page=5)
    tracked.regions[before["id"]] = before
    bench.now += 60
    tracked.click(30, 43, page=5, positive=False)
    assert not region_mask(on(tracked, 5))[100, 126]


def test_a_click_far_off_is_another_object(tracked):
    tracked.click(80, 50, page=5)
    assert len([each for each in tracked.regions.values() if each["item_index"] == 5]) == 2


def test_of_two_objects_the_nearer_one_is_refined(editor, bench):
    editor.click(30, 30, page=0)
    editor.click(30, 60, page=0)
    editor.say("track")
    bench.now += 60
    upper, lower = sorted(
        (each for each in editor.regions.values() if each["item_index"] == 5),
        key=lambda each: np.nonzero(region_mask(each))[0].mean(),
    )
    editor.click(33, 72, page=5)
    assert (region_mask(editor.regions[upper["id"]]) == region_mask(upper)).all()
    assert region_mask(editor.regions[lower["id"]])[144, 99]
    assert len(editor.regions) == 2 * PAGES


def test_a_click_with_another_label_is_another_object(tracked):
    tracked.click(33, 50, page=5, label="Dog")
    assert len([each for each in tracked.regions.values() if each["item_index"] == 5]) == 2


def test_a_correction_between_two_stops_at_the_next(editor):
    editor.click(30, 50, page=0)
    editor.say("track")
    for page, x in ((7, 70), (3, 60)):
        [gone] = [r["id"] for r in editor.regions.values() if r["item_index"] == page]
        del editor.regions[gone]
        editor.click(x, 50, page=page)
        changed = sorted(region["item_index"] for region in editor.say("track"))
        assert changed == ([8, 9] if page == 7 else [4, 5, 6])


def test_a_region_that_was_saved_is_replaced_and_not_updated(editor, bench):
    """The editor may have been opened with it, and saves what it was opened with."""
    editor.click(30, 50, page=0)
    editor.say("track")
    for round_, x in enumerate((60, 45), start=1):
        before = {r["item_index"]: r["id"] for r in editor.regions.values()}
        bench.now += 60
        del editor.regions[before[5]]
        editor.click(x, 50, page=5)
        editor.say("track")
        after = {r["item_index"]: r["id"] for r in editor.regions.values()}
        assert len(editor.regions) == PAGES
        for page in range(PAGES):
            replaced = page > 5
            assert (after[page] != before[page]) == replaced or page == 5
        assert after[7].endswith(f"-{round_}")
    assert editor.say("status") == []


def test_a_click_on_a_page_that_was_replaced_corrects_its_newest_region(editor):
    editor.click(30, 50, page=0)
    editor.say("track")
    late = dict(editor.regions)
    [gone] = [r["id"] for r in editor.regions.values() if r["item_index"] == 5]
    del editor.regions[gone]
    editor.click(60, 50, page=5)
    editor.say("track")
    [shown] = [r for r in editor.regions.values() if r["item_index"] == 7]
    item = {**box(54, 40, 14, 20, identifier="redrawn"), "item_index": 7}
    [answer] = editor.send(item)
    assert answer["id"] == shown["id"]
    # The draft is late and shows the region before: it must not stay beside the new one.
    [old] = [r for r in late.values() if r["item_index"] == 7]
    editor.regions = {old["id"]: old}
    editor.send({**item, "id": "again"})
    assert list(editor.regions) == [shown["id"]]


def test_a_late_draft_is_no_human_mark(editor, bench):
    """Masks that the editor has replaced and not saved yet are not taken for painted ones."""
    editor.click(30, 50, page=0)
    editor.say("track")
    late = {r["item_index"]: r for r in editor.regions.values()}
    del editor.regions[late[5]["id"]]
    editor.click(60, 50, page=5)
    editor.say("track")
    kept = dict(editor.regions)
    clicked = [r for r in kept.values() if r["item_index"] == 5]
    editor.regions = {r["id"]: r for r in [*clicked, *(late[p] for p in late if p != 5)]}
    bench.steps.clear()
    editor.say("track")
    assert bench.steps == []
    assert editor.regions.keys() == kept.keys()


def test_what_a_human_wrote_on_a_region_goes_to_the_one_that_replaces_it(editor):
    editor.click(30, 50, page=0)
    editor.say("track")
    pages = {r["item_index"]: r["id"] for r in editor.regions.values()}
    del editor.regions[pages[5]]
    note = {"id": pages[7], "from_name": "note", "to_name": "image", "type": "choices"}
    note |= {"item_index": 7, "value": {"choices": ["blurred"]}}
    task = editor.task
    editor.task = lambda: {
        **task(),
        "drafts": [{"id": 1, "result": [*editor.regions.values(), note]}],
    }
    editor.click(60, 50, page=5)
    changed = editor.say("track")
    [written] = [item for item in changed if item["type"] == "choices"]
    [mask] = [i for i in changed if i["item_index"] == 7 and i["type"] == "brushlabels"]
    assert (written["id"], written["value"]) == (mask["id"], note["value"])


def test_what_a_human_painted_is_a_prompt_and_is_kept(editor):
    """A tracked region that was painted over rules the pages behind it and is not replaced."""
    editor.click(30, 50, page=0)
    editor.say("track")
    [region] = [r for r in editor.regions.values() if r["item_index"] == 4]
    painted = np.zeros((200, 300), bool)
    painted[50:150, 200:260] = True
    region = {**region, "value": {**region["value"], "rle": encode_brush(painted)}}
    editor.regions[region["id"]] = region
    changed = editor.say("track")
    assert sorted(r["item_index"] for r in changed) == [5, 6, 7, 8, 9]
    assert editor.regions[region["id"]] is region
    assert columns(editor.masks()[9][0]) == (205, 264)


def test_masks_that_the_editor_encoded_anew_are_neither_tracked_nor_sent_again(editor, bench):
    """Submitting writes the same mask in other bytes: with other colours below its alpha."""
    from label_studio_sdk.converter.brush import encode_rle

    editor.click(30, 50, page=0)
    editor.say("track")
    for name, region in editor.regions.items():
        mask = region_mask(region)
        pixels = np.repeat((mask * 255).astype(np.uint8).ravel(), 4)
        pixels[::4] //= 2
        value = {**region["value"], "rle": encode_rle(pixels)}
        assert value != region["value"]
        editor.regions[name] = {**region, "value": value}
    bench.steps.clear()
    assert editor.say("track") == []
    assert editor.say("status") == []
    assert bench.steps == []


def test_a_label_that_a_human_changed_is_kept(editor):
    editor.click(30, 50, page=0)
    editor.say("track")
    [region] = [r for r in editor.regions.values() if r["item_index"] == 4]
    value = {**region["value"], "brushlabels": ["Dog"]}
    editor.regions[region["id"]] = {**region, "value": value}
    editor.say("track")
    assert editor.regions[region["id"]]["value"]["brushlabels"] == ["Dog"]


def test_a_box_around_a_tracked_object_corrects_it_in_place(editor):
    editor.click(30, 50, page=0)
    editor.say("track")
    [tracked] = [r for r in editor.regions.values() if r["item_index"] == 3]
    item = box(23, 39, 17, 24, identifier="redrawn")
    [answer] = editor.send({**item, "item_index": 3})
    assert answer["id"] == tracked["id"]
    assert sorted(r["item_index"] for r in editor.say("track")) == [4, 5, 6, 7, 8, 9]


def test_new_objects_are_not_compared_with_each_other(editor, bench, monkeypatch):
    """What has no masks yet needs no look into the store, however many there are."""
    asked = []
    look_up = bench.store.mask

    def counted(*place):
        asked.append(place)
        return look_up(*place)

    for number in range(30):
        item = box(3 * number, 10, 2, 20, identifier=f"box-{number}")
        editor.regions[f"box-{number}"] = {**item, "item_index": number % PAGES}
    monkeypatch.setattr(bench.store, "mask", counted)
    monkeypatch.setattr("backend.tracking.sequence_commands.MANY_OBJECTS", 29)
    editor.say("track")
    assert "30 objects are marked, and 29 can be tracked at once" in editor.text
    assert asked == []


def test_two_objects_of_one_label_and_one_of_another(editor):
    editor.click(20, 30, page=0)
    editor.click(70, 70, page=0)
    editor.click(50, 50, page=2, label="Dog")
    editor.say("track")
    cats, dogs = editor.masks("Cat"), editor.masks("Dog")
    assert all(len(cats[page]) == 2 for page in range(PAGES))
    assert sorted(dogs) == list(range(2, PAGES))
    assert len({region["id"] for region in editor.regions.values()}) == 2 * PAGES + 8


def test_prompts_of_several_pages_are_one_object(editor):
    editor.send(click(30, 50, identifier="a", page=0), click(60, 50, identifier="b", page=6))
    editor.say("track")
    masks = editor.masks()
    assert all(len(masks[page]) == 1 for page in range(PAGES))
    assert columns(masks[9][0])[0] == columns(masks[6][0])[0] + 3


def test_the_draft_may_be_late(editor, bench):
    """The answer of the last seconds counts although no draft holds it yet."""
    editor.click(30, 50, page=0)
    editor.regions.clear()
    assert len(editor.say("track")) == PAGES - 1


def test_nothing_marked_help_and_single_pictures(editor, bench):
    editor.say("track")
    assert "nothing is marked" in editor.text
    editor.say("help")
    assert "track both" in editor.text
    item = {"value": {"text": ["track"]}, "id": "t", "from_name": "s", "to_name": "image"}
    config = CONFIG.replace('valueList="$frames"', 'value="$image"').replace('"cmd"', '"s"')
    reply = bench.predict([{**item, "type": "textarea"}], config=config)
    assert "single picture" in reply["result"][0]["value"]["text"][0]


class TestLongTracks:
    @pytest.fixture
    def bench(self, make_bench):
        return make_bench(track_budget_seconds=0.3)

    def test_a_reply_keeps_its_time_and_status_brings_the_rest(self, editor, bench):
        editor.click(30, 50, page=0)
        bench.track_hold.clear()
        start = time.monotonic()
        assert editor.say("track") == []
        assert time.monotonic() - start < PATIENCE / 2  # every other budget is longer
        assert "type status" in editor.text
        bench.track_hold.set()
        job = bench.store.jobs()[0]
        assert bench.tracking.jobs.wait(job.id, PATIENCE).state is JobState.DONE
        assert len(editor.say("status")) == PAGES - 1

    def test_a_job_that_outlives_its_request_is_stored_as_a_prediction(self, editor, bench):
        editor.click(30, 50, page=0)
        bench.track_hold.clear()
        editor.say("track")
        bench.track_hold.set()
        until(lambda: bench.published)
        [published] = bench.published
        pages = [region["item_index"] for region in published["result"]]
        assert sorted(pages) == list(range(PAGES))

    def test_what_the_editor_has_got_is_no_prediction_any_more(self, editor, bench):
        editor.click(30, 50, page=0)
        bench.track_hold.clear()
        editor.say("track")
        bench.track_hold.set()
        until(lambda: noted(bench))
        assert bench.deleted == []
        assert len(editor.say("status")) == PAGES - 1
        assert bench.deleted == [1]
        assert not bench.store.due()

    def test_a_corrected_page_is_stored_once(self, editor, bench):
        editor.click(30, 50, page=0)
        bench.track_hold.clear()
        editor.say("track")
        bench.track_hold.set()
        until(lambda: bench.published)
        editor.say("status")
        [gone] = [r["id"] for r in editor.regions.values() if r["item_index"] == 5]
        del editor.regions[gone]
        editor.click(60, 50, page=5)
        bench.track_hold.clear()
        bench.published.clear()
        editor.say("track")
        bench.track_hold.set()
        until(lambda: bench.published)
        pages = [region["item_index"] for region in bench.published[-1]["result"]]
        assert sorted(pages) == list(range(PAGES))

    def test_a_prediction_of_a_track_replaces_the_one_before(self, editor, bench):
        editor.click(30, 50, page=0)
        for count in (1, 2):
            bench.track_hold.clear()
            editor.say("redo")
            bench.track_hold.set()
            until(lambda count=count: len(bench.published) == count)
            until(lambda: noted(bench))
        until(lambda: bench.deleted)
        assert bench.deleted == [1]

    def test_what_is_left_is_told_from_the_frames_of_this_run(self, editor, bench):
        """And not from the time since the job was made, over which it may have stood still."""
        editor.click(30, 50, page=0)
        put = bench.store.put_masks
        reached, go_on = threading.Event(), threading.Event()

        def halfway(track, masks, **kwargs):
            if masks[0].frame == 5:
                reached.set()
                assert go_on.wait(LONGER)
            put(track, masks, **kwargs)

        bench.store.put_masks = halfway
        add = bench.store.add_job

        def long_ago(*args, **options):
            job = add(*args, **options)
            with bench.store.database.transaction() as connection:
                connection.execute("UPDATE jobs SET created = created - 86400")
            return job

        bench.store.add_job = long_ago
        editor.say("track")
        assert reached.wait(PATIENCE)
        editor.say("status")
        go_on.set()
        assert "pages 1-5 of 10 done" in editor.text
        left = int(editor.text.split(" s left")[0].split()[-1])
        assert left <= 300  # a day for 4 frames would be more than one for 5

    def test_the_same_command_joins_the_running_job(self, editor, bench):
        editor.click(30, 50, page=0)
        bench.track_hold.clear()
        editor.say("track")
        editor.say("track")
        assert len(bench.store.jobs()) == 1

    def test_stop_keeps_what_is_done(self, editor, bench):
        editor.click(30, 50, page=0)
        bench.track_hold.clear()
        editor.say("track")
        bench.track_hold.set()
        editor.say("stop")
        until(lambda: bench.store.jobs()[0].state.ended)
        assert editor.say("status") is not None

    def test_a_page_that_cannot_be_read_is_told_and_the_rest_is_kept(self, editor, bench):
        editor.click(30, 50, page=0)
        fetch = bench.shelf.fetch

        def broken(uri, *, task_id=None):
            return fetch("missing" if uri.endswith("/5.png") else uri, task_id=task_id)

        bench.shelf.fetch = broken
        editor.say("track")
        until(lambda: bench.store.jobs()[0].state.ended)
        editor.say("status")
        assert "not there" in editor.text
        assert sorted(editor.masks()) == [0, 1, 2, 3, 4]


class TestManyOutlines:
    """Each outline may take seconds to draw on a large picture; here a clock says that it does."""

    CONFIG = CONFIG.replace(
        "<TextArea",
        '<PolygonLabels name="poly" toName="image"><Label value="Cat"/></PolygonLabels><TextArea',
    )

    @pytest.fixture
    def clock(self, monkeypatch):
        class Clock:
            ahead = 0.0

            def monotonic(self):
                return time.monotonic() + self.ahead

        clock = Clock()
        monkeypatch.setattr(sequence, "time", clock, raising=False)
        return clock

    @pytest.fixture
    def drawn(self, monkeypatch, clock):
        """The outlines that are drawn in requests, of which each takes a fifth of the budget."""
        drawn, draw = [], sequence.rasterise

        def slow(geometry, *args, **options):
            if isinstance(geometry, Polygon):
                drawn.append(geometry)
                clock.ahead += PATIENCE / 5
            return draw(geometry, *args, **options)

        monkeypatch.setattr(sequence, "rasterise", slow)
        return drawn

    def test_all_share_the_time_of_the_request(self, editor, monkeypatch, drawn):
        monkeypatch.setattr(sys.modules[__name__], "CONFIG", self.CONFIG)
        editor.click(30, 50, page=0)
        editor.say("track")
        for number in range(100):
            value = {"points": [[70, 70], [90, 70], [80, 90]], "polygonlabels": ["Cat"]}
            editor.regions[f"p{number}"] = {
                "id": f"p{number}", "type": "polygonlabels", "from_name": "poly", "value": value,
                "to_name": "image", "item_index": 1 + number % 9,
                "original_width": 300, "original_height": 200,
            }  # fmt: skip
        editor.say("track")
        assert 1 <= len(drawn) <= 6
        assert re.search(r"; 9\d regions are left out, from page 2 on, as there", editor.text)

    def test_what_there_is_no_time_for_is_left_as_it_is(self, editor, clock):
        editor.click(30, 50, page=0)
        editor.say("track")
        [region] = [r for r in editor.regions.values() if r["item_index"] == 4]
        painted = np.zeros((200, 300), bool)
        painted[50:150, 200:260] = True
        region = {**region, "value": {**region["value"], "rle": encode_brush(painted)}}
        editor.regions[region["id"]] = region
        clock.ahead = 10 * PATIENCE
        editor.say("status")
        assert editor.regions[region["id"]] is region
        assert "10 regions are left out, from page 1 on, as there was no time" in editor.text

    def test_a_job_says_that_it_had_no_time(self, editor, bench, monkeypatch):
        monkeypatch.setattr(sequence_commands, "JOB_SECONDS", 0.0)
        editor.click(30, 50, page=0)
        editor.say("track")
        until(lambda: bench.store.jobs()[0].state.ended)
        editor.say("status")
        assert "minutes to draw: mark fewer at once" in editor.text


class TestOnPrompt:
    """``TRACK_ON_PROMPT``: every prompt is tracked on in the background."""

    @pytest.fixture
    def bench(self, make_bench):
        return make_bench(track_on_prompt=True)

    def test_a_click_answers_its_page_and_its_track_comes_with_status(self, editor, bench):
        bench.track_hold.clear()
        [answer] = editor.click(30, 50, page=0)
        assert answer["item_index"] == 0
        assert "no page is done yet" in editor.text
        bench.track_hold.set()
        until(lambda: bench.published)
        assert sorted(r["item_index"] for r in editor.say("status")) == list(range(1, PAGES))
        start, _ = columns(editor.masks()[0][0])
        assert columns(editor.masks()[9][0])[0] == start + 9
        stored = {item["item_index"] for item in bench.published[0]["result"]}
        assert stored == set(range(PAGES))

    def test_the_next_prompt_brings_what_is_done(self, editor, bench):
        editor.click(30, 50, page=0)
        until(lambda: bench.store.jobs()[0].state.ended)
        answer = editor.click(60, 20, page=0, label="Dog")
        assert sorted(r["item_index"] for r in answer if r["value"]["brushlabels"] == ["Cat"]) == (
            list(range(1, PAGES))
        )

    def test_a_further_prompt_corrects_the_running_track(self, editor, bench, monkeypatch):
        # Held where masks are stored: a track held in the model would hold the click as well.
        storing, put_masks = Gate(), bench.store.put_masks

        def held(*args, **kwargs):
            storing.pass_through()
            return put_masks(*args, **kwargs)

        monkeypatch.setattr(bench.store, "put_masks", held)
        storing.clear()
        editor.click(30, 50, page=0)
        [first] = bench.store.jobs()
        assert storing.reached.wait(PATIENCE)
        editor.click(60, 50, page=5)
        storing.set()
        until(lambda: all(job.state.ended for job in bench.store.jobs()))
        second, _ = bench.store.jobs()
        assert bench.store.job(first.id).state is JobState.CANCELLED
        assert second.state is JobState.DONE
        until(lambda: bench.published)
        assert len(bench.published) == 1
        editor.say("status")
        masks = {page: columns(found[0])[0] for page, found in editor.masks().items()}
        assert all(len(found) == 1 for found in editor.masks().values())
        assert [masks[page] - masks[0] for page in range(5)] == list(range(5))
        assert [masks[page] - masks[5] for page in range(5, PAGES)] == list(range(5))

    def test_a_correction_of_the_same_page_counts_though_the_draft_is_older(self, editor, bench):
        [first] = editor.click(30, 50, page=0)
        until(lambda: bench.store.jobs()[0].state.ended)
        item = {**box(23, 39, 17, 24, identifier="again"), "item_index": 0}
        saved = dict(editor.regions)
        editor.send({**item, "id": "kp-30-50-0-0"})  # the same prompt's region, in place
        assert first["id"] in saved
        until(lambda: all(job.state.ended for job in bench.store.jobs()))
        editor.say("status")
        assert columns(editor.masks()[4][0]) == tuple(
            edge + 4 for edge in columns(editor.masks()[0][0])
        )

    def test_a_defect_of_tracking_costs_no_click(self, editor, bench):
        def broken(*args):
            raise ZeroDivisionError

        bench.store.add_job = broken
        assert len(editor.click(30, 50, page=0)) == 1
        assert "failed on the other frames" in editor.text

    def test_a_picture_is_no_sequence(self, bench):
        bench.engine.wait_ready(PATIENCE)
        config = CONFIG.replace('valueList="$frames"', 'value="$image"')
        reply = bench.predict([click(30, 50)], config=config)
        assert [item["type"] for item in reply["result"]] == ["brushlabels", "textarea"]
        assert bench.store.jobs() == []


def test_clear_forgets(editor):
    editor.click(30, 50, page=0)
    editor.say("track")
    editor.say("clear")
    assert editor.text == ""
    assert editor.say("status") == []


@pytest.mark.parametrize("half", ["\ud800", "\udc00\ud800"])
def test_half_a_character_in_an_address_fails_no_command(editor, half):
    editor.frames[PAGES - 1] = f"/data/upload/1/{half}.png"
    editor.click(30, 50, page=0)
    editor.say("track")
    assert len(editor.masks()) == PAGES
    for command in ("status", "redo"):
        editor.say(command)
        assert f"of {PAGES} done" in editor.text, command
    editor.say("stop")
    assert "nothing is being tracked" in editor.text


def test_long_tracks_of_one_project_hold_up_nobody_elses(make_bench):
    """More of them than run side by side, and all at a page that takes its time."""
    bench = make_bench(track_budget_seconds=0.0)
    bench.engine.wait_ready(PATIENCE)
    fetch, come = bench.shelf.fetch, threading.Event()

    def slow(uri, **kwargs):
        assert "long" not in uri or come.wait(LONGER)
        return fetch(uri, **kwargs)

    bench.shelf.fetch = slow
    busy = [Editor(bench, number, "1.1") for number in range(1, 5)]
    for each in busy:
        each.frames[3] = "/data/upload/1/long.png"
        each.click(30, 50, page=0)
        each.say("track")
    until(lambda: sum(job.state is JobState.RUNNING for job in bench.store.jobs()) == 2)
    other = Editor(bench, 9, "2.2")
    other.click(30, 50, page=0)
    other.say("track")
    until(lambda: [job.state for job in bench.store.jobs() if job.project == "2.2"] == ["done"])
    assert not any(job.state.ended for job in bench.store.jobs() if job.project == "1.1")
    come.set()
    until(lambda: all(job.state is JobState.DONE for job in bench.store.jobs()))


def test_redo_tracks_anew(editor, bench):
    editor.click(30, 50, page=0)
    editor.say("track")
    bench.steps.clear()
    editor.say("redo")
    assert len(bench.steps) >= PAGES - 1


def test_a_restart_goes_on_after_the_last_finished_frame(make_bench):
    first = make_bench()
    first.engine.wait_ready(PATIENCE)
    editor = Editor(first)
    editor.click(30, 50, page=0)
    put = first.store.put_masks

    def stop_after_four(track, masks, **kwargs):
        put(track, masks, **kwargs)
        if masks[0].frame == 4:
            first.tracking.jobs._stopping = True

    first.store.put_masks = stop_after_four
    editor.say("track")
    first.tracking.jobs.close()
    assert first.store.jobs()[0].state is JobState.RUNNING  # as a kill would leave it
    second = make_bench()
    second.engine.wait_ready(PATIENCE)
    assert second.tracking.jobs.resume() == 1
    job = second.store.jobs()[0]
    assert second.tracking.jobs.wait(job.id, PATIENCE).state is JobState.DONE
    assert min(second.steps) >= 4
    editor.bench = second
    editor.say("status")
    start, _ = columns(editor.masks()[0][0])
    assert [columns(editor.masks()[page][0])[0] - start for page in range(PAGES)] == list(
        range(PAGES)
    )
