"""``python -m benchmarks.load.runs``: whole projects labelled while everything is killed.

A real Label Studio, a real S3 server, a detector that speaks the contract of ML backends, and the
service with the demo weights. One project has pictures, without any mark: the run asks the
detector, which is sure of nothing on some of them. Another project has videos, with imported boxes
of a detector. A run goes through each. Meanwhile the service is killed (SIGKILL) twice, Label
Studio once and the detector once, wherever they are; the runs are paused and resumed; and somebody
clicks on pictures of another project.

At the end every task must have exactly one prediction of this model, no run may have failed at a
task, and sorted by prediction score the Data Manager must show the pictures with boxes on nothing
first. Clicks during the runs (p95) may take 1.5 times as long as while they are paused, in turns,
and one step of the model more. What each process takes of the CPU for each of these clicks is
printed beside it: they all share the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import requests

from backend import __version__
from benchmarks.load.owners import VIDEO
from benchmarks.support.disc_detector import CORNER
from benchmarks.support.moving_clip import MovingClip
from benchmarks.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from benchmarks.support.server import (
    CONFIG,
    HEIGHT,
    WIDTH,
    body,
    click,
    cpu_seconds,
    disc,
    disc_place,
)
from benchmarks.support.table import table
from demo.api import LabelStudioApi
from demo.backend import REPOSITORY, Backend
from demo.label_studio import START_SECONDS, Account, LabelStudio
from demo.processes import Child, free_port

MODEL = f"demo@{__version__}"
BUCKET = "media"
ACCOUNT = Account()
CLICKS = 40
CLICKS_IN_TURN = 10
PROCESSES = ("backend", "label_studio", "detector", "s3")  # attributes of ``Stage``
FACTOR = 1.5
DOUBTFUL_EVERY = 20  # pictures
PATIENCE_S = 3600.0
Shares = defaultdict[str, float]
"""By process: seconds of the CPU."""


class Stage:
    """Everything that takes part; closing stops it.

    Args:
        folder: for data and logs.
        data: of an empty Label Studio; None to have it made, which takes half a minute.
    """

    def __init__(self, folder: Path, *, venv: Path, data: Path | None) -> None:
        if data is not None:
            shutil.copytree(data, folder / "label-studio")
        self._folder, self._venv = folder, venv
        self._secret = secrets.token_hex()
        port = 20_000 + os.getpid() % 5_000
        self._ports = [free_port(port + 5_000 * number) for number in range(4)]
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.s3 = S3Server(self._folder, self._ports[3])
        self.s3.wait_until_ready()
        self.s3.client().create_bucket(Bucket=BUCKET)
        self.start_label_studio()
        self.api = LabelStudioApi(self.label_studio.url, ACCOUNT)
        self._token = self.api.new_personal_access_token()
        self.start_detector()
        self.start_backend()

    def start_label_studio(self) -> None:
        self.label_studio = LabelStudio(
            self._venv,
            data_directory=self._folder / "label-studio",
            port=self._ports[0],
            account=ACCOUNT,
            log=self._folder / f"label-studio-{time.monotonic_ns()}.log",
            # Else each start makes its own, and tokens are good until then.
            settings={"SECRET_KEY": self._secret},
        )
        self.label_studio.wait_for(self.label_studio.url + "/health", seconds=2 * START_SECONDS)

    def start_detector(self) -> None:
        url = f"http://127.0.0.1:{self._ports[2]}"
        self.detector = Child(
            "The detector",
            [sys.executable, "-m", "benchmarks.support.disc_detector", str(self._ports[2])],
            environment=os.environ,
            log=self._folder / f"detector-{time.monotonic_ns()}.log",
            directory=REPOSITORY,
        )
        self.detector.wait_for(url + "/health", seconds=START_SECONDS)

    def start_backend(self) -> None:
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        self.backend = Backend(
            port=self._ports[1],
            label_studio_url=self.label_studio.url,
            token=self._token,
            cache_directory=self._folder / "cache",
            state_directory=self._folder / "state",
            log=self._folder / f"backend-{time.monotonic_ns()}.log",
            env_file=self._folder / "env",
            settings={
                **keys,
                "SAM2_VARIANT": "demo",
                "S3_ENDPOINT_URL": self.s3.url,
                "S3_REGION": "us-east-1",
                "CLICK_BUDGET_SECONDS": "80",
                "DETECTOR_URL": f"http://127.0.0.1:{self._ports[2]}",
            },
        )
        self.backend.wait_until_ready()

    def kill_backend(self) -> None:
        os.killpg(self.backend.pid, signal.SIGKILL)
        self.backend.stop()
        self.start_backend()

    def kill_label_studio(self) -> None:
        os.killpg(self.label_studio.pid, signal.SIGKILL)
        self.label_studio.stop()
        time.sleep(3.0)  # something is to meet it while it is gone
        self.start_label_studio()

    def kill_detector(self) -> None:
        os.killpg(self.detector.pid, signal.SIGKILL)
        self.detector.stop()
        time.sleep(3.0)  # likewise
        self.start_detector()

    def ask(self, method: str, path: str, **keywords: Any) -> Any:
        reply = requests.request(method, self.backend.url + path, timeout=180, **keywords)
        reply.raise_for_status()
        return reply.json()

    def close(self) -> None:
        for name in ("backend", "detector", "label_studio", "s3"):
            if (child := getattr(self, name, None)) is not None:
                child.stop()


def put_pictures(stage: Stage, count: int) -> tuple[int, list[int], list[int]]:
    """A project of discs on noise; returns it, its tasks and those on which the detector will be
    sure of nothing."""
    client = stage.s3.client()
    data = []
    for seed in range(count):
        pixels = disc(seed)
        if seed % DOUBTFUL_EVERY == DOUBTFUL_EVERY - 1:
            pixels[:CORNER, :CORNER] = 255
        found, png = cv2.imencode(".png", pixels)
        assert found
        client.put_object(Bucket=BUCKET, Key=f"pictures/{seed}.png", Body=png.tobytes())
        data.append({"image": f"s3://{BUCKET}/pictures/{seed}.png"})
    project = stage.api.create_project("Pictures", CONFIG)
    stage.api.connect_backend(project, stage.backend.url, title="SAM 2")
    numbers = stage.api.create_tasks(project, data)
    return project, numbers, numbers[DOUBTFUL_EVERY - 1 :: DOUBTFUL_EVERY]


def box_around_disc(seed: int) -> dict[str, Any]:
    """A detector's result for the disc of a picture."""
    x, y, radius = disc_place(seed)
    return box_result(x - radius, y - radius, 2 * radius, 2 * radius)


def box_result(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    """A detector's result for a place, in pixels."""
    value = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT}
    value |= {"width": 100 * width / WIDTH, "height": 100 * height / HEIGHT, "rotation": 0}
    return {
        "id": "b",
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**value, "rectanglelabels": ["Cat"]},
    }


def put_videos(stage: Stage, count: int, frames: int, folder: Path) -> tuple[int, list[int]]:
    """A project of clips whose objects move; returns it and its tasks."""
    client = stage.s3.client()
    tasks = []
    for number in range(count):
        clip = MovingClip(frames + 5 * number, 320, 240)
        path = clip.write(folder / f"{number}.mp4")
        client.upload_file(str(path), BUCKET, f"videos/{number}.mp4")
        results = [
            {
                "id": f"r{position}",
                "from_name": "box",
                "to_name": "video",
                "type": "videorectangle",
                "value": {
                    "framesCount": clip.frames,
                    "duration": clip.frames / 25,
                    "labels": ["Cat"],
                    "sequence": [
                        {
                            **{"frame": 1, "enabled": True, "rotation": 0, "time": 0.04},
                            **{"x": box.x, "y": box.y, "width": box.width, "height": box.height},
                        }
                    ],
                },
            }
            for position, box in enumerate(clip.boxes.values())
        ]
        prediction = {"model_version": "a detector", "score": 0.99, "result": results}
        data = {"video": f"s3://{BUCKET}/videos/{number}.mp4"}
        tasks.append({"data": data, "predictions": [prediction]})
    project = stage.api.create_project("Videos", VIDEO)
    stage.api.connect_backend(project, stage.backend.url, title="SAM 2")
    return project, stage.api.import_tasks(project, tasks)


class Clicker:
    """Somebody in an editor of another project, who clicks on pictures that nobody has seen."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._seed = stage, 1_000_000

    def seconds(self, count: int, cpu: Shares) -> list[float]:
        """How long each of so many clicks took; adds to ``cpu`` what the processes had of the CPU
        meanwhile."""
        pids = {name: getattr(self._stage, name).pid for name in PROCESSES}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        client = self._stage.s3.client()
        taken: list[float] = []
        while len(taken) < count:
            self._seed += 1
            found, png = cv2.imencode(".png", disc(self._seed))
            assert found
            key = f"clicked/{self._seed}.png"
            client.put_object(Bucket=BUCKET, Key=key, Body=png.tobytes())
            task = {"id": self._seed, "data": {"image": f"s3://{BUCKET}/{key}"}}
            request = body(task, [click(self._seed)], project="999.1")
            begun = time.monotonic()
            results = self._stage.ask("POST", "/predict", json=request)["results"][0]["result"]
            taken.append(time.monotonic() - begun)
            assert any(item["type"] == "brushlabels" for item in results), "a click got no mask"
        for name, pid in pids.items():
            cpu[name] += cpu_seconds(pid) - before[name]
        return taken


class Drama:
    """What is done to the runs, and what they did before and after it."""

    def __init__(self, stage: Stage, runs: list[str], total: int) -> None:
        self._stage, self._runs, self._total = stage, runs, total
        self.rows: list[tuple[str, str]] = []

    @property
    def ended(self) -> int:
        """Tasks that have ended."""
        every = [self._stage.ask("GET", f"/runs/{run}")["counts"] for run in self._runs]
        return sum(counts[state] for counts in every for state in ("stored", "skipped", "failed"))

    @property
    def goes_on(self) -> bool:
        states = {self._stage.ask("GET", f"/runs/{run}")["state"] for run in self._runs}
        return bool(states & {"queued", "running", "waiting"})

    def act(self, share: float, name: str, do: Callable[[], None]) -> None:
        """Do something once so many of the tasks have ended."""
        until(lambda: self.ended >= share * self._total)
        time.sleep(random.uniform(0, 1))
        before = self.ended
        do()
        after = self.ended
        assert after >= before, f"{name}: {before - after} tasks are lost"
        self.rows.append((name, f"at {before} of {self._total} tasks"))

    @property
    def is_at_work(self) -> bool:
        return any(self._stage.ask("GET", f"/runs/{run}")["under_way"] for run in self._runs)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause and resume around the block; nothing may end meanwhile, and nothing be lost."""
        open_runs = [
            run
            for run in self._runs
            if self._stage.ask("POST", f"/runs/{run}/pause")["state"] == "paused"
        ]
        until(lambda: not self.is_at_work)
        before = self.ended
        yield
        assert self.ended == before, "a paused run goes on"
        self.rows.append(("paused and resumed", f"at {before} of {self._total} tasks"))
        for run in open_runs:
            self._stage.ask("POST", f"/runs/{run}/resume")


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; a service that is not there is asked again."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with suppress(requests.RequestException):
            if holds():
                return
        time.sleep(0.2)
    sys.exit(f"it did not happen within {PATIENCE_S:.0f} s")


def step_seconds(stage: Stage) -> float:
    """How long a step of the model takes on average: of what a click may have to wait for."""
    text = requests.get(stage.backend.url + "/metrics", timeout=60).text
    found = {
        (match[1], match[2]): float(match[3])
        for match in re.finditer(r'sam2_stage_seconds_(sum|count){stage="(\w+)"} (\S+)', text)
    }
    stages = [name for part, name in found if part == "count" and found[part, name]]
    means = {name: found["sum", name] / found["count", name] for name in stages}
    return max(means.get("track", 0.0), means.get("encode", 0.0))


def doubtful_first(stage: Stage, project: int, doubtful: list[int]) -> list[int]:
    """The first tasks of the Data Manager, sorted by prediction score."""
    ordering = {"ordering": ["tasks:predictions_score"]}
    parameters = {"project": project, "page_size": len(doubtful), "query": json.dumps(ordering)}
    found = stage.api.request("GET", "/api/tasks", params=parameters)["tasks"]
    return [int(each["id"]) for each in found]


def prove(stage: Stage, folder: Path, *, pictures: int, videos: int, frames: int) -> int:
    """See the module; returns the exit code."""
    first, tasks, doubtful = put_pictures(stage, pictures)
    second, others = put_videos(stage, videos, frames, folder)
    every = [*tasks, *others]
    clicker = Clicker(stage)
    clicker.seconds(3, Shares(float))  # whatever is made at first
    begun = time.monotonic()
    asked = ({"project": first, "source": "detector"}, {"project": second})
    runs = [stage.ask("POST", "/runs", json=each)["id"] for each in asked]
    drama = Drama(stage, runs, len(every))
    drama.act(0.1, "service killed", stage.kill_backend)
    drama.act(0.25, "Label Studio killed", stage.kill_label_studio)
    drama.act(0.35, "detector killed", stage.kill_detector)
    drama.act(0.45, "service killed", stage.kill_backend)
    alone: list[float] = []
    during: list[float] = []
    cpu_alone, cpu_during = Shares(float), Shares(float)
    while len(during) < CLICKS and drama.goes_on:
        with drama.paused():
            alone += clicker.seconds(CLICKS_IN_TURN, cpu_alone)
        until(lambda: drama.is_at_work or not drama.goes_on)
        during += clicker.seconds(CLICKS_IN_TURN, cpu_during) if drama.goes_on else []
    step = step_seconds(stage)
    until(lambda: not drama.goes_on)
    seconds = time.monotonic() - begun

    states = [stage.ask("GET", f"/runs/{run}") for run in runs]
    counts = Counter(
        sum(each["model_version"] == MODEL for each in stage.api.predictions(task))
        for task in every
    )
    # The Data Manager shows the scores of the version that is chosen.
    stage.api.request("PATCH", f"/api/projects/{first}", json={"model_version": MODEL})
    first_shown = doubtful_first(stage, first, doubtful)
    most = FACTOR * percentile(alone) + step
    faults = [
        *(["a run is not done"] if any(each["state"] != "done" for each in states) else []),
        *(["tasks failed"] if any(each["counts"]["failed"] for each in states) else []),
        *(["a task has not exactly one prediction"] if counts != {1: len(every)} else []),
        *(["others come first"] if set(first_shown) != set(doubtful) else []),
        *(["clicks take too long"] if percentile(during) > most else []),
    ]
    rows = [
        *drama.rows,
        (
            "runs",
            ", ".join(f"{each['state']}, {each['counts']['stored']} stored" for each in states),
        ),
        ("tasks by their number of predictions of this model", str(dict(counts))),
        (
            "doubtful tasks among as many first ones",
            f"{len(set(first_shown) & set(doubtful))} of {len(doubtful)}",
        ),
        (
            "click while they are paused, median and p95",
            f"{statistics.median(alone):.3f} s, {percentile(alone):.3f} s",
        ),
        (
            f"click during, median and p95 of {len(during)}",
            f"{statistics.median(during):.3f} s, {percentile(during):.3f} s",
        ),
        ("of the CPU for each click, while they are paused", shares(cpu_alone, len(alone))),
        ("of the CPU for each click, during", shares(cpu_during, len(during))),
        ("a step of the model, mean", f"{step:.3f} s"),
        ("p95 allowed", f"{most:.3f} s"),
        ("all took", f"{seconds:.0f} s"),
    ]
    print(table(("what", "found"), rows))
    print("; ".join(faults) or "everything once", file=sys.stderr)
    return int(bool(faults))


def shares(cpu: Shares, clicks: int) -> str:
    """What each process had of the CPU, in seconds for each of so many clicks."""
    return ", ".join(f"{name} {cpu[name] / max(1, clicks):.3f}" for name in PROCESSES)


def percentile(seconds: list[float]) -> float:
    """The 95th."""
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--frames", type=int, default=150, help="of the shortest video")
    parser.add_argument(
        "--label-studio", type=Path, default=REPOSITORY / ".venv-label-studio", metavar="VENV"
    )
    parser.add_argument("--data", type=Path, help="of an empty Label Studio, to be copied")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runs-") as name:
        stage = Stage(Path(name), venv=arguments.label_studio, data=arguments.data)
        with closing(stage):
            return prove(
                stage,
                Path(name),
                pictures=arguments.pictures,
                videos=arguments.videos,
                frames=arguments.frames,
            )


if __name__ == "__main__":
    sys.exit(main())
