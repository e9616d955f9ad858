"""The review of a track: its JSON, bounded whatever a job tracks, and the page by keyboard."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from backend.engine.packed_masks import PackedMask
from backend.tracking.store import TrackedMask
from backend.web.track_page import MAX_POINTS
from tests.web.browsing import WebPages, serious_findings

CONFIG = """
<View>
  <Image name="image" valueList="$pages"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
</View>
"""
EVIL = '<img src=x onerror="document.title=1">'


def add_track(
    bench: Any,
    *,
    frames: int = 12,
    objects: tuple[str, ...] = ("cat", "dog"),
    lost: range = range(5, 8),
    state: str = "done",
    job: str = "job",
    marks: dict[str, Any] | None = None,
) -> str:
    """A track of squares on pages of 300 x 200 pixels; the first object is lost on some."""
    box = {"type": "rectanglelabels", "value": {}}
    request = {
        "project": "3.100",
        "task": {"id": 7, "data": {"pages": [f"/data/{page}.png" for page in range(frames)]}},
        "label_config": CONFIG,
        "kind": "sequence",
        "image": "image",
        "first": 0,
        "last": frames - 1,
        "direction": "forward",
        "objects": [{"id": each, "prompts": {"0": [box], **(marks or {})}} for each in objects],
    }
    bench.store.add_job(job, "track", f"digest {job}", request)
    bench.store.update_job(job, state=state, total=frames * len(objects))
    seen = np.zeros((200, 300), bool)
    seen[50:110, 40:120] = True
    there, away = PackedMask.pack(seen), PackedMask.pack(np.zeros_like(seen))
    for name in objects:
        bench.store.describe("track", name, {"labels": [name.title()], "from_name": "mask"})
    for frame in range(frames):
        found = [
            TrackedMask(name, frame, "a", away, 0.2, -4.0)
            if name == objects[0] and frame in lost
            else TrackedMask(name, frame, "a", there, 0.9, 5.0)
            for name in objects
        ]
        bench.store.put_masks("track", found, job_id=job, done=(frame + 1) * len(objects))
    return f"/tracks/{job}"


class TestCurves:
    def test_what_is_known_of_each_object(self, bench: Any) -> None:
        path = add_track(bench)
        said = bench.client.get(path + "/curves").json
        assert (said["first"], said["last"], said["step"], said["next"]) == (0, 11, 1, None)
        cat, dog = said["objects"]
        assert (cat["name"], dog["name"]) == ("1 Cat", "2 Dog")
        assert cat["colour"] != dog["colour"]
        assert cat["iou"] == [0.9] * 5 + [0.2] * 3 + [0.9] * 4
        assert cat["presence"][4] > 0.9 > 0.1 > cat["presence"][5]
        assert cat["marks"] == [{"frame": 0, "kind": "box", "correction": False}]
        frames = {f for each in cat["look"] for f in range(each["first"], each["last"] + 1)}
        assert {5, 6, 7} <= frames
        assert dog["look"] == []

    def test_what_was_marked_later_is_a_correction(self, bench: Any) -> None:
        add_track(bench, job="first")
        time.sleep(0.01)  # jobs are told apart by when they were made
        clicks = [{"type": "keypointlabels", "value": {}}]
        path = add_track(bench, job="second", marks={"6": clicks})
        [cat, _] = bench.client.get(path + "/curves").json["objects"]
        assert cat["marks"] == [
            {"frame": 0, "kind": "box", "correction": False},
            {"frame": 6, "kind": "clicks", "correction": True},
        ]

    def test_the_region_is_the_one_that_label_studio_has(
        self, make_bench: Callable[..., Any]
    ) -> None:
        bench = make_bench(label_studio_url="http://studio.example/app/")
        said = bench.client.get(add_track(bench) + "/curves").json
        assert said["label_studio"] == "http://studio.example/app/projects/3/data?task=7"
        request = bench.store.job("job").request
        task = bench.service.tracking._task(request)
        sequence = bench.service.tracking.sequences.sequence(task, "image", track="track")
        for look in said["objects"][0]["look"]:
            assert sequence.sent_ids()[look["region"]][:2] == ("cat", look["worst"])

    def test_it_is_sent_again_when_something_changes(self, bench: Any) -> None:
        path = add_track(bench, state="running") + "/curves"
        first = bench.client.get(path)
        tag = {"If-None-Match": first.headers["ETag"]}
        assert bench.client.get(path, headers=tag).status_code == 304
        mask = PackedMask.pack(np.ones((200, 300), bool))
        found = [TrackedMask("cat", 11, "b", mask, 0.5, 5.0)]
        bench.store.put_masks("track", found, job_id="job", done=25)
        again = bench.client.get(path, headers=tag)
        assert again.json["objects"][0]["iou"][11] == 0.5

    def test_a_job_that_has_nothing_yet(self, bench: Any) -> None:
        path = add_track(bench, frames=5, state="queued")
        bench.store.forget_masks("track")
        cat = bench.client.get(path + "/curves").json["objects"][0]
        assert (cat["iou"], cat["look"], cat["done"]) == ([None] * 5, [], 0)

    def test_many_objects_come_in_parts(self, bench: Any) -> None:
        names = tuple(f"o{number}" for number in range(30))
        path = add_track(bench, frames=3, objects=names)
        seen: list[str] = []
        begin: int | None = 0
        while begin is not None:
            said = bench.client.get(f"{path}/curves?from={begin}").json
            seen += [each["id"] for each in said["objects"]]
            assert len(said["objects"]) <= 12
            begin = said["next"]
        assert seen == list(names)
        assert bench.client.get(f"{path}/curves?from=99999999999").json["objects"] == []

    def test_no_such_job(self, bench: Any) -> None:
        for path in ("/tracks/none", "/tracks/none/curves", "/tracks/none/numbers"):
            assert bench.client.get(path).status_code == 404

    def test_pages_are_counted_from_one(self, bench: Any) -> None:
        said = bench.client.get(add_track(bench) + "/numbers").json
        assert said == {"numbers": [[0, 1]], "problem": ""}


def test_a_long_track_costs_what_is_shown(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 frames: no mask is read, no medium is opened, and the answer is small."""
    path = add_track(bench, frames=5000, lost=range(3000, 3050))
    monkeypatch.setattr(PackedMask, "unpack", lambda self: pytest.fail("a mask was unpacked"))
    for name in ("mask", "masks", "masks_on"):
        monkeypatch.setattr(bench.store, name, lambda *a: pytest.fail("a mask was read"))
    page, curves = bench.client.get(path), bench.client.get(path + "/curves")
    assert len(page.data) < 10_000
    assert len(curves.data) < 100_000
    cat = curves.json["objects"][0]
    assert len(cat["iou"]) <= MAX_POINTS
    assert min(value for value in cat["iou"] if value is not None) == 0.2
    [place] = cat["look"]
    assert (place["first"], place["last"], place["worst"]) == (3000, 3050, 3000)
    assert bench.shelf.fetched == []


def test_names_of_others_are_text(bench: Any) -> None:
    path = add_track(bench, objects=(EVIL, "dog"))
    assert "onerror" not in bench.client.get(path).text
    assert bench.client.get(path + "/curves").mimetype == "application/json"


@pytest.mark.slow
@pytest.mark.xdist_group("e2e")  # a process can drive one browser only
class TestInChromium:
    def test_a_track_is_reviewed_with_the_keyboard(self, web_pages: WebPages) -> None:
        page = web_pages.open(add_track(web_pages.bench))
        number = page.locator("#number")
        expect(number).to_have_text("1")
        expect(page.locator("#sheet button")).not_to_have_count(0)
        expect(page.locator("#picture")).to_have_js_property("complete", True)
        page.keyboard.press("ArrowRight")
        shown = int(number.inner_text()) - 1
        assert shown in range(5, 9)
        expect(page.locator("#here")).to_contain_text("1 Cat: lost")
        assert f"/jobs/job/pictures/{shown}?" in str(page.locator("#picture").get_attribute("src"))
        page.keyboard.press(".")
        expect(number).to_have_text(str(shown + 2))
        page.keyboard.press(",")
        page.keyboard.press(",")
        expect(number).to_have_text(str(shown))
        page.keyboard.press("ArrowLeft")
        assert web_pages.complaints == []

    def test_playing_stops_at_the_end_and_objects_are_hidden(self, web_pages: WebPages) -> None:
        page = web_pages.open(add_track(web_pages.bench, frames=4, lost=range(2, 3)))
        page.locator("#speed").select_option("10")
        page.get_by_role("button", name="Play").click()
        expect(page.locator("#number")).to_have_text("4")
        expect(page.get_by_role("button", name="Play")).to_have_attribute("aria-pressed", "false")
        places = page.locator("#sheet li").count()
        page.get_by_role("checkbox", name="1 Cat").uncheck()
        assert "objects=1&" in str(page.locator("#picture").get_attribute("src"))
        expect(page.locator("#sheet li")).to_have_count(0)
        page.get_by_role("checkbox", name="1 Cat").check()
        expect(page.locator("#sheet li")).to_have_count(places)

    def test_a_click_on_a_curve_goes_there(self, web_pages: WebPages) -> None:
        page = web_pages.open(add_track(web_pages.bench))
        page.locator(".object-curve .u-over").first.click(position={"x": 2, "y": 20})
        expect(page.locator("#number")).to_have_text("1")
        box = page.locator(".object-curve .u-over").first.bounding_box()
        assert box is not None
        page.locator(".object-curve .u-over").first.click(position={"x": box["width"] - 2, "y": 20})
        expect(page.locator("#number")).to_have_text("12")

    def test_a_running_job_moves_along(self, web_pages: WebPages) -> None:
        bench = web_pages.bench
        page = web_pages.open(add_track(bench, state="running"))
        expect(page.locator("#number")).to_have_text("1")
        # It has its place before it comes, or what is to be clicked on would move away.
        expect(page.locator("#picture")).to_have_attribute("width", "300")
        expect(page.locator("#picture")).to_have_attribute("height", "200")
        page.get_by_label("Follow the newest").check()
        expect(page.locator("#number")).to_have_text("12")
        bench.store.forget_masks("track")
        seen = PackedMask.pack(np.ones((200, 300), bool))
        found = [TrackedMask("cat", 3, "a", seen, 0.9, 5.0)]
        bench.store.put_masks("track", found, job_id="job", done=1)
        expect(page.locator("#progress-text")).to_contain_text("1 of 24")
        expect(page.locator("#number")).to_have_text("4")
        bench.store.update_job("job", state="done")
        expect(page.locator("#state")).to_have_text("done")
        expect(page.get_by_label("Follow the newest")).to_be_hidden()

    def test_names_of_others_do_nothing(self, web_pages: WebPages) -> None:
        bench = web_pages.bench
        add_track(bench, objects=(EVIL, "dog"))
        bench.store.describe("track", EVIL, {"labels": [EVIL], "from_name": "mask"})
        bench.store.update_job("job", state="failed", message=EVIL)
        page = web_pages.open("/tracks/job")
        expect(page.locator("#objects .name").first).to_have_text(f"1 {EVIL}")
        expect(page.locator("#message")).to_have_text(EVIL)
        assert page.title() == "Track of task 7 - SAM 2"
        assert page.locator("#objects img, #message img").count() == 0
        assert web_pages.complaints == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [375, 1400])
    def test_nothing_serious_keeps_people_out(
        self, web_pages: WebPages, scheme: str, width: int
    ) -> None:
        page = web_pages.open(add_track(web_pages.bench), width=width, color_scheme=scheme)
        expect(page.locator("#sheet button")).not_to_have_count(0)
        assert serious_findings(page) == []
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert web_pages.complaints == []
