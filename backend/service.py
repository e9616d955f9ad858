"""The service behind the routes: what Label Studio's requests mean, without HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from backend.batch import Batch
from backend.engine.engine import Engine
from backend.interactive import Interactive, Request
from backend.labelstudio.json_values import mappings
from backend.labelstudio.label_config import LabelConfigError, parse_label_config
from backend.labelstudio.prompts import prompts_from_context
from backend.labelstudio.tags import LabelConfig
from backend.metrics import Metrics
from backend.tracking.service import Tracking

logger = logging.getLogger(__name__)


class BadRequest(Exception):
    """The body is not what Label Studio sends; ``str()`` says what is wrong."""


class Service:
    """Turns request bodies into reply bodies."""

    def __init__(
        self,
        engine: Engine,
        interactive: Interactive,
        batch: Batch,
        tracking: Tracking,
        metrics: Metrics,
    ) -> None:
        self.engine = engine
        self.tracking = tracking
        self._interactive = interactive
        self.batch = batch
        self._metrics = metrics
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
        kind = "batch" if context is None else "interactive"
        try:
            config = self.config(body.get("label_config"))
        except (BadRequest, LabelConfigError) as error:
            logger.warning("project %s: no predictions: %s", body.get("project"), error)
            self._metrics.predictions.labels(kind, "bad_config").inc()
            return {"results": [_nothing(context) for _ in tasks]}
        if context is None:
            project, label_config = str(body.get("project")), body["label_config"]
            results, asked = self.batch.reply(project, tasks, label_config, config)
            self._metrics.predictions.labels(asked, "ok" if any(results) else "nothing").inc()
            return {"results": results, "model_version": self.engine.model_version}
        return self._answer_editor(body, tasks, config, context)

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
            if _is_on_video(context, config):
                reply = self._interactive.reply_on_video(request, context)
            else:
                reply = self._interactive.reply(request, prompts_from_context(context, config))
        except Exception:  # request boundary: the editor would hide a 500
            logger.exception("task %s: the request could not be answered", request.task_id)
            reply = self._interactive.failed(request)
        self._metrics.predictions.labels("interactive", reply.outcome).inc()
        scores = [item["score"] for item in reply.results if "score" in item]
        first = {
            "result": reply.results,
            "score": sum(scores) / len(scores) if scores else 0.0,
            "model_version": self.engine.model_version,
        }
        # The editor asks for one task at a time and reads only the first result.
        return {"results": [first, *([] for _ in tasks[1:])]}

    def close(self) -> None:
        """Stop background work and release the model."""
        self.batch.close()
        self.tracking.close()
        self.engine.close()


def _is_on_video(context: object, config: LabelConfig) -> bool:
    """Whether a request of the editor is about a ``<Video>`` and not about a picture."""
    names = [video.name for video in config.videos]  # to_name may be anything
    items = context.get("result") if isinstance(context, Mapping) else None
    return any(item.get("to_name") in names for item in mappings(items))


def _nothing(context: object) -> Any:
    """The harmless answer: an empty list stores nothing, the editor wants an object."""
    return [] if context is None else {"result": []}
