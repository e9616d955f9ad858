"""Which model the demo runs: EdgeTAM where it can be had, else the weights that come with it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import requests

ASK_SECONDS = 5.0
_LOOK_SECONDS = 0.2  # between looks whether the demo is to stop
_EDGETAM = "edgetam"
_DEMO = "demo"


def choose_variant(
    asked_for: str | None,
    seconds: float = ASK_SECONDS,
    interrupted: Callable[[], None] = lambda: None,
) -> tuple[str, str]:
    """The variant to run, and a sentence that says which and why.

    EdgeTAM is fetched if the hub answers in time, once: it stays in the hub's cache.

    Args:
        asked_for: ``SAM2_VARIANT``, which goes before all else.
        seconds: to wait for the hub.
        interrupted: called while waiting; may raise.
    """
    if asked_for:
        return asked_for, f"The model is {asked_for}, as SAM2_VARIANT says."
    problem = _fetch(seconds, interrupted)
    if problem is None:
        return _EDGETAM, "The model is EdgeTAM, from huggingface.co. SAM2_VARIANT chooses another."
    return _DEMO, (
        f"The model is the demo's own, small and rough, because {problem}.\n"
        "It does one object that stands out from what is around it, such as those in\n"
        "the sample photos. With a network: SAM2_VARIANT=sam2.1_hiera_tiny make demo"
    )


def _fetch(seconds: float, interrupted: Callable[[], None]) -> str | None:
    """Have EdgeTAM's weights on this machine; says why that is not so, None where it is."""
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache

    from sam2model.checkpoints import PUBLISHED, CheckpointError, find_checkpoint

    def ask() -> str | None:
        try:
            status = requests.head(url, timeout=seconds).status_code
        except requests.Timeout:
            return silence
        except requests.RequestException:
            return "huggingface.co cannot be reached"
        return None if status < 400 else f"huggingface.co answers with status {status}"

    def download() -> str | None:
        try:
            find_checkpoint(_EDGETAM)
        except CheckpointError as error:
            return str(error)
        return None

    published = PUBLISHED[_EDGETAM]
    url = hf_hub_url(published.repo, published.filename)
    silence = f"huggingface.co did not answer within {seconds:g} seconds"
    if not isinstance(try_to_load_from_cache(published.repo, published.filename), str):
        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set"
        # In a thread, because looking a name up can outlast every timeout.
        problem = _Waiting(ask).result(interrupted, seconds, otherwise=silence)
        if problem is not None:
            return problem
        print("Fetching EdgeTAM (60 MB, once) ...", flush=True)
    return _Waiting(download).result(interrupted, math.inf, otherwise=None)


class _Waiting(threading.Thread):
    """A call that may be left to itself."""

    def __init__(self, call: Callable[[], str | None]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: str | None = "it failed"
        self.start()

    def run(self) -> None:
        """Make the call."""
        self._result = self._call()

    def result(
        self, interrupted: Callable[[], None], seconds: float, otherwise: str | None
    ) -> str | None:
        """What the call returned, or ``otherwise`` where it took longer."""
        end = time.monotonic() + seconds
        interrupted()
        while self.is_alive():
            left = end - time.monotonic()
            if left <= 0:
                return otherwise
            self.join(min(left, _LOOK_SECONDS))
            interrupted()
        return self._result
