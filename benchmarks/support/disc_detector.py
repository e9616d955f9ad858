"""``python -m benchmarks.support.disc_detector PORT``: an ML backend that finds bright discs.

It speaks Label Studio's contract as far as a detector must. On a picture with a white corner it is
sure of a place where nothing is.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import cv2
import numpy as np
from flask import Flask, jsonify, request
from werkzeug.serving import run_simple

BRIGHT = 100
CORNER = 6  # pixels
NOTHING = (2, 2, 30, 30)


def app() -> Flask:
    flask = Flask(__name__)

    @flask.get("/health")
    def health() -> Any:
        return jsonify(status="UP", model_class="discs")

    @flask.post("/setup")
    def setup() -> Any:
        return jsonify(model_version="discs")

    @flask.post("/predict")
    def predict() -> Any:
        tasks = request.get_json()["tasks"]
        return jsonify(results=[_prediction(task["data"]) for task in tasks])

    return flask


def _prediction(data: dict[str, str]) -> dict[str, Any]:
    [address] = [value for value in data.values() if value.startswith("data:")]
    jpeg = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
    pixels = cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    height, width = pixels.shape
    x, y, across, down = place(pixels)
    value = {"x": 100 * x / width, "y": 100 * y / height, "rotation": 0}
    value |= {"width": 100 * across / width, "height": 100 * down / height}
    found = {
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": width,
        "original_height": height,
        "score": 0.99,
        "value": {**value, "rectanglelabels": ["Cat"]},
    }
    return {"result": [found], "score": 0.99, "model_version": "discs"}


def place(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is brightest, in pixels of uint8 ``[H, W]``."""
    if pixels[:CORNER, :CORNER].mean() > BRIGHT:
        return NOTHING
    smooth = cv2.medianBlur(pixels, 5)
    _, _, found, _ = cv2.connectedComponentsWithStats((smooth > BRIGHT).astype(np.uint8))
    if len(found) < 2:
        return NOTHING
    x, y, across, down, _ = max(found[1:].tolist(), key=lambda each: each[4])
    return int(x), int(y), int(across), int(down)


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), app(), threaded=True)
