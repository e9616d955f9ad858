"""``/training``: the versions of the model, how they were made, and which of them answers."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify

from backend.finetune.finetuning import Finetuning, NoSuchVersion
from backend.labelstudio.model_names import model_of
from backend.predict.dispatch import BadRequest
from backend.settings import Settings
from backend.web.guard import refuse
from backend.web.site import site_blueprint, web_page

_SHOWN = 20  # fine-tunings, the newest first


def training_blueprint(
    finetuning: Finetuning, settings: Settings, read_body: Callable[[], Any]
) -> Blueprint:
    """The routes of the page.

    Args:
        read_body: the body of the request as JSON.
    """
    blueprint = site_blueprint("training", settings)

    def values() -> dict[str, Any]:
        return {
            **finetuning.notes(),
            "jobs": [finetuning.shown(job) for job in finetuning.jobs.jobs()[:_SHOWN]],
            "projects": str(settings.finetune_projects),
        }

    @blueprint.get("/training")
    def page() -> Response:
        return web_page("training.html", **values())

    @blueprint.get("/training/moving")
    def moving() -> Response:
        return web_page("training_moving.html", **values())

    @blueprint.get("/training/versions")
    def versions() -> Response:
        return jsonify(finetuning.notes())

    @blueprint.post("/training/versions")
    def use() -> Response:
        body = read_body()
        version = body.get("version") if isinstance(body, dict) else None
        if not isinstance(version, str):
            raise BadRequest('the body must be {"version": ...}')
        try:
            return jsonify(detail=finetuning.use(model_of(version)))
        except NoSuchVersion as error:
            return refuse(HTTPStatus.CONFLICT, str(error))

    return blueprint
