"""Which request of Label Studio is what, and how many are answered at once; without HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from backend.engine.engine import Engine
from backend.labelstudio.label_config import LabelConfigError, parse_label_config
from backend.labelstudio.model_names import shown_version
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.tags import LabelConfig
from backend.metrics import Metrics
from backend.predict.asked_lately import AskedLately
from backend.predict.click import Clicks, Reply, Request
from backend.predict.events.messages import Event, event_of
from backend.predict.events.protocol import VideoProtocol
from backend.predict.find import Finder
from backend.predict.retrieve import Retrieval
from backend.threads.caller import caller, serving
from backend.threads.fair_queue import Busy
from backend.tracking.tracking import Tracking

logger = logging.getLogger(__name__)

MAX_PROJECT = 100  # characters of a project's name; Label Studio's have about 20
ANSWERED = frozenset({"ok", "partial"})  # outcomes of clicks and boxes that got a mask
CLICKED_SECONDS = 5.0  # after a click: the next one is likely to come
RESERVED_THREADS = 2  # for probes, metrics and the answer "busy"


class BadRequest(Exception):
    """The body is not what Label Studio sends; ``str()`` says what is wrong."""


class Admission:
    """Counts requests under way, so that some thread is always free to answer; a project may take
    three quarters of the places.

    Args:
        threads: requests that the server answers at the same time.
    """

    def __init__(self, threads: int) -> None:
        self.places = max(1, threads - RESERVED_THREADS)
        self.share = max(1, self.places - self.places // 4)
        self._lock = threading.Lock()
        self._inside: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """Requests under way."""
        return self._inside.total()

    @contextmanager
    def enter(self, project: str) -> Iterator[None]:
        """Hold a place inside the block.

        Raises:
            Busy: there is none.
        """
        with self._lock:
            if self._inside.total() >= self.places:
                raise Busy("the backend is busy with other requests; try again in a moment")
            if self._inside[project] >= self.share:
                raise Busy(
                    "the backend is busy with other requests of this project; try again in a moment"
                )
            self._inside[project] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside[project] -= 1
                if not self._inside[project]:
                    del self._inside[project]


class Dispatcher:
    """Turns request bodies into reply bodies.

    Args:
        finder: asks the detector.
        parse: reads a label config; it may remember those that it has read.
        protocol: answers the events of newer editors; without it they get nothing.
        threads: requests that the server answers at the same time.
        media: closes what fetches and decodes, when nothing needs it any more.
    """

    def __init__(
        self,
        engine: Engine,
        clicks: Clicks,
        retrieval: Retrieval,
        tracking: Tracking,
        metrics: Metrics,
        *,
        finder: Finder,
        parse: Callable[[str], LabelConfig] = parse_label_config,
        protocol: VideoProtocol | None = None,
        threads: int = 16,
        media: ExitStack | None = None,
    ) -> None:
        self.engine = engine
        self.tracking = tracking
        self._clicks = clicks
        self.retrieval = retrieval
        self.finder = finder
        self.asked = AskedLately()
        self._clicked: float | None = None  # when an editor last asked, or was answered
        self._protocol = protocol
        self._metrics = metrics
        self._admission = Admission(threads)
        self._media = media or ExitStack()
        self._parse = parse

    @property
    def is_clicked(self) -> bool:
        """Whether somebody is at work in an editor: a click came within the last seconds."""
        clicked = self._clicked
        return clicked is not None and time.monotonic() - clicked < CLICKED_SECONDS

    def config(self, xml: object) -> LabelConfig:
        """The parsed label config.

        Raises:
            BadRequest: it is missing.
            LabelConfigError: it cannot be used.
        """
        if not isinstance(xml, str) or not xml.strip():
            raise BadRequest("the request has no label config")
        return self._parse(xml)

    def predict(self, body: object) -> dict[str, Any]:
        """The reply to ``/predict``.

        Raises:
            BadRequest: ``body`` is not an object with a list of tasks.
        """
        if not isinstance(body, dict):
            raise BadRequest("the body must be a JSON object")
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise BadRequest("tasks must be a list of objects")
        params = body.get("params")
        # label-studio-ml hands on {} where Label Studio sends null
        context = (params.get("context") or None) if isinstance(params, dict) else None
        protocol = self._protocol
        event = event_of(context) if protocol is not None else None
        if protocol is not None and event is Event.CAPABILITIES:  # the same for all projects
            return {"results": [self._prediction(event, protocol.capabilities())]}
        project = str(body.get("project"))[:MAX_PROJECT]
        xml: Any = body.get("label_config")
        try:
            config = self.config(xml)
        except (BadRequest, LabelConfigError) as error:
            logger.warning("project %s: no predictions: %s", project, error)
            kind = "batch" if context is None else "interactive"
            self._metrics.predictions.labels(kind, "bad_config").inc()
            # An empty list stores nothing, but the editor wants an object.
            return {"results": [[] if context is None else {"result": []} for _ in tasks]}
        with serving(project=project):
            if context is None:
                whole = [ProjectTask(project, task, xml, config) for task in tasks]
                return self._retrieve(project, whole)
            if not tasks:
                return {"results": []}
            request = Request(project, tasks[0], xml, config, context)
            if protocol is not None and event is not None:
                reply = partial(protocol.reply, event, request)
                refuse = partial(protocol.reply_busy, event, request)
                return {"results": [self._reply(event, request, reply, refuse)]}
            reply = partial(self._clicks.reply, request)
            refuse = partial(self._clicks.message, request, outcome="busy")
            with serving(person=request.owner or ""):
                first = self._reply("interactive", request, reply, refuse)
            # The editor asks for one task at a time and reads only the first result.
            return {"results": [first, *([] for _ in tasks[1:])]}

    def _retrieve(self, project: str, tasks: list[ProjectTask]) -> dict[str, Any]:
        try:
            with self._admission.enter(project):
                results, kind = self.retrieval.reply(tasks)
            outcome = "ok" if any(results) else "nothing"
        except Busy as error:
            logger.warning("%d tasks: no predictions: %s", len(tasks), error)
            results, kind, outcome = [[] for _ in tasks], "batch", "busy"
        self._metrics.predictions.labels(kind, outcome).inc()
        return {"results": results, "model_version": shown_version(self.engine.model_version)}

    def _reply(
        self,
        kind: str,
        request: Request,
        reply: Callable[[], Reply],
        refuse: Callable[[str], Reply],
    ) -> dict[str, Any]:
        """What ``reply`` returns, or ``refuse`` where the service has no place for a request."""
        self._clicked = time.monotonic()
        try:
            with self._admission.enter(request.project):
                found = reply()
        except Busy as error:
            logger.warning("task %s: %s: %s", request.task_id, kind, error)
            found = refuse(str(error))
        self._note(request, found)
        return self._prediction(kind, found)

    def _note(self, request: Request, reply: Reply) -> None:
        """Keep what was asked and answered, for those who look whether clicks arrive."""
        self._clicked = now = time.monotonic()
        seconds = now - (caller().begun or now)
        self.asked.add(request, reply, seconds)
        if reply.outcome in ANSWERED and not request.is_on_video:
            self._metrics.clicks.observe(seconds)

    def _prediction(self, kind: str, reply: Reply) -> dict[str, Any]:
        """A reply as Label Studio and the editors take it; counted as ``kind``."""
        self._metrics.predictions.labels(kind, reply.outcome).inc()
        scores = [item["score"] for item in reply.results if "score" in item]
        prediction = {
            "result": reply.results,
            "score": sum(scores) / len(scores) if scores else 0.0,
            "model_version": shown_version(self.engine.model_version),
        }
        return prediction if reply.error is None else {**prediction, "error": reply.error}

    def drain(self) -> None:
        """Begin to stop: who waits gets "busy" at once, jobs end after the frame they are at."""
        self.tracking.jobs.stop_soon()
        self.engine.drain()

    def close(self) -> None:
        """Stop background work, release the model, end the decoding processes."""
        self.drain()
        if self._protocol is not None:
            self._protocol.close()
        self.retrieval.close()
        self.finder.close()
        self.tracking.close()
        self.engine.close()
        self._media.close()
