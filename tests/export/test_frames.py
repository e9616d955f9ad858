"""``frames``: which frame of the video is in which file, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import cv2
import numpy as np
import pytest

from tests.command_line import LabelStudio, Run
from tests.media.s3_server import s3_server
from tests.pixels.clips import number_of, steady, uneven, write_clip

RATE = 25
COUNT = 50


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", times=steady(COUNT, RATE))


def number_in(jpeg: bytes) -> int:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return number_of(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jpg"))


def test_every_file_holds_the_frame_it_is_named_after(run: Run, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("frames", "--video", clip, "--every", 7, "--out", out).code == 0
    assert names(out) == [f"frame_{index:06d}.jpg" for index in range(0, COUNT, 7)]
    for path in out.glob("*.jpg"):
        assert number_in(path.read_bytes()) == int(path.stem[6:])


def test_the_task_names_every_page(run: Run, clip: Path, tmp_path: Path) -> None:
    run("frames", "--video", clip, "--every", 5, "--out", tmp_path / "a b")
    [task] = json.loads((tmp_path / "a b/tasks.json").read_text())
    prefix = "/data/local-files/?d="
    assert all(address.startswith(prefix) for address in task["data"]["frames"])
    paths = [tmp_path / unquote(each.removeprefix(prefix)) for each in task["data"]["frames"]]
    assert all(path.is_file() for path in paths)
    meta = task["meta"]
    assert [number_in(path.read_bytes()) for path in paths] == meta["frame_indices"]
    assert meta["times"] == pytest.approx([index / RATE for index in meta["frame_indices"]])
    assert (meta["fps"], meta["frames_count"], meta["video"]) == (RATE, COUNT, str(clip))


def test_times_are_the_files_own_where_the_rate_varies(run: Run, tmp_path: Path) -> None:
    times = uneven(20)
    video = write_clip(tmp_path / "vfr.mp4", times=times)
    run("frames", "--video", video, "--every", 3, "--out", tmp_path / "out")
    [task] = json.loads((tmp_path / "out/tasks.json").read_text())
    assert task["meta"]["times"] == pytest.approx([float(time) for time in times[::3]], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--start", "0.5", "--stop", "1"], [15, 20, 25]),
        (["--start", "1.8"], [45]),
        (["--stop", "0.39"], [0, 5]),
    ],
)
def test_a_part_in_seconds(
    run: Run, clip: Path, tmp_path: Path, options: list[str], expected: list[int]
) -> None:
    run("frames", "--video", clip, "--every", 5, *options, "--out", tmp_path / "out")
    assert names(tmp_path / "out") == [f"frame_{index:06d}.jpg" for index in expected]


def test_frames_can_be_smaller_and_are_never_enlarged(run: Run, clip: Path, tmp_path: Path) -> None:
    for size, expected in ((96, (54, 96)), (4000, (108, 192))):
        out = tmp_path / str(size)
        run("frames", "--video", clip, "--every", 25, "--size", size, "--out", out)
        assert cv2.imread(str(out / "frame_000025.jpg")).shape[:2] == expected


def test_started_again_it_writes_only_what_is_missing(run: Run, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("frames", "--video", clip, "--every", 5, "--out", out)
    (out / "frame_000010.jpg").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.jpg")}
    assert (
        "10 frames, 1 of them new" in run("frames", "--video", clip, "--every", 5, "--out", out).err
    )
    assert (out / "frame_000010.jpg").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_frames_of_two_videos_never_mix(run: Run, clip: Path, tmp_path: Path) -> None:
    other = write_clip(tmp_path / "b.mp4", times=steady(10, RATE))
    run("frames", "--video", clip, "--every", 5, "--out", tmp_path / "out")
    for more in (["--video", other], ["--video", clip, "--size", 50]):
        ran = run("frames", *more, "--every", 5, "--out", tmp_path / "out")
        assert ran.code == 1
        assert "another video or size" in ran.err


def test_addresses_of_a_web_server_and_of_label_studios_document_root(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["frames", "--video", clip, "--every", "40", "--out", tmp_path / "root/sub/out"]
    run(*arguments, "--address", "https://media.example/a/")
    [task] = json.loads((tmp_path / "root/sub/out/tasks.json").read_text())
    assert task["data"]["frames"][1] == "https://media.example/a/frame_000040.jpg"
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(tmp_path / "root"))
    run(*arguments)
    [task] = json.loads((tmp_path / "root/sub/out/tasks.json").read_text())
    assert task["data"]["frames"][1] == "/data/local-files/?d=sub/out/frame_000040.jpg"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("S3_ENDPOINT_URL", moto)
    made = boto3.resource("s3", endpoint_url=moto, region_name="us-east-1").Bucket("media")
    made.create()
    yield made
    made.objects.all().delete()
    made.delete()


def test_from_a_bucket_to_a_bucket(run: Run, clip: Path, bucket: Any) -> None:
    bucket.upload_file(str(clip), "in/a.mp4")
    arguments = ["frames", "--video", "s3://media/in/a.mp4", "--every", "20"]
    assert run(*arguments, "--out", "s3://media/out").code == 0
    keys = {item.key for item in bucket.objects.filter(Prefix="out/")}
    frames = [f"out/frame_{index:06d}.jpg" for index in (0, 20, 40)]
    assert keys == {*frames, "out/tasks.json", "out/source.json"}
    [task] = json.loads(bucket.Object("out/tasks.json").get()["Body"].read())
    assert task["data"]["frames"] == [f"s3://media/{key}" for key in frames]
    stored = bucket.Object("out/frame_000020.jpg").get()
    assert stored["ContentType"] == "image/jpeg"
    assert number_in(stored["Body"].read()) == 20
    bucket.Object("out/frame_000040.jpg").delete()
    assert "1 of them new" in run(*arguments, "--out", "s3://media/out/").err


def test_a_bucket_that_is_not_there_is_one_line(run: Run, clip: Path, bucket: Any) -> None:
    ran = run("frames", "--video", clip, "--out", "s3://nowhere/a/")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "NoSuchBucket" in ran.err


def test_a_video_over_http(
    run: Run, clip: Path, tmp_path: Path, label_studio: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOWED_PRIVATE_HOSTS", "127.0.0.1")
    label_studio.serve("/a.mp4", clip)
    url = f"{label_studio.server.url}/a.mp4?signature=secret"
    assert run("frames", "--video", url, "--every", 30, "--out", tmp_path / "out").code == 0
    assert names(tmp_path / "out") == ["frame_000000.jpg", "frame_000030.jpg"]
    for path in (tmp_path / "out").glob("*.json"):
        assert "secret" not in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "9"], "no frame to take from 9 s"),
        (["--start", "1", "--stop", "0.5"], "no frame to take from 1 s to 0.5 s"),
        (["--video", "nothing.mp4"], "no file nothing.mp4"),
        (["--video", "ftp://host/a.mp4"], "does not read media from"),
        (["--out", "ftp://host/a"], "cannot be written to"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    run: Run, clip: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    ran = run("frames", "--video", clip, "--out", tmp_path / "out", *arguments)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert message in ran.err


def test_a_file_that_is_no_video(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video at all")
    ran = run("frames", "--video", tmp_path / "a.mp4", "--out", tmp_path / "out")
    assert (ran.code, ran.err.count("\n")) == (1, 1)


class Back:
    """A clip's frames, and results of its task."""

    def __init__(self, run: Run, clip: Path, tmp_path: Path) -> None:
        self.run, self.folder = run, tmp_path
        run("frames", "--video", clip, "--every", 8, "--start", 0.3, "--out", tmp_path / "out")
        self.tasks = tmp_path / "out/tasks.json"
        [self.task] = json.loads(self.tasks.read_text())

    def convert(self, exported: object) -> Any:
        (self.folder / "results.json").write_text(json.dumps(exported))
        out = self.folder / "back.json"
        arguments = ["--tasks", self.tasks, "--out", out]
        ran = self.run("frames", "--back", self.folder / "results.json", *arguments)
        return json.loads(out.read_text()) if ran.code == 0 else ran


@pytest.fixture
def back(run: Run, clip: Path, tmp_path: Path) -> Back:
    return Back(run, clip, tmp_path)


def region(page: int | None) -> dict[str, Any]:
    item = {"id": f"r{page}", "type": "brushlabels", "value": {"brushlabels": ["Cat"]}}
    return item if page is None else {**item, "item_index": page}


def test_back_to_the_videos_frames(back: Back) -> None:
    annotation = {"id": 5, "result": [region(0), region(3), region(None)]}
    cancelled = {"id": 6, "was_cancelled": True, "result": [region(0)]}
    exported = [{"id": 9, "data": back.task["data"], "annotations": [annotation, cancelled]}]
    [converted] = back.convert(exported)
    assert (converted["task"], converted["annotation"]) == (9, 5)
    first, second, text = converted["results"]
    assert (first["frame"], second["frame"]) == (8, 32)
    assert (first["time"], second["time"]) == pytest.approx((8 / RATE, 32 / RATE))
    assert second["value"] == region(3)["value"]
    assert "frame" not in text


def test_back_takes_a_bare_list_of_results(back: Back) -> None:
    [converted] = back.convert([region(1)])
    assert converted["results"][0]["frame"] == 16


def test_back_refuses_pages_and_tasks_it_does_not_know(back: Back) -> None:
    beyond = back.convert([region(40)])
    assert (beyond.code, beyond.err.count("\n")) == (1, 1)
    assert "page 40" in beyond.err
    other = {"data": {"frames": ["/other.jpg"]}, "annotations": [{"result": [region(0)]}]}
    assert "other pages" in back.convert([other]).err
    back.tasks.write_text(json.dumps([{"data": {"frames": ["a"]}}]))
    assert "is not a tasks.json" in back.convert([region(0)]).err
    back.tasks.write_text("{")
    assert "is not JSON" in back.convert([region(0)]).err


def test_settings_that_cannot_be_used_are_told(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("S3_BUCKETS", str(tmp_path / "missing.json"))
    ran = run("frames", "--video", "s3://media/a.mp4", "--out", tmp_path / "out")
    assert ran.code == 1
    assert "S3_BUCKETS: " in ran.err
    assert "cannot be read" in ran.err
