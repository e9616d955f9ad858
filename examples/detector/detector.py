"""An ML backend for Label Studio that finds what it is told in words: boxes for the labels of a
project, or for what was typed into a text area. Settings are at the head, README.md explains them.
"""

from __future__ import annotations

import base64
import hmac
import io
import os
import re
import threading
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import requests
import torch
import waitress
from flask import Flask, Response, jsonify, request
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

ENV = os.environ.get
MODEL = ENV("MODEL", "IDEA-Research/grounding-dino-tiny")  # of the hub, or a folder
DEVICE = ENV("DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
THRESHOLD = float(ENV("THRESHOLD", "0.25"))
HOST, PORT = ENV("HOST", "127.0.0.1"), int(ENV("PORT", "9091"))
USER, FILE = ENV("BASIC_AUTH_USER", ""), ENV("BASIC_AUTH_PASS_FILE", "")
PASSWORD = Path(FILE).read_text().strip() if FILE else ENV("BASIC_AUTH_PASS", "")
LABEL_STUDIO, TOKEN = ENV("LABEL_STUDIO_URL", "").rstrip("/"), ENV("LABEL_STUDIO_API_KEY", "")
HOSTS = {host.strip() for host in ENV("ALLOWED_HOSTS", "").split(",")} - {""}

NAMES_AT_ONCE = 20  # Grounding DINO reads 256 tokens
MAX_BYTES, MAX_PIXELS, MAX_XML = 64 * 2**20, 50_000_000, 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class Model:
    """The network; one picture at a time."""

    def __init__(self) -> None:
        self.processor = AutoProcessor.from_pretrained(MODEL)
        self.model = AutoModelForZeroShotObjectDetection.from_pretrained(MODEL).to(DEVICE).eval()
        self.lock = threading.Lock()

    @torch.inference_mode()
    def find(self, picture: Image.Image, names: list[str]) -> list[tuple[str, float, list[float]]]:
        """Name, score and box (left, top, right, bottom in pixels) of what is there."""
        found = []
        for start in range(0, len(names), NAMES_AT_ONCE):
            some = names[start : start + NAMES_AT_ONCE]
            asked = [name.lower() for name in some]
            inputs = self.processor(images=picture, text=[asked], return_tensors="pt").to(DEVICE)
            with self.lock:
                outputs = self.model(**inputs)
            [result] = self.processor.post_process_grounded_object_detection(
                outputs, threshold=THRESHOLD, target_sizes=[picture.size[::-1]], text_labels=[asked]
            )
            columns = (result[column] for column in ("text_labels", "scores", "boxes"))
            for text, score, box in zip(*columns, strict=True):
                if (name := meant(text, some)) is not None:
                    found.append((name, float(score), box.tolist()))
        return found


def meant(text: str, names: list[str]) -> str | None:
    """The name that a phrase of the model stands for: Grounding DINO joins and shortens them."""
    said, share = set(re.findall(r"\w+", text.lower())), {}
    for name in names:
        words = set(re.findall(r"\w+", name.lower()))
        share[name] = len(words & said) / max(1, len(words))
    best = max(names, key=lambda name: (share[name], len(name)))
    return best if share[best] > 0 else None


def labels_in(config: str) -> tuple[list[str], str, str, str]:
    """The labels of a label config; the control that takes boxes, its picture, and the picture's
    key in a task's data."""
    if len(config) > MAX_XML or "<!DOCTYPE" in config or "<!ENTITY" in config:
        raise ValueError("the label config is too large, or has a document type")
    root = ET.fromstring(config)  # noqa: S314 - without a document type
    tags = [(node.tag.lower(), node) for node in root.iter()]
    if (image := next((node for tag, node in tags if tag == "image"), None)) is None:
        raise ValueError("the label config has no Image")
    boxes = [node for tag, node in tags if tag == "rectanglelabels"]
    labels = (boxes[0] if boxes else root).iter()
    names = {node.get("value", ""): None for node in labels if node.tag.lower() == "label"}
    control = boxes[0].get("name", "") if boxes else "label"
    return [*filter(None, names)], control, image.get("name", ""), image.get("value", "")[1:]


def typed(context: object) -> list[str] | None:
    """What somebody typed into a text area: names with commas or full stops between; None where
    nothing was done in the editor, empty where it was something else."""
    if not isinstance(context, dict):
        return None
    for item in context.get("result") or []:
        if texts := item.get("value", {}).get("text"):
            text = texts[-1] if isinstance(texts, list) else texts  # the editor's newest
            parts = text.split(" . ") if " . " in text else text.rstrip(".").split(",")
            return [part.strip() for part in parts if part.strip()]
    return []


def fetch(address: str, task: int | None) -> bytes:
    """The file behind an address. Only hosts that the operator named are asked, and the token goes
    to Label Studio only."""
    if address.startswith("data:"):
        return base64.b64decode(address.partition(",")[2])
    if address.startswith(("s3://", "gs://", "azure-blob://")):
        uri = base64.urlsafe_b64encode(address.encode()).decode()
        address = f"/tasks/{task}/presign/?fileuri={uri}"
    url = f"{LABEL_STUDIO}{address}" if address.startswith("/") else address
    own = bool(LABEL_STUDIO) and f"{url}/".startswith(f"{LABEL_STUDIO}/")
    if not own and urlsplit(url).netloc not in HOSTS:
        raise ValueError(f"{urlsplit(url).netloc or 'Label Studio'} is not among those it may ask")
    for _ in range(2):  # Label Studio redirects to its storages, which must not get the token
        headers = authorization() if own else {}
        asked = requests.get(url, headers=headers, timeout=20, stream=True, allow_redirects=False)
        with asked as answer:
            if answer.is_redirect and own:
                url, own = urljoin(url, answer.headers["Location"]), False
                continue
            if answer.status_code != 200:
                raise ValueError(f"the picture's server answered {answer.status_code}")
            return answer.raw.read(MAX_BYTES, decode_content=True)
    raise ValueError("the picture's address is redirected")


def authorization() -> dict[str, str]:
    """What Label Studio wants: a legacy token as it is, a personal access token exchanged."""
    if not TOKEN or "." not in TOKEN:
        return {"Authorization": f"Token {TOKEN}"} if TOKEN else {}
    url = f"{LABEL_STUDIO}/api/token/refresh"
    answer = requests.post(url, json={"refresh": TOKEN}, timeout=20, allow_redirects=False)
    return {"Authorization": f"Bearer {answer.json().get('access')}"}


def predict(model: Model, task: dict, config: str, context: object) -> dict:
    """The prediction for one task."""
    names, control, image, key = labels_in(config)
    names = names if (asked := typed(context)) is None else asked
    file = fetch(str(task["data"][key]), task.get("id"))
    with Image.open(io.BytesIO(file), formats=FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError("the picture is too large")
        picture = opened.convert("RGB")
    width, height = picture.size
    common = {"from_name": control, "to_name": image, "type": "rectanglelabels"}
    common |= {"original_width": width, "original_height": height, "image_rotation": 0}
    found = model.find(picture, names) if names else []
    result = [
        {**common, "id": uuid4().hex[:10], "score": score, "value": {
            "x": 100 * x0 / width, "y": 100 * y0 / height, "width": 100 * (x1 - x0) / width,
            "height": 100 * (y1 - y0) / height, "rotation": 0, "rectanglelabels": [name]}}
        for name, score, (x0, y0, x1, y1) in found
    ]  # fmt: skip
    score = max([0.0, *(each[1] for each in found)])
    return {"result": result, "score": score, "model_version": MODEL}


def create_app(model: Model) -> Flask:
    """The routes of the contract."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 2 * MAX_BYTES
    if HOST not in ("127.0.0.1", "localhost") and not (USER and PASSWORD):
        raise SystemExit("HOST is for others too: set BASIC_AUTH_USER and BASIC_AUTH_PASS")

    @app.before_request
    def check() -> Response | None:
        given = request.authorization
        pair = f"{given.username}\n{given.password}" if given and given.type == "basic" else ""
        right = hmac.compare_digest(pair.encode(), f"{USER}\n{PASSWORD}".encode())
        if request.path == "/health" or not USER or right:
            return None
        return Response("user name or password missing or wrong", 401)

    @app.get("/health")
    @app.post("/setup")
    def health() -> Response:
        return jsonify(status="UP", model_class="ZeroShotDetector", model_version=MODEL)

    @app.post("/predict")
    def answer() -> Response:
        body = request.get_json()
        try:
            context, config = (body.get("params") or {}).get("context"), body["label_config"]
            results = [predict(model, task, config, context) for task in body["tasks"]]
        except (OSError, SyntaxError, LookupError, TypeError, ValueError) as error:
            said = " ".join(str(error).split()).encode("ascii", "replace").decode()[:150]
            return Response(said, f"422 {said}")
        return jsonify(results=results)

    return app


if __name__ == "__main__":
    waitress.serve(create_app(Model()), host=HOST, port=PORT, threads=8)
