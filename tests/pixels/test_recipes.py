"""Recipes travel: in another process, with media of its own, they lead to the same pixels."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.media.resolver import MediaResolver
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import PixelResolver
from backend.pixels.recipes import Frame, FramesRecipe, ImageRecipe, Pages, Picture, Video
from backend.pixels.sandbox.image_decoding import ImageDecoder
from tests.pixels.clips import steady, write_clip
from tests.waiting import PATIENCE

CONFIG = parse_label_config(
    '<View><Image name="image" valueList="$pages"/><Video name="video" value="$video"/>'
    '<BrushLabels name="mask" toName="image"><Label value="A"/></BrushLabels></View>'
)


def digests(cache: str, recipes: list[ImageRecipe | FramesRecipe]) -> list[list[Any]]:
    """Of each recipe: the key of its content, or its frames' sizes, and digests of its pixels; from
    a resolver with a cache of its own."""
    resolver = MediaResolver(
        cache_directory=Path(cache), cache_bytes=10**8, allowed_private_hosts=["127.0.0.1"]
    )
    decoder = ImageDecoder(max_pixels=10**6, warm=1)
    pixels = PixelResolver(resolver, Metrics(), decoder)
    with closing(resolver), closing(decoder), closing(pixels):
        return [_digest(pixels, recipe) for recipe in recipes]


def _digest(pixels: PixelResolver, recipe: ImageRecipe | FramesRecipe) -> list[Any]:
    if isinstance(recipe, Picture | Frame):
        image = pixels.find(recipe, time.monotonic() + PATIENCE)
        return [image.key, _name(image.load())]
    with closing(pixels.frames(recipe)) as frames:
        return [[frames.frame_size(i), _name(frames[i])] for i in range(len(frames))]


def _name(pixels: np.ndarray) -> str:
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


@pytest.fixture
def task(tmp_path: Path) -> Iterator[ProjectTask]:
    """One with a sequence and a video, on a server."""
    folder = tmp_path / "media"
    folder.mkdir()
    for page in range(3):
        picture = np.random.default_rng(page).integers(0, 255, (54, 96, 3), np.uint8)
        cv2.imwrite(str(folder / f"{page}.png"), picture if page < 2 else picture[::2, ::2])
    write_clip(folder / "a.mp4", times=steady(6, 25))
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        data = {"pages": [f"{base}/{page}.png" for page in range(3)], "video": f"{base}/a.mp4"}
        yield ProjectTask("1", {"id": 5, "data": data}, "", CONFIG)
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_in_another_process_they_lead_to_the_same_pixels(task: ProjectTask, tmp_path: Path) -> None:
    image, video = CONFIG.images[0], Video.of(task, CONFIG.videos[0])
    pages = Pages(tuple(Picture.of(task, image, page) for page in range(3)))
    key = hashlib.sha256((tmp_path / "media" / "a.mp4").read_bytes()).hexdigest()
    recipes = [pages.pictures[1], Frame(video, key, 4), pages, video]
    here = json.loads(json.dumps(digests(str(tmp_path / "here"), recipes)))
    code = (
        "import json, pickle, sys; from tests.pixels.test_recipes import digests; "
        "print(json.dumps(digests(sys.argv[1], pickle.load(sys.stdin.buffer))))"
    )
    sent = pickle.dumps(recipes)
    assert pickle.loads(sent) == recipes
    assert len(sent) < 1000
    command = [sys.executable, "-c", code, str(tmp_path / "there")]
    there = subprocess.run(command, input=sent, capture_output=True, check=True).stdout
    assert json.loads(there) == here
    assert here[1] == [f"{key}:frame:4", here[3][4][1]]
    assert here[0][1] == here[2][1][1]
    assert [size for size, _ in here[2]] == [[96, 54], [96, 54], [48, 27]]


def test_a_frame_of_a_file_that_was_replaced_is_refused(task: ProjectTask, tmp_path: Path) -> None:
    frame = Frame(Video.of(task, CONFIG.videos[0]), "of an earlier file", 4)
    with pytest.raises(Exception, match="replaced"):
        digests(str(tmp_path / "here"), [frame])


def test_a_task_without_the_address_has_no_recipe(task: ProjectTask) -> None:
    with pytest.raises(MissingMedia, match="no page 4"):
        Picture.of(task, CONFIG.images[0], 3)
