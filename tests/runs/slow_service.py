"""The service over a fake model that takes its time; a process of its own, to be killed."""

from __future__ import annotations

import sys
import time

import pytest
from werkzeug.serving import run_simple

from tests.backend.fakes import FakeVideoTracker
from tests.command_line import use_fake_model
from tests.runs.service import Service


class SlowTracker(FakeVideoTracker):
    """Slow, and slower from frame 5 on: who waits for the first frames comes before the last."""

    def propagate(self, start, count, reverse):  # type: ignore[no-untyped-def]
        for found in super().propagate(start, count, reverse):
            time.sleep(0.2 if found.frame < 5 else 3.0)
            yield found


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        use_fake_model(patch, tracker=SlowTracker)
        run_simple("127.0.0.1", int(sys.argv[1]), Service().app, threaded=True)
