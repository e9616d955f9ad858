"""``GET /projects/<id>/export``: the masks of a project as a ZIP that is made while it is sent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TypeVar

from flask import Blueprint, Response, request

from backend.expected import ExpectedError
from backend.export.export import Order, export_as_zip, opened_source
from backend.export.formats import WRITERS
from backend.export.writer import Options, read_detail, read_share
from backend.labelstudio.client import LabelStudioError
from backend.labelstudio.project_task import ProjectTask
from backend.predict.dispatch import BadRequest
from backend.runs.command_line import CommandError
from backend.runs.projects import read_project
from backend.settings import Settings, SettingsError
from backend.web.guard import refuse
from backend.web.site import site_blueprint
from backend.wiring import Wiring

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

SIDE_BY_SIDE = 2  # each holds a thread and a decoding process for as long as it is taken
_YES = {"1": True, "true": True, "0": False, "false": False}
_SEGMENTATIONS = {"rle": False, "polygons": True}
_SPLITS = {"task": False, "page": True}


class Exports:
    """Makes exports, a few at a time."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._making = threading.BoundedSemaphore(SIDE_BY_SIDE)

    def answer(self, number: int) -> Response:
        """The ZIP of a project, whose pieces are made as they are sent."""
        order = _order(self._wiring.settings)
        try:
            client = self._wiring.connect()
            project = read_project(client, number)
        except CommandError as error:
            return refuse(HTTPStatus.NOT_FOUND, str(error))
        except SettingsError as error:
            return refuse(HTTPStatus.CONFLICT, str(error))
        except LabelStudioError as error:
            return refuse(HTTPStatus.BAD_GATEWAY, str(error))
        if not self._making.acquire(blocking=False):
            reason = f"{SIDE_BY_SIDE} exports are being made; ask again when one has ended"
            return refuse(HTTPStatus.TOO_MANY_REQUESTS, reason)
        tasks = (project.with_task(task) for task in client.list_tasks(number))
        response = Response(self._pieces(number, order, tasks), mimetype="application/zip")
        response.call_on_close(self._making.release)
        name = f"project_{number}_{order.kind}.zip"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    def _pieces(self, number: int, order: Order, tasks: Iterable[ProjectTask]) -> Iterator[bytes]:
        try:
            with opened_source(self._wiring) as source:
                yield from export_as_zip(order, tasks, source)
        except ExpectedError as error:
            # The connection breaks off, so that nobody takes what is there for all.
            logger.warning("the export of project %d broke off: %s", number, error)
            raise


def exports_blueprint(exports: Exports, settings: Settings) -> Blueprint:
    """The route of exports."""
    blueprint = site_blueprint("exports", settings)
    blueprint.get("/projects/<int:number>/export")(exports.answer)
    return blueprint


def _order(settings: Settings) -> Order:
    """What the query of the request asks for.

    Raises:
        BadRequest: there is no such format, or an option cannot be read.
    """
    kind = request.args.get("format", "")
    if kind not in WRITERS:
        raise BadRequest(f"format must be one of {', '.join(sorted(WRITERS))}")
    options = Options(
        pictures=_read("pictures", _one_of(_YES), False),
        polygons=_read("segmentation", _one_of(_SEGMENTATIONS), False),
        detail=_read("detail", read_detail, settings.polygon_detail),
        val=_read("val", read_share, Options.val),
        by_page=_read("split_by", _one_of(_SPLITS), False),
    )
    return Order(kind, options, predictions=_read("predictions", _one_of(_YES), False))


def _read(name: str, read: Callable[[str], Value], default: Value) -> Value:
    text = request.args.get(name)
    try:
        return read(text) if text else default
    except ValueError as error:
        raise BadRequest(f"{name} {error}") from None


def _one_of(values: dict[str, bool]) -> Callable[[str], bool]:
    def read(text: str) -> bool:
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return values[text]

    return read
