"""Which variant ``SAM2_VARIANT`` means, and an engine with EdgeTAM, which differs most from the
others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backend.cluster.deploy import choice_as_data, choice_from_data
from backend.engine.building import ModelChoice, build_video_tracker, share_cores
from backend.engine.local import LocalEngine
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Priority
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource
from backend.settings import Settings
from backend.wiring import Wiring
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.reference import draw_weights
from sam2model import ImagePredictor, build_model
from sam2model.memory_policy import POLICIES
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS
from tests.backend.fakes import AsGiven
from tests.waiting import LONGER, PATIENCE, until

GB = 10**9


@pytest.mark.parametrize(
    ("asked", "free", "variant"),
    [
        ({}, 80 * GB, "demo"),
        ({"SAM2_VARIANT": "auto"}, 8 * GB, "sam2.1_hiera_base_plus"),
        ({"SAM2_VARIANT": "auto"}, 7 * GB, "sam2.1_hiera_tiny"),
        ({"SAM2_VARIANT": "auto"}, None, "edgetam"),
        ({"SAM2_VARIANT": "auto", "SAM2_DEVICE": "cpu"}, 80 * GB, "edgetam"),
        ({"SAM2_VARIANT": "auto", "SAM2_DEVICE": "cuda"}, None, "edgetam"),
    ],
)
def test_the_variant_for_the_device(monkeypatch, asked, free, variant):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: free is not None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GB))
    wiring = Wiring(Settings.from_env(asked))
    assert wiring.base_model().variant == variant
    # With the model on it, the device has less free.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80 * GB))
    assert wiring.base_model().variant == variant


@pytest.mark.parametrize(
    ("asked", "free", "mib"),
    [
        ("auto", 40 << 30, 8192),
        ("auto", 8 << 30, 2048),
        ("auto", 1 << 29, 256),
        ("auto", None, 1024),
        ("64", 40 << 30, 64),
        ("", 40 << 30, 1024),
    ],
)
def test_the_room_for_embeddings_on_the_device(monkeypatch, asked, free, mib):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: free is not None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GB))
    settings = Settings.from_env({"EMBEDDING_CACHE_MB": asked})
    wiring = Wiring(settings)
    assert wiring._cache_bytes == mib << 20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80 * GB))
    assert wiring._cache_bytes == mib << 20
    shown = {row.variable: row.value for row in settings.rows()}
    assert shown["EMBEDDING_CACHE_MB"] == (asked or "1024")


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
def test_threads_that_wait_for_one_another_let_others_have_the_cores(monkeypatch):
    """Told to OpenMP before it is loaded, as OpenMP itself says; an operator may choose."""
    environment = {"PATH": os.environ["PATH"], "OMP_DISPLAY_ENV": "VERBOSE"}
    code = (
        "from backend.engine.building import variant_for; variant_for('cpu');"
        "import sys; print(sys.getswitchinterval())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=LONGER,
    )
    assert "GOMP_SPINCOUNT = '4000'" in done.stderr
    assert done.stdout == "0.0005\n"  # of its 0.005
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    share_cores()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("memory", list(POLICIES))
def test_trackers_have_the_memory_that_the_settings_name_also_on_a_replica(memory):
    choice = Wiring(Settings.from_env({"TRACK_MEMORY": memory})).base_model()
    declared = json.loads(json.dumps(choice_as_data(choice)))
    predictor = ImagePredictor(build_model("demo", device="cpu", image_size=32))
    frames = MovingDiscs(2, 64)
    tracker = build_video_tracker(choice_from_data(declared), lambda: None, predictor, frames)
    tracker.prompt(0, "disc", points=[[20, 20]])
    [track] = tracker.suspend().tracks.values()
    assert track.policy == POLICIES[memory]


def test_a_card_that_is_not_used_is_said_loudly(monkeypatch, caplog):
    why = "this machine has an NVIDIA card that torch cannot use: its driver is old"
    monkeypatch.setattr("sam2model.precision.why_card_is_unused", lambda device: why)
    engine = LocalEngine(ModelChoice("demo"), AsGiven(), cache_bytes=1 << 20, metrics=Metrics())
    try:
        engine.wait_ready(PATIENCE)
        assert engine.status().detail == f"demo is ready, on the CPU: {why}"
        until(lambda: why in caplog.text)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def edgetam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    """An engine with random weights, for which every object is present."""
    weights = draw_weights(SAM2(VARIANTS["edgetam"], 256).state_dict(), seed=11)
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 1000
    path = tmp_path_factory.mktemp("weights") / "edgetam.safetensors"
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    choice = ModelChoice("edgetam", Path(path), device="cpu", dtype="float32", image_size=256)
    engine = LocalEngine(choice, AsGiven(), cache_bytes=10**8, metrics=Metrics())
    engine.wait_ready(PATIENCE)
    yield engine
    engine.close()


@pytest.mark.parametrize("zoom", [False, True])
def test_edgetam_answers_clicks(edgetam, zoom):
    picture = np.asarray(MovingDiscs(1, 1024)[0])
    image = ImageSource("discs", lambda: picture)
    prompt = ObjectPrompt("image", points=(PointPrompt(40.0, 30.0, positive=True),))
    [answer] = edgetam.answer(image, [prompt], Priority.CLICK, PATIENCE, zoom=zoom)
    assert (answer.mask.width, answer.mask.height) == (1024, 1024)
    assert answer.mask.area


def test_edgetam_tracks(edgetam):
    tracker = edgetam.open_tracker(MovingDiscs(5, 256))
    for name, x in (("left", 0.4), ("right", 0.7)):
        points = np.array([[x * 256, 0.35 * 256]], np.float32)
        tracker.prompt(0, name, PixelPrompt(points, np.array([True])))
    tracked = {
        frame: [each.object_id for each in found if each.mask.area]
        for frame, found in tracker.step(1, 4, reverse=False)
    }
    tracker.close()
    assert tracked == {key: ["left", "right"] for key in range(1, 5)}
