"""The backend as a process of its own, on pictures made here: what the load scripts drive."""

from __future__ import annotations

import os
import signal
import site
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests

from backend.engine.device_memory import resident_bytes
from demo.processes import Child, free_port

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
  <TextArea name="status" toName="image" editable="false" maxSubmissions="0"/>
</View>"""
SEQUENCE = CONFIG.replace('value="$image"', 'valueList="$frames"')
HEIGHT, WIDTH = 240, 320
TRACEBACK = "Traceback (most recent call last)"
# What torch may use of the CPU, see its documentation and oneDNN's.
_INSTRUCTION_SET = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
_WHERE = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "PYTHONPATH")  # the card, and what drives it
# A thread or process that ends while it is read.
_GONE = (FileNotFoundError, ProcessLookupError)


class Server(Child):
    """``python -m backend serve`` with the demo weights on a free port.

    Args:
        folder: for its caches, its state, its log and the pictures.
        settings: environment variables beside those.
        command: what to run instead, as the container does.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        command: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.media = folder / "media"
        self.media.mkdir(parents=True, exist_ok=True)
        port = free_port(19_000 + os.getpid() % 1000)
        self.host, self.port = "127.0.0.1", port
        self.url = f"http://{self.host}:{port}"
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "PYTHONUSERBASE": site.getuserbase(),  # packages that a user installed
            **{n: os.environ[n] for n in (*_INSTRUCTION_SET, *_WHERE) if n in os.environ},
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "CACHE_DIR": str(folder / "cache"),
            "STATE_DIR": str(folder / "state"),
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.media),
            **(settings or {}),
        }
        super().__init__(
            "The SAM 2 backend",
            # os.devnull: not the .env of whoever works in this checkout.
            command or (sys.executable, "-m", "backend", "--env-file", os.devnull, "serve"),
            environment=environment,
            log=folder / "backend.log",
            directory=ROOT,
        )

    def wait_ready(self, seconds: float = 120.0) -> Server:
        """Return when the model answers."""
        self.wait_for(self.url + "/ready", seconds=seconds)
        return self

    def picture(self, seed: int) -> str:
        """The task address of a picture: a bright disc on noise, where and how by ``seed``."""
        path = self.media / f"{seed}.png"
        if not path.exists():
            cv2.imwrite(str(path), disc(seed))
        return f"/data/local-files/?d={path.name}"

    def predict(
        self,
        body: Mapping[str, Any],
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """POST /predict."""
        return requests.post(self.url + "/predict", json=body, headers=headers, timeout=timeout)

    def worker(self) -> int:
        """Process id of the process that holds the model."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return int(children.split()[0])

    def resident(self) -> int:
        """Bytes of RAM that the worker uses."""
        return resident_bytes(self.worker())

    def kill(self) -> None:
        """End it as a machine that loses power would, and wait until it is gone."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def text(self) -> str:
        """The whole log."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tracebacks(self) -> int:
        """How many are in the log."""
        return self.text().count(TRACEBACK)


def cpu_seconds(pid: int) -> float:
    """Of a process, of those it has started and waited for, and of those that run; from Linux'
    procfs."""
    folder = Path(f"/proc/{pid}")
    fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    seconds = sum(int(fields[place]) for place in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")
    children: list[str] = []
    for thread in (folder / "task").iterdir():
        with suppress(*_GONE):
            children += (thread / "children").read_text(encoding="ascii").split()
    for child in children:
        with suppress(*_GONE):
            seconds += cpu_seconds(int(child))
    return seconds


def disc(seed: int, shift: int = 0) -> np.ndarray:
    """uint8 BGR ``[HEIGHT, WIDTH, 3]``; ``shift`` moves the disc to the right."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 70, (HEIGHT, WIDTH, 3), np.uint8)
    x, y, radius = disc_place(seed)
    colour = tuple(int(value) for value in random.integers(150, 255, 3))
    cv2.circle(pixels, (x + shift, y), radius, colour, -1)
    return pixels


def disc_place(seed: int) -> tuple[int, int, int]:
    """x, y and radius of the disc, in pixels."""
    random = np.random.default_rng(seed + 1_000_000)
    return (
        int(random.integers(90, 200)),
        int(random.integers(80, 160)),
        int(random.integers(25, 60)),
    )


def click(seed: int, *, page: int | None = None, name: str = "kp-1") -> dict[str, Any]:
    """A click on the middle of the disc, as the editor sends it."""
    x, y, _ = disc_place(seed)
    item: dict[str, Any] = {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {
            "x": 100 * x / WIDTH,
            "y": 100 * y / HEIGHT,
            "width": 0.3,
            "keypointlabels": ["Cat"],
        },
        "is_positive": True,
        "id": name,
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }
    return item if page is None else {**item, "item_index": page}


def typed(text: str) -> dict[str, Any]:
    """A text typed into the text area."""
    return {
        "value": {"text": [text]},
        "id": "text-1",
        "from_name": "status",
        "to_name": "image",
        "type": "textarea",
    }


def body(
    task: Mapping[str, Any],
    results: list[dict[str, Any]] | None,
    *,
    project: str = "1.100",
    config: str = CONFIG,
) -> dict[str, Any]:
    """The body of a /predict request; ``results`` None for one without a context."""
    context = None if results is None else {"result": results}
    return {
        "tasks": [dict(task)],
        "project": project,
        "label_config": config,
        "params": {"login": None, "password": None, "context": context},
    }


def said(reply: requests.Response) -> str:
    """What the text area of an interactive reply says."""
    results = reply.json()["results"][0]["result"]
    texts = [item["value"]["text"] for item in results if item["type"] == "textarea"]
    return " ".join(part for text in texts for part in ([text] if isinstance(text, str) else text))
