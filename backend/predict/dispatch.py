"""The service behind the routes: what Label Studio's requests mean, without HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

from backend.engine.engine import Engine
from backend.labelstudio.json_values import mappings
from backend.labelstudio.label_config import LabelConfigError, parse_label_config
from backend.labelstudio.prompts import prompts_from_context
from backend.labelstudio.tags import LabelConfig
from backend.metrics import Metrics
from backend.predict.admission import Admission
from backend.predict.click import Clicks, Request
from backend.predict.events.ask import Event, event_of
from backend.predict.events.protocol import EventAnswer, VideoProtocol
from backend.predict.retrieve import Retrieval
from backend.threads.caller import log_place, serving
from backend.threads.fair_queue import Busy
from backend.tracking.tracking import Tracking

logger = logging.getLogger(__name__)

MAX_PROJECT = 100  # characters of a project's name; Label Studio's have about 20


class BadRequest(Exception):
    """The body is not what Label Studio sends; ``str()`` says what is wrong."""


class Dispatcher:
    """Turns request bodies into reply bodies."""

    def __init__(
        self,
        engine: Engine,
        clicks: Clicks,
        retrieval: Retrieval,
        tracking: Tracking,
        metrics: Metrics,
        *,
        protocol: VideoProtocol | None = None,
        threads: int = 16,
        media: ExitStack | None = None,
    ) -> None:
        """
        Args:
            media: closes what fetches and decodes, when nothing needs it any more.
            protocol: answers the events of newer editors; without it they get nothing.
            threads: requests that the server answers at the same time.
        """
        self.engine = engine
        self.tracking = tracking
        self._clicks = clicks
        self.retrieval = retrieval
        self._protocol = protocol
        self._metrics = metrics
        self._admission = Admission(threads)
        self._media = media or ExitStack()
        self._parse = lru_cache(maxsize=64)(parse_label_config)

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
        event = event_of(context)
        if self._protocol is not None and event is Event.CAPABILITIES:  # the same for all projects
            return {"results": [self._event_reply(event, self._protocol.capabilities())]}
        kind = "batch" if context is None else "interactive"
        try:
            config = self.config(body.get("label_config"))
        except (BadRequest, LabelConfigError) as error:
            logger.warning("project %s: no predictions: %s", body.get("project"), error)
            self._metrics.predictions.labels(kind, "bad_config").inc()
            return {"results": [_nothing(context) for _ in tasks]}
        project = str(body.get("project"))[:MAX_PROJECT]
        with serving(project=project):
            if context is None:
                return self._answer_batch(project, tasks, body["label_config"], config)
            if self._protocol is not None and event is not None:
                return self._answer_event(self._protocol, event, body, tasks, config)
            return self._answer_editor(body, tasks, config, context)

    def _answer_event(
        self,
        protocol: VideoProtocol,
        event: Event,
        body: Mapping[str, Any],
        tasks: list[Mapping[str, Any]],
        config: LabelConfig,
    ) -> dict[str, Any]:
        """The reply to an event of a newer editor, in the form of ``label-studio-ml``."""
        if not tasks:
            return {"results": []}
        request = Request(str(body.get("project")), tasks[0], body["label_config"], config)
        context = body["params"]["context"]
        try:
            with self._admission.enter(request.project[:MAX_PROJECT]):
                answer = protocol.answer(event, request, context)
        except Busy as error:
            logger.warning("task %s: %s: %s", request.task_id, event, error)
            answer = protocol.answer_busy(event, request, context, str(error))
        return {"results": [self._event_reply(event, answer)]}

    def _event_reply(self, event: Event, answer: EventAnswer) -> dict[str, Any]:
        self._metrics.predictions.labels(event, answer.outcome).inc()
        reply = {
            "result": answer.items,
            "score": _mean_score(answer.items),
            "model_version": self.engine.model_version,
        }
        return reply if answer.error is None else {**reply, "error": answer.error}

    def _answer_batch(
        self, project: str, tasks: list[Mapping[str, Any]], label_config: str, config: LabelConfig
    ) -> dict[str, Any]:
        try:
            with self._admission.enter(project):
                results, asked = self.retrieval.reply(project, tasks, label_config, config)
        except Busy as error:
            logger.warning("%d tasks: no predictions: %s", len(tasks), error)
            self._metrics.predictions.labels("batch", "busy").inc()
            return {"results": [[] for _ in tasks], "model_version": self.engine.model_version}
        self._metrics.predictions.labels(asked, "ok" if any(results) else "nothing").inc()
        return {"results": results, "model_version": self.engine.model_version}

    def _answer_editor(
        self,
        body: Mapping[str, Any],
        tasks: list[Mapping[str, Any]],
        config: LabelConfig,
        context: object,
    ) -> dict[str, Any]:
        if not tasks:
            return {"results": []}
        request = Request(str(body.get("project")), tasks[0], body["label_config"], config)
        try:
            with self._admission.enter(request.project[:MAX_PROJECT]):
                if _is_on_video(context, config):
                    reply = self._clicks.reply_on_video(request, context)
                else:
                    reply = self._clicks.reply(request, prompts_from_context(context, config))
        except Busy as error:
            logger.warning("task %s: %s", request.task_id, error)
            reply = self._clicks.told(request, context, str(error), "busy")
        except Exception:  # request boundary: the editor would hide a 500
            logger.exception("task %s: the request could not be answered", request.task_id)
            text = f"the backend failed on this request; its log says why{log_place()}"
            reply = self._clicks.told(request, context, text, "defect")
        self._metrics.predictions.labels("interactive", reply.outcome).inc()
        first = {
            "result": reply.results,
            "score": _mean_score(reply.results),
            "model_version": self.engine.model_version,
        }
        # The editor asks for one task at a time and reads only the first result.
        return {"results": [first, *([] for _ in tasks[1:])]}

    def drain(self) -> None:
        """Begin to stop: what waits is told so at once, jobs end after the frame they are at."""
        self.tracking.jobs.stop_soon()
        self.engine.drain()

    def close(self) -> None:
        """Stop background work, release the model, end the decoding processes."""
        self.drain()
        if self._protocol is not None:
            self._protocol.close()
        self.retrieval.close()
        self.tracking.close()
        self.engine.close()
        self._media.close()


def _mean_score(results: list[dict[str, Any]]) -> float:
    scores = [item["score"] for item in results if "score" in item]
    return sum(scores) / len(scores) if scores else 0.0


def _is_on_video(context: object, config: LabelConfig) -> bool:
    """Whether a request of the editor is about a ``<Video>`` and not about a picture."""
    names = [video.name for video in config.videos]  # to_name may be anything
    items = context.get("result") if isinstance(context, Mapping) else None
    return any(item.get("to_name") in names for item in mappings(items))


def _nothing(context: object) -> Any:
    """The harmless answer: an empty list stores nothing, the editor wants an object."""
    return [] if context is None else {"result": []}
