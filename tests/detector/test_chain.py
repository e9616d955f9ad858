"""The backend and a detector, each a process of its own, over HTTP."""

from __future__ import annotations

import json

import pytest

from backend.labelstudio.commands import STATUS_PREFIX
from benchmarks.support.server import CONFIG, HEIGHT, WIDTH, Server, body, said, typed
from tests.waiting import PATIENCE

CREDENTIALS = {"BASIC_AUTH_USER": "backend", "BASIC_AUTH_PASS": "s3cret"}
LABELS = CONFIG.replace('<Label value="Cat"/>', '<Label value="Animal"/><Label value="Person"/>')


@pytest.mark.slow
def test_find_brings_masks_and_says_when_the_detector_is_gone(start, tmp_path):
    detector, url = start(**CREDENTIALS)
    settings = {
        "DETECTOR_URL": url,
        "DETECTOR_USER": "backend",
        "DETECTOR_PASS": "s3cret",
        "DETECTOR_SCORE": "0",
        "DETECTOR_LABELS": "red car=Animal",
        "CLICK_BUDGET_SECONDS": f"{PATIENCE}",
    }
    server = Server(tmp_path / "backend", settings)
    try:
        detector.wait_for(url + "/health", seconds=PATIENCE)
        server.wait_ready(PATIENCE)
        task = {"id": 7, "data": {"image": server.picture(1)}}

        def find(text):
            reply = server.predict(body(task, [typed(text)], config=LABELS), timeout=PATIENCE)
            results = reply.json()["results"][0]["result"]
            masks = [each for each in results if each["type"] == "brushlabels"]
            return masks, said(reply).removeprefix(STATUS_PREFIX)

        masks, told = find("find red car, person")
        assert masks, told
        assert told.startswith("found ")
        for mask in masks:
            assert mask["value"]["brushlabels"][0] in ("Animal", "Person")
            assert (mask["original_width"], mask["original_height"]) == (WIDTH, HEIGHT)
            assert mask["value"]["rle"]
        _, told = find("find")  # the labels of the config; what is there already is left alone
        assert "Animal" in told or "already" in told
        log = server.text()
        assert "s3cret" not in log
        assert "base64" not in log
        detector.stop()
        masks, told = find("find person")
        assert not masks
        assert told.startswith("the detector at ") and "cannot be reached" in told
        assert server.tracebacks() == 0
        assert json.dumps(told).isascii()
    finally:
        server.stop()
