"""The page of the model's versions: their scores, their curves, and going back to one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.engine.building import ModelChoice
from backend.finetune.finetune_jobs import FinetuneJob
from backend.finetune.registry import ModelRegistry
from backend.job_state import JobState
from tests.documenting import document_page
from tests.waiting import until
from tests.web.browsing import WebPages, is_too_wide, serious_findings

SCORES = {"before": {"score": 0.292}, "after": {"score": 0.696}, "gain": 0.404,
          "gain_error": 0.049, "objects": 40, "pictures": 20, "held_out_objects": 5,
          "made": "2026-01-02T03:04:05Z"}  # fmt: skip


@pytest.fixture
def free(make_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service whose version may be chosen, with two fine-tuned ones."""
    return with_versions(make_bench())


def with_versions(bench: Any) -> Any:
    registry = ModelRegistry(bench.shelf.folder / "models", ModelChoice("demo"))
    for gain in (0.404, 0.1):
        notes = {**SCORES, "gain": gain}
        registry.publish(3, lambda path: Path(path).write_bytes(b"weights"), notes)
    bench.finetuning._pinned = False
    return bench


def test_each_version_has_its_scores(free: Any) -> None:
    found = free.client.get("/training/versions").json
    versions = [each["version"] for each in found["versions"]]
    assert versions == ["demo-ft2-p3", "demo-ft1-p3", "demo"]
    assert found["versions"][1]["before"] == {"score": 0.292}
    text = free.client.get("/training/moving").text
    for shown in ("0.292", "0.696", "+0.404", "0.049", "40 objects on 20 pictures"):
        assert shown in text


def test_notes_that_are_damaged_leave_the_rest(free: Any) -> None:
    [file] = (free.shelf.folder / "models").glob("*/ft1-p3.json")
    for damaged in ("{", "[]", json.dumps({"before": 1, "gain": "x", "made": 5})):
        file.write_text(damaged)
        reply = free.client.get("/training/moving")
        assert reply.status_code == 200
        assert "demo-ft2-p3" in reply.text
        assert "demo-ft1-p3" in reply.text


def test_one_goes_back_to_another_version(free: Any) -> None:
    until(lambda: free.engine.model_version == "demo-ft2-p3")
    for version in ("demo-ft1-p3", "demo"):
        reply = free.client.post("/training/versions", json={"version": version})
        assert reply.json["detail"] == f"{version} answers from the next moments on"
        until(lambda version=version: free.engine.model_version == version)


@pytest.mark.parametrize("version", ["demo-ft9-p9", "../../x", "", "base\n"])
def test_there_is_nothing_to_go_back_to(free: Any, version: str) -> None:
    reply = free.client.post("/training/versions", json={"version": version})
    assert (reply.status_code, "there is no version" in reply.json["error"]) == (409, True)
    assert free.client.post("/training/versions", json={"version": 5}).status_code == 400


def test_a_version_that_the_operator_chose_stays(bench: Any) -> None:
    reply = bench.client.post("/training/versions", json={"version": "demo"})
    assert (reply.status_code, "SAM2_MODEL_VERSION" in reply.json["error"]) == (409, True)


@pytest.mark.slow
@pytest.mark.xdist_group("e2e")
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1400, "light")])
def test_in_chromium(web_pages: WebPages, width: int, scheme: str) -> None:
    bench = with_versions(web_pages.bench)
    jobs = bench.finetuning.jobs
    jobs._at(3).mkdir(parents=True)
    jobs._write(FinetuneJob(3, JobState.DONE, 1.0, 2.0, "better: 0.404"))
    curve = [{"step": step, "score": 0.3 + step / 1000} for step in range(0, 400, 50)]
    progress = {"stage": "done", "pictures": 20, "step": 350, "steps": 400, "curve": curve}
    (jobs._at(3) / "progress.json").write_text(json.dumps(progress))
    page = web_pages.open("/training", width=width, color_scheme=scheme)
    assert page.locator(".curve canvas").is_visible()
    if width == 1400:
        document_page(page, "training")
    assert serious_findings(page) == []
    assert not is_too_wide(page)
    until(lambda: bench.engine.model_version == "demo-ft2-p3")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Use it demo-ft1-p3").click()
    row = page.get_by_role("row", name="demo-ft1-p3")
    row.get_by_text("this one").wait_for()
    assert web_pages.complaints == []
