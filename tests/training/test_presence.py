"""The zero of the presence score is where visible and absent objects are told apart best."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from training.demo_weights import presence
from training.demo_weights.presence import BIAS, balanced_accuracy, best_zero


def test_zero_between_what_can_be_told_apart():
    scores = np.array([3.0, 2.5, 2.0, 5.0, 4.0])
    visible = np.array([True, False, False, True, True])
    assert best_zero(scores, visible) == pytest.approx(2.75)
    assert balanced_accuracy(scores, visible, 2.75) == 1.0
    assert balanced_accuracy(scores, visible, 0.0) == 0.5


def test_few_absent_objects_count_as_much_as_many_visible_ones():
    rng = np.random.default_rng(0)
    visible = np.arange(60_000) < 57_000
    scores = np.where(visible, rng.normal(5, 1, 60_000), rng.normal(3, 1, 60_000))
    zero = best_zero(scores, visible)
    assert zero == pytest.approx(4.0, abs=0.4)  # in the middle, not where errors are fewest
    others = np.linspace(0, 8, 81)
    assert balanced_accuracy(scores, visible, zero) >= max(
        balanced_accuracy(scores, visible, other) for other in others
    )


@pytest.mark.slow
def test_only_the_bias_moves(library_directory, tmp_path, monkeypatch):
    source = presence.Path("sam2model/weights/demo.safetensors").resolve()
    out = tmp_path / "moved.safetensors"
    options = {"weights": source, "out": out, "data": library_directory, "clips": 2, "images": 1}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["presence", *arguments])
    presence.main()
    before, after = load_file(source), load_file(out)
    assert before.keys() == after.keys()
    moved = {name for name in before if not before[name].equal(after[name])}
    zero = json.loads(out.with_suffix(".json").read_text())["presence_zero"]
    assert moved <= {BIAS}
    assert float(before[BIAS] - zero) == pytest.approx(float(after[BIAS]), rel=1e-2, abs=1e-2)
