"""The gunicorn entry: builds the application from the environment, inside the worker."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from flask import Flask

from backend.finetune.finetuning import Finetuning
from backend.logs import configure
from backend.predict.dispatch import Dispatcher
from backend.runs.runs import Runs, open_runs
from backend.settings import Settings
from backend.web.app import create_app
from backend.wiring import Wiring

logger = logging.getLogger(__name__)


def application(make_wiring: Callable[[Settings], Wiring] = Wiring) -> Flask:
    """What gunicorn calls (``backend.wsgi:application()``)."""
    settings = Settings.from_env(os.environ)
    configure(settings)
    if settings.auth_token is not None and settings.basic_auth_user is None:
        logger.warning(
            "Label Studio is shut out: it can send a user name and a password but no token; "
            "set BASIC_AUTH_USER and BASIC_AUTH_PASS too"
        )
    if settings.is_open and not settings.is_local:
        logger.warning("whoever reaches port %d may use the backend", settings.port)
    wiring = make_wiring(settings)
    engine = wiring.engine()
    service = wiring.service(engine)
    finetuning = wiring.finetuning(engine)
    runs = open_runs(wiring, service)
    atexit.register(_end, service, finetuning, runs)
    _drain_on_signal(partial(_drain, service, runs))
    return create_app(wiring, service, finetuning, runs)


def _drain(service: Dispatcher, runs: Runs) -> None:
    runs.stop_soon()  # first: it would wait for what the service does not do any more
    service.drain()


def _end(service: Dispatcher, finetuning: Finetuning, runs: Runs) -> None:
    _drain(service, runs)
    runs.close()
    finetuning.close()
    service.close()


def _drain_on_signal(drain: Callable[[], None]) -> None:
    """Begin to stop with the signal, and not when the server's last request has ended: those
    that wait for the model would make it wait for them."""
    if threading.current_thread() is not threading.main_thread():
        return  # somebody else's server
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        server = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, server: Any = server) -> None:
            # In a thread, because a handler may interrupt one that holds a lock.
            threading.Thread(target=drain, name="drain", daemon=True).start()
            if callable(server):
                server(number, frame)

        signal.signal(number, stop)
