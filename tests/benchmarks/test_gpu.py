"""The benchmark for GPUs runs through on a CPU, and fails where a bound is missed."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import fast, floors, right, service
from benchmarks.gpu.check import Row
from benchmarks.speed import video_to_prediction
from benchmarks.support import transformers_peer
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.launches import meta_model
from benchmarks.support.official_tracker import make_tracking_pair
from sam2model import VideoTracker


@pytest.mark.slow
def test_every_check_of_what_is_right_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(right, "FRAMES", 2)
    monkeypatch.setattr(right, "FRAMES_OF_CLIP", 2)
    monkeypatch.setattr(right, "HALF", (torch.bfloat16,))
    only = ["--device", "cpu", "--part", "right", "--variants", "demo", "--objects", "2"]
    assert gpu.main([*only, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    asked = [row for row in rows if row["ok"] is not None]
    assert len(asked) == 11
    assert all(row["ok"] for row in asked)
    table = (tmp_path / "gpu.md").read_text()
    assert "demo: embedding, float32, beside the CPU" in table
    assert "demo: a click's logits, float32, beside sam2" in table


@pytest.mark.slow
def test_every_measurement_runs(capsys):
    device = torch.device("cpu")
    rows = list(fast.rows(["demo"], device, [1], rounds=1))
    rows += service._long_track(device, frames=2)
    found = {row.what: row.value for row in rows}
    for what in ("further click", "tracked frame, 1 objects", "embedding, batch 8"):
        assert float(found[f"demo: {what}"].removesuffix(" ms")) > 0
    for peer in ("sam2 1.1.0 eager", "transformers"):
        for what in ("embedding, batch 1", "further click", "tracked frame, 1 objects"):
            assert float(found[f"demo: {what}, times faster than {peer}"]) > 0
    for what in ("embedding, batch 8", "tracked frame, 1 objects"):
        for floor in ("FLOP", "bytes"):
            assert float(found[f"demo: {what}, floor of {floor}"].removesuffix(" ms")) > 0


def test_products_are_counted_as_torch_counts_them():
    model = meta_model("demo")
    pixels = torch.empty(1, 3, model.image_size, model.image_size, device="meta")
    ours = floors.embedded(model, 1)
    with FlopCounterMode(display=False) as theirs, model.inference():
        model.encode_image(pixels)
    assert ours.flop == theirs.get_total_flops()
    weights = sum(each.nbytes for each in model.image_encoder.parameters()) // 2  # in bfloat16
    assert ours.moved > weights + pixels.nbytes


@pytest.mark.slow
def test_transformers_with_our_weights_answers_as_we_do():
    official, ours = make_tracking_pair("demo", 256)
    frames = [MovingDiscs(3, 256)[i] for i in range(3)]
    box = [60.0, 40.0, 150.0, 120.0]
    theirs = transformers_peer.build_model("demo", 256, official.state_dict(), video=True)
    track = transformers_peer.Track(theirs, frames)
    track.prompt(1, box)
    tracker = VideoTracker(ours, frames)
    tracker.prompt(0, 1, box=box)
    for step in tracker.propagate(0):
        assert (track.masks(step.frame) != step.masks).mean() < 1e-3


def test_clicks_beside_tracks_and_a_video_beside_the_network_are_measured(monkeypatch):
    device = torch.device("cpu")
    cells = dict.fromkeys(video_to_prediction.HEAD, "1") | {"share, %": "91"}
    monkeypatch.setattr(video_to_prediction, "rows", lambda *_, **__: [([*cells.values()], [])])
    rows = [*service._beside_tracks("demo", device, 0.1), *service._video("demo", device)]
    found = {row.what: row.value for row in rows}
    for tracks in (0, 2):
        for kind in ("first", "further"):
            assert found[f"{tracks} tracks: {kind} click at the engine, p50 and p95"].endswith("ms")
    assert "2 tracks: frames a second" in found
    assert found["video to prediction, 1 objects: share of the network's rate, %"] == "91"


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (2.0, 1)])
def test_a_bound_that_is_missed_fails(monkeypatch, value, code):
    def rows(*_):
        yield Row.at_most("right", "an error", value, 1.5)

    monkeypatch.setattr(right, "rows", rows)
    assert gpu.main(["--device", "cpu", "--part", "right"]) == code


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err
