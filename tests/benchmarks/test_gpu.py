"""The benchmark for GPUs runs through on a CPU, and fails where a bound is missed."""

import json

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import fast, right, service
from benchmarks.gpu.check import Row
from benchmarks.speed import video_to_prediction


@pytest.mark.slow
def test_every_check_of_what_is_right_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(right, "FRAMES", 2)
    monkeypatch.setattr(right, "FRAMES_OF_CLIP", 2)
    monkeypatch.setattr(right, "HALF", (torch.bfloat16,))
    only = ["--device", "cpu", "--part", "right", "--variants", "demo", "--objects", "2"]
    assert gpu.main([*only, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    asked = [row for row in rows if row["ok"] is not None]
    assert len(asked) == 9
    assert all(row["ok"] for row in asked)
    assert "demo: embedding, float32, beside the CPU" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_every_measurement_runs(capsys):
    device = torch.device("cpu")
    rows = list(fast.rows(["demo"], device, [1], rounds=1))
    rows += service._long_track(device, frames=2)
    found = {row.what: row.value for row in rows}
    for what in ("further click", "tracked frame, 1 objects", "embedding, batch 8"):
        assert float(found[f"demo: {what}"].removesuffix(" ms")) > 0
    assert float(found["demo: tracked frame, 1 objects, times faster than sam2 1.1.0 eager"]) > 0


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
