"""A video with an occluder, reviewed in the browser by keyboard, over the real service."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from backend.tracking.store import TrackStore
from benchmarks.support.chromium import new_context
from benchmarks.support.composed_clips import HEIGHT, TUNING, WIDTH, ComposedClip, compose, is_bad
from demo.projects import VIDEO_PROJECT
from tests.e2e.services import Services
from tests.waiting import until
from tests.web.browsing import serious_findings

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

FIRST, LAST = 85, 145  # of the clip: the object goes behind the board, and comes out again
RATE = 8  # of the demo's <Video>
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def write_video(clip: ComposedClip, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in clip.frames[FIRST:LAST]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


def box_of(name: str, mask: np.ndarray) -> dict[str, Any]:
    """A box on the first frame, as a detector's prediction has it."""
    rows, columns = np.nonzero(mask)
    x, y = columns.min() / WIDTH * 100, rows.min() / HEIGHT * 100
    width = (columns.max() + 1) / WIDTH * 100 - x
    height = (rows.max() + 1) / HEIGHT * 100 - y
    place = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    frames = LAST - FIRST
    return {
        "id": name,
        "from_name": "box",
        "to_name": "video",
        "type": "videorectangle",
        "value": {
            "framesCount": frames,
            "duration": frames / RATE,
            "sequence": [{"frame": 1, "enabled": True, "time": 1 / RATE, **place}],
            "labels": ["Animal"],
        },
    }


@pytest.fixture(scope="module")
def clip() -> ComposedClip:
    return compose("occlusion", TUNING, 1)


@pytest.fixture(scope="module")
def job(services: Services, clip: ComposedClip, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that has tracked the object from a detector's box; its id."""
    project = services.project("Review", VIDEO_PROJECT.label_config)
    video = write_video(clip, tmp_path_factory.mktemp("review") / "occluder.mp4")
    boxes = [box_of(name, masks[FIRST]) for name, masks in clip.masks.items()]
    data = {"video": services.api.upload(project, video)}
    prediction = {"model_version": "detector", "result": boxes}
    services.api.import_tasks(project, [{"data": data, "predictions": [prediction]}])
    url, body = services.backend.url, {"project": project, "kind": "label", "source": "there"}
    started = requests.post(f"{url}/runs", json=body, timeout=60)
    assert started.status_code == 201, started.text
    found: list[dict[str, Any]] = []

    def is_done() -> bool:
        jobs = requests.get(f"{url}/jobs", timeout=60).json()["jobs"]
        found[:] = [each for each in jobs if each["project"].startswith(f"{project}.")]
        return bool(found) and found[0]["state"] == "done"

    until(is_done)
    return str(found[0]["id"])


@pytest.fixture
def page(services: Services, browser: Browser, job: str) -> Iterator[Page]:
    context = new_context(browser, width=1400, height=1000)
    page = context.new_page()
    page.goto(f"{services.backend.url}/tracks/{job}")
    expect(page.locator("#sheet button")).not_to_have_count(0)
    yield page
    context.close()


def bad_frames(services: Services, job: str, clip: ComposedClip) -> set[tuple[str, int]]:
    """By object: the frames whose masks are wrong."""
    with closing(TrackStore(services.state / "tracks.sqlite3")) as store:
        track = store.job(job)
        assert track is not None
        masks = store.masks(track.track)
    assert len(masks) >= len(clip.masks) * (LAST - FIRST - 1)
    return {
        (each.object_id, each.frame)
        for each in masks
        if is_bad(each.mask.unpack(), clip.masks[each.object_id][FIRST + each.frame])
    }


def test_the_frames_to_look_at_are_the_bad_ones(
    services: Services, page: Page, job: str, clip: ComposedClip
) -> None:
    said = requests.get(f"{services.backend.url}/tracks/{job}/curves", timeout=60).json()
    look = {
        (each["id"], frame)
        for each in said["objects"]
        for place in each["look"]
        for frame in range(place["first"], place["last"] + 1)
    }
    bad = bad_frames(services, job, clip)
    assert bad, "the clip is too easy for the model: choose another"
    print(f"{len(bad)} bad masks, {len(bad & look)} of them to be looked at, {len(look)} in all")
    assert len(bad & look) >= 0.9 * len(bad)
    # By keyboard alone: the first arrow leads to the first place, and it says why.
    first = min(place["worst"] for each in said["objects"] for place in each["look"])
    page.keyboard.press("ArrowRight")
    expect(page.locator("#number")).to_have_text(str(first + 1))
    expect(page.locator("#here")).to_contain_text("Animal:")
    expect(page.locator("#picture")).to_have_js_property("complete", True)
    width = page.locator("#picture").evaluate("picture => picture.naturalWidth")
    assert width == WIDTH
    link = page.get_by_role("link", name="Open in Label Studio").get_attribute("href")
    assert link is not None
    assert link.startswith(services.label_studio.url + "/projects/")
    assert "&region=" in link


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("review", 1400, "light"), ("review_dark", 1400, "dark"), ("review_narrow", 375, "light")],
)
def test_it_keeps_nobody_out(
    services: Services, browser: Browser, job: str, name: str, width: int, scheme: Any
) -> None:
    context = new_context(browser, width=width, height=1000, color_scheme=scheme)
    with closing(context):
        page = context.new_page()
        page.goto(f"{services.backend.url}/tracks/{job}")
        expect(page.locator("#sheet button")).not_to_have_count(0)
        page.keyboard.press("ArrowRight")
        assert serious_findings(page) == []
        if os.environ.get("E2E_DOCS_SCREENSHOT"):
            page.locator("#sheet img").first.scroll_into_view_if_needed()
            page.wait_for_function(
                "[...document.images].every(each => each.complete && each.naturalWidth)"
            )
            page.evaluate("scrollTo(0, 0)")
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            shot.quantize(256).save(IMAGES / f"{name}.png", optimize=True)
