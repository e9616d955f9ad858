"""``python -m training finetune``: what is read, what is learned, what is kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.support.reference import draw_weights
from sam2model import build_model
from sam2model.checkpoints import encoder_digest
from sam2model.sam2 import SAM2
from sam2model.variants import get_variant
from tests.training import finetune_project as project
from training.__main__ import main
from training.demo_weights.initialisation import initialise
from training.finetuning import dataset as datasets
from training.finetuning import tuner as tuner_module
from training.finetuning.parts import What, trained_names
from training.finetuning.scores import Scores, compare, evaluate
from training.finetuning.tuner import Plan, Tuner
from training.unroll import clip_losses

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Bench:
    """The command with the demo model at 64 pixels, and a state folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.state = folder, folder / "state"
        settings = {"SAM2_VARIANT": "demo", "SAM2_IMAGE_SIZE": "64", "SAM2_CHECKPOINT": ""}
        folders = {"STATE_DIR": str(self.state), "CACHE_DIR": str(folder / "cache")}
        for name, value in {**settings, **folders, "LABEL_STUDIO_URL": ""}.items():
            monkeypatch.setenv(name, value)

    def __call__(self, *arguments: object) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["finetune", *map(str, arguments)])
        return Ran(code, out.getvalue(), err.getvalue())

    def on(self, tasks: list[dict[str, Any]], *arguments: object, config: str = "") -> Ran:
        files = project.write_export(self.folder, tasks, config or project.CONFIG)
        return self(*files, *arguments)

    @property
    def run_folder(self) -> Path:
        [folder] = (self.state / "finetune").iterdir()
        return folder

    @property
    def progress(self) -> dict[str, Any]:
        return json.loads((self.run_folder / "progress.json").read_text())

    @property
    def dataset(self) -> datasets.Dataset:
        [folder] = self.run_folder.glob("*-64px")
        return datasets.load(folder)

    @property
    def examples(self) -> dict[int, datasets.Example]:
        return {each.task: each for each in (*self.dataset.train, *self.dataset.held_out)}


@pytest.fixture
def finetune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Ran]]:
    """A run that found better weights."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        torch.set_num_threads(1)
        bench = Bench(tmp_path_factory.mktemp("tuned"), monkeypatch)
        yield bench, bench.on(TASKS, "--steps", 25)


TASKS = [project.task(number) for number in range(1, 13)]


class TestOutcome:
    @pytest.mark.slow
    def test_better_weights_become_a_version(self, tuned: tuple[Bench, Ran]) -> None:
        bench, ran = tuned
        assert ran.code == 0, ran.err
        assert "new model version: demo-ft1-p7-64px" in ran.out
        [notes] = (bench.state / "models").rglob("*.json")
        found = json.loads(notes.read_text())
        assert found["version"] == "demo-ft1-p7-64px"
        assert found["after"]["score"] > found["before"]["score"] + 0.01
        assert bench.progress["stage"] == "done"
        assert bench.progress["version"] == "demo-ft1-p7-64px"
        assert [row["step"] for row in bench.progress["curve"]] == [0, 25]

    def test_only_the_decoder_changed_and_embeddings_stay_valid(
        self, tuned: tuple[Bench, Ran]
    ) -> None:
        [weights] = (tuned[0].state / "models").rglob("*.safetensors")
        base, better = build_model("demo"), build_model("demo", weights)  # strict
        before, after = base.state_dict(), better.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed and changed <= set(trained_names(base, What.DECODER))
        assert encoder_digest(before) == encoder_digest(after)

    def test_the_next_run_begins_with_the_version_in_use(self, tuned: tuple[Bench, Ran]) -> None:
        bench, _ = tuned
        ended = max(row["score"] for row in bench.progress["curve"])
        bench.on(TASKS, "--steps", 1, "--seed", 1)
        assert bench.progress["curve"][0]["score"] == pytest.approx(ended)

    def test_weights_that_do_not_get_better_are_left_alone(self, finetune: Bench) -> None:
        rng = np.random.default_rng(0)
        tasks = [project.task(number) for number in range(1, 9)]
        for each in tasks:  # masks that have nothing to do with the pictures
            noise = rng.random((4, 4)).repeat(16, 0).repeat(16, 1) > 0.5
            each["annotations"] = [project.annotation(project.brush(noise))]
        ran = finetune.on(tasks, "--steps", 1)
        assert ran.code == 0
        assert ran.out.startswith("the old weights stay: ")
        assert not list((finetune.state / "models").rglob("*"))

    def test_too_few_annotations_are_said(self, finetune: Bench) -> None:
        ran = finetune.on(TASKS[:4])
        assert ran.code == 1
        assert "4 tasks have accepted masks; fine-tuning needs 8" in ran.err
        assert finetune.progress["stage"] == "failed"
        assert finetune.progress["message"] in ran.err

    def test_an_export_needs_its_label_config(self, finetune: Bench) -> None:
        ran = finetune(*project.write_export(finetune.folder, TASKS)[:2])
        assert ran.code == 1
        assert "--label-config" in ran.err


class TestGoingOn:
    def tuner(self, dataset: datasets.Dataset, folder: Path, seed: int = 0) -> Tuner:
        folder.mkdir(exist_ok=True)
        model = build_model("demo", image_size=64)
        return Tuner(model, dataset, Plan(steps=4, evaluate_every=1, batch=2, seed=seed), folder)

    @pytest.mark.slow
    def test_a_run_that_stopped_goes_on_as_if_it_had_not(
        self, tuned: tuple[Bench, Ran], tmp_path: Path
    ) -> None:
        dataset = tuned[0].dataset
        steady = self.tuner(dataset, tmp_path / "steady")
        steady.run()

        class Killed(Exception):
            pass

        stopped = self.tuner(dataset, tmp_path / "stopped")

        def kill() -> None:
            if stopped.step == 2:
                raise Killed

        with pytest.raises(Killed):
            stopped.run(kill)
        resumed = self.tuner(dataset, tmp_path / "stopped")
        steps = []
        resumed.run(lambda: steps.append(resumed.step))
        assert steps == [3, 4]
        assert resumed.curve == steady.curve
        for name, value in steady.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name

        other = self.tuner(dataset, tmp_path / "stopped", seed=1)  # not the same run
        other.run(lambda: steps.append(other.step))
        assert steps[2:] == [0, 1, 2, 3, 4]
        assert other.curve[1:] != steady.curve[1:]

    @pytest.mark.slow
    def test_a_killed_command_needs_nothing_but_its_folder(self, finetune: Bench) -> None:
        arguments = project.write_export(finetune.folder, TASKS)
        command = [sys.executable, "-m", "training", "finetune", *arguments, "--steps", "100000"]
        killed = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            deadline = time.monotonic() + 300
            while not list(finetune.state.glob("finetune/*/state.pt")):
                assert killed.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            killed.kill()
            killed.wait()
        assert finetune.progress["stage"] == "training"
        Path(arguments[1]).write_text("[]")  # what it had read is kept
        ran = finetune(*arguments, "--steps", 1)
        assert ran.code == 0, ran.err
        assert finetune.progress["stage"] == "done"
        ran = finetune(*arguments, "--steps", 1)  # a new run reads anew
        assert "0 tasks have accepted masks" in ran.err

    def test_embeddings_are_computed_once(
        self, finetune: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoded = []
        encode = SAM2.encode_image
        monkeypatch.setattr(
            SAM2, "encode_image", lambda self, x: encoded.append(len(x)) or encode(self, x)
        )
        finetune.on(TASKS[:8], "--steps", 1)
        assert sum(encoded) == 8 * 8
        finetune.on(TASKS[:9], "--steps", 1)
        assert sum(encoded) == 9 * 8


class TestReading:
    def test_only_what_was_accepted_is_trained_on(self, finetune: Bench) -> None:
        tasks = [project.task(number) for number in range(1, 13)]
        _, mask = project.disc(99)
        outline = [[20, 20], [80, 20], [80, 70], [20, 70]]
        polygon = project.region("polygonlabels", {"points": outline}, "p")
        tasks[1]["annotations"] = [project.annotation(polygon)]
        tasks[2]["annotations"] = [project.annotation(project.brush(mask), was_cancelled=True)]
        tasks[3]["annotations"], tasks[3]["predictions"] = [], tasks[3]["annotations"]
        tasks[4]["annotations"], tasks[4]["drafts"] = [], tasks[4]["annotations"]
        tasks[5]["annotations"] = [project.annotation(project.box(10, 10, 30, 30, "b"))]
        ran = finetune.on(tasks, "--steps", 1)
        assert ran.code == 0, ran.err
        found = finetune.examples
        assert sorted(found) == [1, 2, 7, 8, 9, 10, 11, 12]
        expected = np.zeros((64, 64), bool)
        expected[13:45, 13:51] = True
        assert (found[2].masks[0] == expected).mean() > 0.97
        assert (found[1].masks[0] == project.disc(1)[1]).all()

    def test_the_annotators_own_box_is_kept_as_a_prompt(self, finetune: Bench) -> None:
        tasks = [project.task(number) for number in range(1, 9)]
        _, mask = project.disc(1)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        drawn = np.array([columns[0] - 2, rows[0] - 2, columns[-1] + 3, rows[-1] + 3])
        x0, y0, x1, y1 = (drawn / 64 * 100).tolist()
        elsewhere = project.box(0, 0, 9, 9, "far")
        own = project.box(x0, y0, x1 - x0, y1 - y0, "own")
        tasks[0]["annotations"] = [project.annotation(project.brush(mask), own, elsewhere)]
        finetune.on(tasks, "--steps", 1)
        assert finetune.examples[1].boxes[0] == pytest.approx(drawn)
        assert np.isnan(finetune.examples[2].boxes).all()

    @pytest.mark.slow
    def test_pages_of_a_sequence_stay_on_one_side(self, finetune: Bench) -> None:
        tasks = [project.sequence(number, 2) for number in range(1, 9)]
        ran = finetune.on(tasks, "--steps", 1, config=project.SEQUENCE_CONFIG)
        assert ran.code == 0, ran.err
        train, held_out = finetune.dataset.train, finetune.dataset.held_out
        assert {e.task for e in train}.isdisjoint({e.task for e in held_out})
        assert {(e.task, e.page) for e in (*train, *held_out)} == {
            (task, page) for task in range(1, 9) for page in range(2)
        }

    def test_a_task_that_cannot_be_read_does_not_stop_the_others(self, finetune: Bench) -> None:
        tasks = [project.task(number) for number in range(1, 10)]
        tasks[4]["data"] = {"image": "data:image/png;base64,AAAA"}
        ran = finetune.on(tasks, "--steps", 1)
        assert ran.code == 0, ran.err
        assert sorted(finetune.examples) == [1, 2, 3, 4, 6, 7, 8, 9]


class TestSplit:
    def test_tasks_stay_where_they_are_when_others_come(self) -> None:
        few = datasets.held_out_tasks({n: f"picture{n}" for n in range(20)})
        many = datasets.held_out_tasks({n: f"picture{n}" for n in range(400)})
        assert len(few) >= 3
        assert 60 < len(many) < 100
        assert not (many & set(range(20))) - few  # none that was trained on became a test

    def test_the_same_picture_is_never_on_both_sides(self) -> None:
        contents = {n: f"picture{n // 2}" for n in range(60)}
        held_out = datasets.held_out_tasks(contents)
        for number in range(0, 60, 2):
            assert (number in held_out) == (number + 1 in held_out)


class TestComparison:
    def scores(self, *values: float) -> Scores:
        return Scores({"click": list(enumerate(values))})

    def test_a_clear_gain_on_every_task_is_better(self) -> None:
        assert compare(self.scores(0.3, 0.4, 0.5), self.scores(0.5, 0.55, 0.68)).is_better

    @pytest.mark.parametrize(
        "after", [(0.9, 0.3, 0.4), (0.305, 0.405, 0.505), (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)]
    )
    def test_luck_trifles_and_losses_are_not(self, after: tuple[float, ...]) -> None:
        assert not compare(self.scores(0.3, 0.4, 0.5), self.scores(*after)).is_better


class TestViews:
    @pytest.mark.parametrize("view", range(8))
    def test_boxes_turn_with_their_masks(self, view: int) -> None:
        mask = np.zeros((1, 16, 16), bool)
        mask[0, 2:5, 7:15] = True
        [box] = datasets.turned_boxes(np.array([[7.0, 2.0, 15.0, 5.0]]), view, 16)
        [turned] = datasets.turned_masks(mask, view)
        expected = np.zeros((16, 16), bool)
        x0, y0, x1, y1 = box.astype(int)
        expected[y0:y1, x0:x1] = True
        assert (turned == expected).all()


class TestOfficialLayout:
    """SAM 2.1 tiny with random weights, as no official ones can be had here; 64 pixels."""

    @pytest.mark.slow
    def test_the_loss_goes_down_and_the_file_loads_strictly(
        self, finetune: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = SAM2(get_variant("sam2.1_hiera_tiny"), 64)
        initialise(model, 0)
        checkpoint = finetune.folder / "sam2.1_hiera_tiny.pt"
        torch.save({"model": model.state_dict()}, checkpoint)
        losses: list[float] = []
        real = tuner_module.picture_losses

        def watched(*arguments: Any) -> Any:
            found = real(*arguments)
            losses.append(float(found.total().detach()))
            return found

        monkeypatch.setattr(tuner_module, "picture_losses", watched)
        out = finetune.folder / "tuned" / "tiny.safetensors"
        which = ("--variant", "sam2.1_hiera_tiny", "--checkpoint", checkpoint, "--image-size", 64)
        ran = finetune.on(TASKS[:8], *which, "--steps", 40, "--out", out)
        assert ran.code == 0, ran.err
        assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
        assert out.exists(), ran.out
        assert not (finetune.state / "models").exists()  # the service is left alone
        better = build_model("sam2.1_hiera_tiny", out)  # strict
        assert set(load_file(out)) == set(model.state_dict())
        assert encoder_digest(better.state_dict()) == encoder_digest(model.state_dict())


class TestEdgeTAM:
    """With random weights, for which every object is present; 256 pixels, the fewest it takes."""

    @pytest.fixture
    def model(self) -> SAM2:
        model = SAM2(get_variant("edgetam"), 256)
        weights = draw_weights(model.state_dict(), seed=11)
        weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 1000
        model.load_state_dict(weights)
        return model

    def test_all_of_it_learns_but_the_statistics_of_its_batch_norms(self, model: SAM2) -> None:
        before = {name: value.clone() for name, value in model.named_buffers()}
        masks = np.zeros((1, 3, 256, 256), bool)
        masks[..., 64:128, 64:160] = True
        frames = torch.randn(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))
        clip_losses(model.train(), frames, masks, np.random.default_rng(0)).total().backward()
        parts = ("image_encoder.trunk.", "spatial_perceiver.", "memory_attention.")
        for name, parameter in model.named_parameters():
            if name.startswith(parts):
                assert parameter.grad is not None and bool(parameter.grad.any()), name
        for name, value in model.named_buffers():
            assert torch.equal(value, before[name]), name
        assert "spatial_perceiver.latents" in trained_names(model, What.DECODER_AND_MEMORY)

    @pytest.mark.slow
    def test_the_command_takes_it(self, finetune: Bench, model: SAM2) -> None:
        checkpoint = finetune.folder / "edgetam.pt"
        torch.save({"model": model.state_dict()}, checkpoint)
        which = ("--variant", "edgetam", "--checkpoint", checkpoint, "--image-size", 256)
        ran = finetune.on(TASKS[:8], *which, "--steps", 2)
        assert ran.code == 0, ran.err
        assert len(finetune.progress["curve"]) == 2


def test_the_rate_rises_and_falls() -> None:
    plan = Plan(steps=100)
    rates = [plan.rate_at(step) for step in range(101)]
    assert rates[0] < rates[19] > rates[60] > rates[100] > 0


class TestSequences:
    def page(self, task: int, page: int, *names: str) -> datasets.Example:
        masks, boxes = np.ones((len(names), 4, 4), bool), np.full((len(names), 4), np.nan)
        return datasets.Example(task, page, True, f"{task}x{page}", names, masks, boxes)

    def test_a_clip_ends_where_an_object_has_no_mask(self) -> None:
        pages = [self.page(1, 0, "a", "b"), self.page(1, 1, "b"), self.page(1, 2, "a")]
        pages += [self.page(1, 4, "a"), self.page(2, 5, "a"), self.page(2, 6, "a", "b")]
        found = [
            [(page.task, page.page) for page in clip.pages] for clip in datasets.clips_of(pages)
        ]
        assert found == [[(1, 0), (1, 1)], [(2, 5), (2, 6)]]

    def test_long_sequences_are_cut(self) -> None:
        clips = datasets.clips_of([self.page(1, n, "a") for n in range(19)])
        assert [len(clip.pages) for clip in clips] == [8, 8, 3]
        assert clips[0].masks.shape == (1, 8, 4, 4)

    @pytest.mark.slow
    def test_the_memory_is_trained_and_tracking_scored(self, finetune: Bench) -> None:
        tasks = [project.sequence(number, 3) for number in range(1, 10)]
        out = finetune.folder / "tuned.safetensors"
        arguments = ("--what", "decoder+memory", "--steps", 25, "--out", out)
        ran = finetune.on(tasks, *arguments, config=project.SEQUENCE_CONFIG)
        assert ran.code == 0, ran.err
        first, last = finetune.progress["curve"][0], finetune.progress["curve"][-1]
        assert 0 < first["tracking"] <= 1
        assert last["score"] > first["score"]
        before, after = build_model("demo").state_dict(), build_model("demo", out).state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert any(name.startswith("memory_attention.") for name in changed)
        assert any(name.startswith("memory_encoder.") for name in changed)
        assert encoder_digest(before) == encoder_digest(after)

    def test_pictures_cannot_teach_the_memory(self, finetune: Bench) -> None:
        ran = finetune.on(TASKS[:8], "--what", "decoder+memory")
        assert ran.code == 1
        assert "frame sequences" in ran.err


@pytest.mark.slow
def test_everything_can_be_trained_and_is_scored_with_its_own_encoder(finetune: Bench) -> None:
    out = finetune.folder / "tuned.safetensors"
    ran = finetune.on(TASKS[:8], "--what", "all", "--steps", 25, "--out", out)
    assert ran.code == 0, ran.err
    better = build_model("demo", out, image_size=64)
    assert encoder_digest(better.state_dict()) != encoder_digest(build_model("demo").state_dict())
    scores = evaluate(better, finetune.dataset)
    assert scores.score == pytest.approx(finetune.progress["curve"][-1]["score"])
    assert scores.score > finetune.progress["curve"][0]["score"] + 0.01
