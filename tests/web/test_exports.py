"""The masks of a project as a ZIP from the service."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.labelstudio.client import LabelStudioError
from backend.web.exports import SIDE_BY_SIDE
from benchmarks.support.recording_server import Reply
from tests.backend.conftest import Bench, make_bench
from tests.command_line import LabelStudio, label_studio
from tests.export.test_export import SEQUENCE, annotated, area, brush, decode, frames

__all__ = ["label_studio", "make_bench"]

TOKEN = {"Authorization": "Bearer t0ken"}


@pytest.fixture
def serve(
    make_bench: Callable[..., Bench],
    label_studio: LabelStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Bench]:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    folders = {"state_dir": tmp_path / "state", "cache_dir": tmp_path / "cache"}
    place = {"label_studio_url": label_studio.server.url, "label_studio_api_key": "key"}

    def make(**settings: Any) -> Bench:
        return make_bench(**{"auth_token": "t0ken", **folders, **place, **settings})

    return make


@pytest.fixture
def project(label_studio: LabelStudio) -> LabelStudio:
    label_studio.add_project(5, SEQUENCE)
    for number in range(4):
        regions = [brush(f"r{page}", page, area(number, 3, 12, 8)) for page in range(3)]
        label_studio.add_task(number, 5, frames(), **annotated(*regions))
    return label_studio


def get(bench: Bench, query: str, project: int = 5, **more: Any) -> Any:
    headers = {**TOKEN, **more.pop("headers", {})}
    return bench.client.get(f"/projects/{project}/export?{query}", headers=headers, **more)


def unzip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as made:
        assert made.testzip() is None
        return {name: made.read(name) for name in made.namelist()}


def test_a_zip_holds_what_the_command_writes(serve: Callable[..., Bench], project: Any) -> None:
    bench = serve()
    reply = get(bench, "format=coco")
    assert (reply.status_code, reply.mimetype) == (200, "application/zip")
    assert 'filename="project_5_coco.zip"' in reply.headers["Content-Disposition"]
    files = unzip(reply.data)
    assert files.keys() == {"annotations.json", "export.txt"}
    assert files["export.txt"] == b"12 masks of 4 tasks in this file\n"
    made = json.loads(files["annotations.json"])
    task_of = {image["id"]: image["task"] for image in made["images"]}
    assert len(made["annotations"]) == 12
    for each in made["annotations"]:
        assert (decode(each["segmentation"]) == area(task_of[each["image_id"]], 3, 12, 8)).all()
    files = unzip(get(bench, "format=yolo&val=0.5&split_by=page&detail=1").data)
    assert len([name for name in files if name.startswith("labels/")]) == 12
    assert {"data.yaml", "pictures.csv", "objects.csv", "export.txt"} <= files.keys()


def test_a_zip_is_made_while_it_is_sent(serve: Callable[..., Bench], project: Any) -> None:
    reply = get(serve(), "format=png", buffered=False)
    pieces: Iterator[bytes] = iter(reply.iter_encoded())
    first = next(pieces)
    assert b"task_0/" in first
    assert project.pages_asked == 1  # of two
    assert len(unzip(first + b"".join(pieces))) == 12 + 2
    assert project.pages_asked == 2


def test_a_task_that_fails_is_named_in_the_zip(serve: Callable[..., Bench], project: Any) -> None:
    broken = brush("x", 1, area(1, 1, 3, 3))
    broken["value"]["rle"] = broken["value"]["rle"][:9]
    project.add_task(9, 5, frames(), **annotated(broken))
    said = unzip(get(serve(), "format=coco").data)["export.txt"].decode()
    assert "task 9 failed: region x cannot be read" in said
    assert "12 masks of 4 tasks" in said
    project.tasks.clear()
    project.add_task(9, 5, frames())
    said = unzip(get(serve(), "format=coco").data)["export.txt"].decode()
    assert "nothing to export" in said


def test_what_breaks_off_is_no_zip(serve: Callable[..., Bench], project: Any) -> None:
    bench = serve()
    reply = get(bench, "format=png", buffered=False)
    pieces = iter(reply.iter_encoded())
    got = [next(pieces)]
    project.server.route("/api/", lambda seen: Reply(403))
    with pytest.raises(LabelStudioError, match="answered 403"):
        got.extend(pieces)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(got)))


def test_only_a_few_are_made_side_by_side(serve: Callable[..., Bench], project: Any) -> None:
    bench = serve()
    open_ones = [get(bench, "format=png", buffered=False) for _ in range(SIDE_BY_SIDE)]
    refused = get(bench, "format=png")
    assert refused.status_code == 429
    open_ones[0].close()
    address = "/projects/5/export?format=png"
    assert bench.client.head(address, headers=TOKEN, buffered=True).status_code == 200
    assert get(bench, "format=png").status_code == 200
    for each in open_ones:
        each.close()


def test_who_may_have_it(serve: Callable[..., Bench], project: Any) -> None:
    bench = serve()
    assert bench.client.get("/projects/5/export?format=png").status_code == 401
    assert get(bench, "format=png", headers={"Origin": "http://evil"}).status_code == 403
    anybody = serve(auth_token=None, host="0.0.0.0", allow_anonymous=True)
    assert get(anybody, "format=png").status_code == 403


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "format must be one of brush, coco, davis"),
        ("format=xml", "format must be one of"),
        ("format=yolo&detail=nan", "detail must be a number of pixels"),
        ("format=yolo&val=1", "val must be a share"),
        ("format=yolo&pictures=maybe", "pictures must be one of"),
        ("format=yolo&split_by=colour", "split_by must be one of task, page"),
    ],
)
def test_what_cannot_be_made_is_said(
    serve: Callable[..., Bench], project: Any, query: str, says: str
) -> None:
    reply = get(serve(), query)
    assert reply.status_code == 400
    assert says in reply.json["error"]


def test_projects_and_label_studios_that_are_not_there(
    serve: Callable[..., Bench], project: Any
) -> None:
    assert get(serve(), "format=coco", project=98).status_code == 404
    assert get(serve(label_studio_url="http://127.0.0.1:9"), "format=coco").status_code == 502
    assert get(serve(label_studio_url=None), "format=coco").status_code == 409
