"""The service of the settings, in this process, over a fake model; and runs through it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from backend import __version__
from backend.engine.engine import Engine
from backend.runs.runs import Runs, kinds, sources
from backend.settings import Settings
from backend.web.app import create_app
from backend.wiring import Wiring
from tests.command_line import LabelStudio
from tests.waiting import until

PAUSES = (0.05,)


class Service:
    """A service with its parts within reach of a test, over an engine of its own or ``engine``."""

    def __init__(self, pauses: tuple[float, ...] = PAUSES, engine: Engine | None = None) -> None:
        wiring = Wiring(Settings.from_env(os.environ))
        self.engine = engine or wiring.engine()
        self.dispatcher = wiring.service(self.engine)
        self.finetuning = wiring.finetuning(self.engine)
        self.runs = Runs(
            self.dispatcher,
            wiring.metrics,
            connect=wiring.connect,
            ask=wiring.label_studio,
            kinds=kinds(),
            sources=sources(wiring, self.dispatcher),
            pauses=pauses,
        )
        self.runs.take_up()
        self.app = create_app(wiring, self.dispatcher, self.finetuning, self.runs)
        self.client: FlaskClient = self.app.test_client()

    def start(self, **options: Any) -> str:
        reply = self.client.post("/runs", json={"project": 5, **options})
        assert reply.status_code == 201, reply.text
        return str(reply.json["id"])

    def get(self, run: str, what: str = "") -> Any:
        reply = self.client.get(f"/runs/{run}{what}")
        assert reply.status_code == 200, reply.text
        return reply.json

    def post(self, run: str, what: str) -> Any:
        reply = self.client.post(f"/runs/{run}/{what}")
        assert reply.status_code == 200, reply.text
        return reply.json

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address at which it answers over HTTP meanwhile."""
        server = make_server("127.0.0.1", 0, self.app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.shutdown()
            thread.join()

    def until(self, run: str, holds: Callable[[Any], bool]) -> Any:
        """The run once something holds of it."""
        found: Any = None

        def now() -> bool:
            nonlocal found
            found = self.get(run)
            return holds(found)

        until(now)
        return found

    def ended(self, run: str, state: str = "done") -> Any:
        found = self.until(run, lambda now: now["state"] in ("done", "failed", "cancelled"))
        assert found["state"] == state, found
        return found

    def run(self, **options: Any) -> Any:
        """A run that is done."""
        return self.ended(self.start(**options))

    def messages(self, run: str) -> dict[int, str]:
        """By task, what became of it."""
        return {each["task"]: each["message"] for each in self.get(run, "/tasks")["tasks"]}

    def close(self) -> None:
        self.runs.stop_soon()
        self.dispatcher.drain()
        self.runs.close()
        self.finetuning.close()
        self.dispatcher.close()


@contextmanager
def running_service(engine: Engine | None = None) -> Iterator[Service]:
    service = Service(engine=engine)
    try:
        yield service
    finally:
        service.close()


def pages_of(
    label_studio: LabelStudio, folder: Path, count: int, size: tuple[int, int]
) -> list[str]:
    """Addresses of grey pictures of ``size`` (width, height), each lighter than the one before."""
    width, height = size
    paths = [folder / f"{page}.png" for page in range(count)]
    for page, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((height, width, 3), 10 * page, np.uint8))
    return [label_studio.serve(f"/data/upload/5/{path.name}", path) for path in paths]


def stored(label_studio: LabelStudio, task: int) -> dict[str, Any]:
    """The one prediction that a task has, of this model."""
    [found] = label_studio.tasks[task]["predictions"]
    assert found["model_version"] == f"demo@{__version__}"
    return dict(found)
