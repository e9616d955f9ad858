"""The overview: what runs, what was asked, what is wrong; and names that are meant to do harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backend.doctor.findings import Diagnosis
from backend.labelstudio.commands import CHEAT_SHEET, TextKind, parse_command
from backend.metrics import LastHour
from backend.predict.asked_lately import KEPT
from backend.tracking.database import StoreError
from tests.backend.conftest import box, click
from tests.backend.test_sequences import PAGES, Editor
from tests.waiting import until
from tests.web.browsing import WebPages, is_too_wide, serious_findings

HOSTILE = "<img src=x onerror=window.harmed=1>\"'`{{7*7}}</script><script>window.harmed=1</script>"


def hostile_config(name: str) -> str:
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = escaped.replace('"', "&quot;")
    return f"""<View><Image name="image" value="$image"/>
      <BrushLabels name="mask" toName="image"><Label value="{escaped}"/></BrushLabels>
      <KeyPointLabels name="kp" toName="image" smart="true"><Label value="{escaped}"/>
      </KeyPointLabels><TextArea name="status" toName="image"/></View>"""


class TestAsked:
    def test_a_click_is_told_with_its_answer(self, bench: Any) -> None:
        bench.predict([click(50, 50), click(10, 10, positive=False, identifier="no")])
        [asked] = bench.client.get("/overview").json["asked"]
        assert (asked["project"], asked["task"], asked["tool"]) == ("1", "7", "point")
        assert (asked["label"], asked["prompts"]) == ("Cat", "2 clicks, 1 of them negative")
        assert (asked["outcome"], asked["answer"]) == ("ok", "1 region")
        assert asked["seconds"] >= 0

    def test_so_are_boxes_commands_and_what_failed(self, bench: Any) -> None:
        bench.predict([box(10, 10, 30, 30, "Dog")])
        text = {"type": "textarea", "from_name": "status", "to_name": "image", "id": "t",
                "value": {"text": ["status"]}}  # fmt: skip
        bench.predict([text])
        bench.predict([click(50, 50)], task={"id": 8, "data": {"image": "/data/missing.png"}})
        failed, command, boxed = bench.client.get("/overview").json["asked"]
        assert (boxed["tool"], boxed["label"], boxed["prompts"]) == ("box", "Dog", "1 box")
        assert (command["tool"], command["prompts"]) == ("text", "status")
        assert "is ready" in command["answer"]
        assert (failed["task"], failed["outcome"]) == ("8", "error")
        assert "the picture is not there" in failed["answer"]

    def test_no_project_drives_out_anothers_and_no_name_is_kept_whole(self, bench: Any) -> None:
        bench.predict([click(50, 50)], project="1.100")
        for _ in range(KEPT + 5):
            bench.predict([click(50, 50, "x" * 10_000)], project="2.100")
        asked = bench.service.asked.newest(1000)
        assert [each.project for each in asked].count("2") == KEPT
        assert [each.project for each in asked].count("1") == 1
        assert all(len(each.label) < 300 for each in asked)
        assert len(bench.service.asked.newest(1000, project=1)) == 1

    def test_retrievals_are_no_clicks(self, bench: Any) -> None:
        bench.predict(None)
        assert bench.client.get("/overview").json["asked"] == []


class TestLastHour:
    def test_each_minute_has_its_own(self) -> None:
        now = 0.0
        hour = LastHour(lambda: now)
        for number in range(100):
            hour.observe(number / 100)
        now = 59 * 60.0
        hour.observe(7.0)
        minutes = hour.minutes()
        assert [each.count for each in minutes] == [100, *([0] * 58), 1]
        assert (minutes[0].median, minutes[0].p95, minutes[1].p95) == (0.5, 0.95, None)
        assert hour.whole().count == 101
        now = 60 * 60.0
        assert [each.count for each in hour.minutes()] == [*([0] * 58), 1, 0]

    def test_it_does_not_grow_with_what_happens(self) -> None:
        now = 0.0
        hour = LastHour(lambda: now)
        for _ in range(200):
            now += 60
            for _ in range(600):
                hour.observe(1.0)
        assert len(hour._minutes) == 60
        assert {len(kept) for _, kept in hour._minutes.values()} == {500}
        assert hour.minutes()[0].count == 600


@pytest.mark.parametrize("command", [command for command, _ in CHEAT_SHEET])
def test_what_the_cheat_sheet_names_is_a_command(command: str) -> None:
    assert parse_command(command).kind is TextKind.COMMAND


class TestNow:
    def test_it_is_json_for_programs(self, bench: Any) -> None:
        bench.predict([click(50, 50)])
        found = bench.client.get("/overview").json
        assert found["model"]["state"] == "ready"
        assert found["clicks"]["count"] == 1
        assert len(found["clicks"]["minutes"]) == 60
        assert found["jobs"] == found["ended"] == found["deliveries"] == []

    def test_the_doctor_looks_once_for_many_who_ask(self) -> None:
        looked = []
        problem = {"level": "broken", "subject": "disk", "text": "it is full", "fix": "empty it"}
        fine = {"level": "ok", "subject": "model", "text": "it is there", "fix": ""}

        def diagnose() -> dict[str, Any]:
            looked.append(1)
            return {"ok": False, "findings": [fine, problem]}

        diagnosis = Diagnosis(diagnose)
        for _ in range(5):
            diagnosis.latest()
        until(lambda: diagnosis.latest()["at"])
        diagnosis.look()
        found = diagnosis.latest()
        assert (found["problems"], found["well"], len(looked)) == ([problem], 1, 1)

    def test_a_broken_store_leaves_the_rest(self, bench: Any, monkeypatch: Any) -> None:
        def broken(**_: object) -> None:
            raise StoreError("The tracks cannot be read.")

        monkeypatch.setattr(bench.store, "jobs", broken)
        reply = bench.client.get("/overview/moving")
        assert (reply.status_code, "The tracks cannot be read." in reply.text) == (200, True)


@pytest.mark.slow
@pytest.mark.xdist_group("e2e")
class TestInChromium:
    def test_it_moves_and_cancels(self, make_web_pages: Callable[..., WebPages]) -> None:
        web_pages = make_web_pages(track_budget_seconds=0.05)
        bench = web_pages.bench
        page = web_pages.open("/")
        assert page.get_by_text("Nothing runs.").is_visible()
        editor = Editor(bench)
        editor.click(30, 50, page=0)
        bench.track_hold.clear()
        editor.say("track")
        bar = page.get_by_role("progressbar")
        bar.wait_for()
        [job] = bench.store.jobs()
        bench.store.update_job(job.id, done=4, total=PAGES)
        page.get_by_text(f"4 of {PAGES}", exact=True).wait_for()
        assert bar.get_attribute("value") == "4"
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Cancel").focus()
        page.keyboard.press("Enter")
        until(lambda: job.id in bench.tracking.jobs._cancelled)
        bench.track_hold.set()
        until(lambda: bench.store.job(job.id).state == "cancelled")
        page.get_by_text("Ended lately").wait_for()
        assert page.get_by_text("Nothing runs.").is_visible()
        assert web_pages.complaints == []

    def test_a_click_shows_up(self, web_pages: WebPages) -> None:
        page = web_pages.open("/", width=375)
        assert page.get_by_text("No click has arrived").is_visible()
        web_pages.bench.predict([click(50, 50)])
        page.get_by_role("cell", name="1 click", exact=True).wait_for()
        assert serious_findings(page) == []
        assert not is_too_wide(page)

    def test_hostile_names_do_nothing(self, web_pages: WebPages) -> None:
        bench = web_pages.bench
        task = {"id": HOSTILE, "data": {"image": "/data/a.png"}}
        bench.predict(
            [click(50, 50, HOSTILE)], task=task, config=hostile_config(HOSTILE),
            project=HOSTILE + ".1",
        )  # fmt: skip
        bench.store.add_job(
            "job", "track", "digest", {"project": HOSTILE + ".1", "task": {"id": HOSTILE}}
        )
        bench.store.update_job("job", state="failed", message=HOSTILE)
        page = web_pages.open("/")
        assert page.get_by_text(HOSTILE).count() >= 2
        page.evaluate("htmx.trigger('#moving', 'changed')")
        page.wait_for_timeout(500)
        assert page.evaluate("window.harmed") is None
        assert page.locator("main img").count() == 0
        assert serious_findings(page) == []
        assert web_pages.complaints == []
