"""Compiling the image encoder beside a model that answers already."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.engine.building import ModelChoice, compile_encoder

if TYPE_CHECKING:
    from sam2model import ImagePredictor

logger = logging.getLogger(__name__)

Compile = Callable[[ModelChoice, "ImagePredictor"], None]
_THREAD = "compiling"


def compile_in_background(
    choice: ModelChoice, predictor: ImagePredictor, compile_it: Compile = compile_encoder
) -> threading.Thread:
    """Begin to compile; no request waits for it, and one that comes meanwhile is computed as
    before. Where it cannot be done, the log says why and everything stays as it is.

    Returns:
        The thread, which ends: see ``LocalEngine.replace`` for what living ones cost on a CPU.
    """

    def run() -> None:
        logger.info("compiling the image encoder of %s", choice.version)
        start = time.monotonic()
        try:
            compile_it(choice, predictor)
        except Exception as error:  # the thread ends here, and a compiler fails in many ways
            logger.warning(
                "SAM2_COMPILE: the image encoder of %s could not be compiled and runs as it is: %s",
                choice.version,
                " ".join(str(error).split())[:500] or type(error).__name__,
            )
            logger.debug("not compiled", exc_info=True)
        else:
            seconds = time.monotonic() - start
            logger.info("the image encoder runs compiled from now on, after %.0f s", seconds)

    thread = threading.Thread(target=run, name=_THREAD, daemon=True)
    thread.start()
    return thread


def end_while_compiling(code: int) -> None:
    """End the process here if it still compiles; call it last, when everything is closed.

    An interpreter that ends tears its threads out of what they call, and a compiler does not take
    that: the process would be aborted.
    """
    if any(thread.name == _THREAD for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
