"""A run that stops and goes on is the run that never stopped; and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sam2model.sam2 import SAM2
from sam2model.variants import Variant
from training.demo_weights.evaluate import evaluate, score, speckle, summary
from training.demo_weights.initialisation import fit_memory_norm, initialise
from training.demo_weights.library import Library
from training.demo_weights.schedule import Schedule, Stage
from training.demo_weights.state import checkpoints, load_latest, save_state, save_weights
from training.demo_weights.trainer import Trainer

_SCHEDULE = Schedule(
    stages=(
        Stage(until=2, image_size=32, images=2, max_objects=2),
        Stage(
            until=None,
            image_size=64,
            images=2,
            max_objects=2,
            corrections=1,
            clip_share=0.5,
            clips=2,
            clip_length=4,
        ),
    ),
    warm_up=2,
    decoder_warm_up=2,
)


def _trainer(variant: Variant, library: Library) -> Trainer:
    return Trainer(variant=variant, schedule=_SCHEDULE, library=library, seed=1)


@pytest.fixture(autouse=True)
def _one_thread():
    # The order of floating-point sums must not depend on the number of cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_resumed_run_continues_identically(
    tiny_variant: Variant, library: Library, tmp_path: Path
):
    steady = _trainer(tiny_variant, library)
    steady.start()
    kinds = [steady.train_step().kind for _ in range(3)]
    save_state(tmp_path, steady.state())
    kinds += [steady.train_step().kind for _ in range(4)]
    assert set(kinds) == {"image", "clip"}

    resumed = _trainer(tiny_variant, library)
    resumed.restore(load_latest(tmp_path))
    for _ in range(4):
        resumed.train_step()
    assert resumed.step == steady.step == 7
    for name, value in steady.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert torch.equal(steady.ema[name], resumed.ema[name]), name


def test_only_the_last_two_checkpoints_are_kept(
    tiny_variant: Variant, library: Library, tmp_path: Path
):
    trainer = _trainer(tiny_variant, library)
    trainer.start()
    for step in (1, 2, 3):
        trainer.step = step
        save_state(tmp_path, trainer.state())
    (tmp_path / "step-00000009.partial").write_bytes(b"cut off while being written")
    assert [path.stem for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    assert load_latest(tmp_path).step == 3


def test_training_on_one_batch_brings_the_loss_down(tiny_variant: Variant, library: Library):
    schedule = Schedule(
        stages=(Stage(until=None, image_size=64, images=4, max_objects=2),),
        peak_rate=3e-3,
        warm_up=5,
        decoder_warm_up=5,
    )
    trainer = Trainer(variant=tiny_variant, schedule=schedule, library=library, seed=2)
    trainer.start()
    losses = []
    for _ in range(25):
        trainer.step, step = 17, trainer.step  # the same pictures and prompts every time
        losses.append(float(trainer.train_step().losses.total().detach()))
        trainer.step = step + 1
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_the_final_decay_ends_the_run():
    schedule = Schedule(stages=_SCHEDULE.stages, peak_rate=1.0, warm_up=10)
    assert schedule.learning_rate(0, None) == pytest.approx(0.1)
    assert schedule.learning_rate(5000, None) == 1.0
    assert schedule.learning_rate(5000, (5000, 100)) == pytest.approx(1.0)
    assert schedule.learning_rate(5050, (5000, 100)) == pytest.approx(0.51)
    assert schedule.learning_rate(5100, (5000, 100)) == pytest.approx(0.02)


def test_the_memory_attention_starts_at_the_scale_of_plain_features(tiny_variant: Variant):
    model = SAM2(tiny_variant)
    initialise(model, 0)
    images = torch.randn(4, 3, 64, 64)
    fit_memory_norm(model, images)
    with torch.no_grad():
        embedding = model.encode_image(images).embedding
        plain = model.without_memory(embedding)
        entering = embedding.flatten(2).mT + 0.1 * model.image_position
        fitted = model.memory_attention.norm(entering).mT.unflatten(2, plain.shape[-2:])
    assert fitted.std().item() == pytest.approx(plain.std().item(), rel=0.25)
    correlation = torch.corrcoef(torch.stack((fitted.flatten(), plain.flatten())))[0, 1]
    assert correlation > 0.9


def test_upscaling_starts_without_a_grid(tiny_variant: Variant):
    model = SAM2(tiny_variant)
    initialise(model, 0)
    first = model.sam_mask_decoder.output_upscaling[0]
    with torch.no_grad():
        out = first(torch.randn(1, 64, 1, 1))
    assert torch.allclose(out, out[..., :1, :1].expand_as(out))


def test_evaluation_scores_every_measure_and_repeats(
    tiny_variant: Variant, library_directory: Path
):
    model = SAM2(tiny_variant).eval()
    initialise(model, 0)
    library = Library(library_directory, "held-out")
    together = summary(evaluate(model, library, range(3), range(2)))
    again = summary(evaluate(model, library, range(3), range(2)))
    assert together == again
    assert {"iou_click", "iou_box", "iou_3_corrections", "j_plain", "j_occluder"} <= set(together)
    assert all(0 <= together[k] <= 1 for k in together if k.startswith(("iou", "j_", "presence")))
    assert 0 <= score(together) <= 1


def test_shares_of_an_evaluation_add_up(tiny_variant: Variant, library_directory: Path):
    model = SAM2(tiny_variant).eval()
    initialise(model, 0)
    library = Library(library_directory, "held-out")
    whole = evaluate(model, library, range(4), range(0))
    even = evaluate(model, library, range(0, 4, 2), range(0))
    odd = evaluate(model, library, range(1, 4, 2), range(0))
    for name, (total, count) in whole.items():
        assert total == pytest.approx(even[name][0] + odd[name][0])
        assert count == even[name][1] + odd[name][1]


def test_shipped_weights_load_strictly(tiny_variant: Variant, library: Library, tmp_path: Path):
    trainer = _trainer(tiny_variant, library)
    trainer.start()
    path = tmp_path / "weights.safetensors"
    save_weights(path, trainer.ema, {"step": 0})
    loaded = load_file(path)
    assert all(value.dtype == torch.bfloat16 for value in loaded.values())
    SAM2(tiny_variant).load_state_dict(loaded, strict=True)


def test_a_printed_grid_is_speckles_and_a_smooth_shape_is_not():
    solid = np.zeros((64, 64), bool)
    solid[10:50, 10:50] = True
    grid = np.zeros((64, 64), bool)
    grid[::4, ::4] = True
    smooth, printed = speckle([solid, grid])
    assert smooth < 0.01
    assert printed == 1.0
    assert speckle([np.zeros((64, 64), bool)]) == []
