"""Train the demo weights; kill it at any moment, start it again and it goes on.

    python -m training.demo_weights.train [--run DIRECTORY] [--data DIRECTORY] [--decay-over STEPS]

Several processes of one thread each average their gradients. The learning rate stays
constant until ``--decay-over`` is given once: from then on it decays over that many steps,
and the run ends.
"""

import argparse
import csv
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from torch import distributed, multiprocessing

from sam2model.variants import get_variant
from training.demo_weights.evaluate import evaluate, score, summary
from training.demo_weights.library import DEFAULT_DIRECTORY, Library
from training.demo_weights.plots import plot_run
from training.demo_weights.schedule import DEMO
from training.demo_weights.state import load_latest, save_state, save_weights
from training.demo_weights.trainer import StepReport, Trainer, default_run_directory

_log = logging.getLogger(__name__)

_VARIANT = "demo"
_SECONDS_BETWEEN_CHECKPOINTS = 300
_STEPS_BETWEEN_REPORTS = 25
LOSS_COLUMNS = ("step", "time", "kind", "size", "rate", "norm", "focal", "dice", "iou", "presence")


@dataclass(frozen=True)
class Options:
    """The command line."""

    run: Path
    data: Path
    seed: int
    processes: int
    decay_over: int | None
    evaluate_every: int
    evaluate_images: int
    evaluate_clips: int
    stop_after: int | None


def work(rank: int, options: Options, rendezvous: str) -> None:
    """One process of the run; rank 0 keeps the checkpoints and the logs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=options.processes
    )
    trainer = _trainer(rank, options)
    log = _Log(options.run) if rank == 0 else None
    saved, begun = time.monotonic(), trainer.step
    while not trainer.finished:
        size = trainer.schedule.stage(trainer.step).image_size
        report = trainer.train_step()
        if log is not None:
            log.add(trainer.step, size, report)
        if trainer.step % options.evaluate_every == 0 or trainer.finished:
            _evaluate(trainer, options, rank)
        stops = options.stop_after is not None and trainer.step - begun >= options.stop_after
        due = time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS
        if rank == 0 and (due or stops or trainer.finished):
            save_state(options.run, trainer.state())
            saved = time.monotonic()
        if stops:
            break
    distributed.barrier()
    distributed.destroy_process_group()


def _trainer(rank: int, options: Options) -> Trainer:
    """A trainer at the newest checkpoint; the first one is made by rank 0."""

    def average(flat: torch.Tensor) -> None:
        distributed.all_reduce(flat)
        flat /= options.processes

    trainer = Trainer(
        variant=get_variant(_VARIANT),
        schedule=DEMO,
        library=Library(options.data, "train"),
        seed=options.seed,
        rank=rank,
        average=average,
    )
    if rank == 0 and load_latest(options.run) is None:
        history = trainer.start()
        every = max(1, len(history) // 10)
        means = [sum(history[i : i + every]) / every for i in range(0, len(history), every)]
        _log.info("decoder warm-up: loss %s", " ".join(f"{mean:.2f}" for mean in means))
        save_state(options.run, trainer.state())
    distributed.barrier()
    state = load_latest(options.run)
    if state is None:
        raise RuntimeError(f"no checkpoint in {options.run} although one was just written")
    trainer.restore(state)
    if options.decay_over is not None and trainer.decay is None:
        trainer.decay = (trainer.step, options.decay_over)
    _log.info("process %d goes on at step %d, decay %s", rank, trainer.step, trainer.decay)
    return trainer


def _evaluate(trainer: Trainer, options: Options, rank: int) -> None:
    """Score the averaged weights, the pictures shared out among the processes."""
    started = time.monotonic()
    library = Library(options.data, "held-out")
    share = [
        range(rank, count, options.processes)
        for count in (options.evaluate_images, options.evaluate_clips)
    ]
    model = trainer.evaluation_model()
    own = dict(evaluate(model, library, share[0], share[1]))
    gathered: list[dict[str, list[float]]] = [{} for _ in range(options.processes)]
    distributed.all_gather_object(gathered, own)
    sums: dict[str, list[float]] = {}
    for part in gathered:
        for name, (total, count) in part.items():
            before = sums.get(name, [0.0, 0.0])
            sums[name] = [before[0] + total, before[1] + count]
    means = summary(sums)
    value = score(means)
    better = value > trainer.best
    trainer.best = max(trainer.best, value)
    if rank != 0:
        return
    row = {"step": trainer.step, "time": time.time(), "score": value, **means}
    with (options.run / "held-out.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    save_weights(options.run / "latest.safetensors", trainer.ema, row)
    if better:
        save_weights(options.run / "best.safetensors", trainer.ema, row)
    plot_run(options.run)
    _log.info(
        "step %d: score %.3f, click %.3f, box %.3f, 3 corrections %.3f, J %.3f / %.3f, "
        "presence %.3f (%.0f s)",
        trainer.step,
        value,
        *(means[k] for k in ("iou_click", "iou_box", "iou_3_corrections", "j_plain")),
        means["j_occluder"],
        means["presence_balanced"],
        time.monotonic() - started,
    )


class _Log:
    """Losses in ``losses.csv``, averaged over some steps of each kind."""

    def __init__(self, run: Path) -> None:
        self._path = run / "losses.csv"
        self._pending: dict[str, list[StepReport]] = {"image": [], "clip": []}
        if not self._path.exists():
            self._append(LOSS_COLUMNS)

    def add(self, step: int, size: int, report: StepReport) -> None:
        pending = self._pending[report.kind]
        pending.append(report)
        if len(pending) < _STEPS_BETWEEN_REPORTS:
            return
        means = {
            name: sum(float(value.detach()) for value in values) / len(pending)
            for name, values in (
                (name, [asdict_losses(r)[name] for r in pending])
                for name in ("focal", "dice", "iou", "presence")
            )
        }
        norm = sum(r.gradient_norm for r in pending) / len(pending)
        row = (step, round(time.time()), report.kind, size, report.rate, norm, *means.values())
        self._append(tuple(f"{v:.5g}" if isinstance(v, float) else v for v in row))
        _log.info("step %d %s %s", step, report.kind, {k: round(v, 4) for k, v in means.items()})
        pending.clear()

    def _append(self, row: tuple[object, ...]) -> None:
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)


def asdict_losses(report: StepReport) -> dict[str, torch.Tensor]:
    """The losses of a report by name."""
    losses = report.losses
    return {
        "focal": losses.focal,
        "dice": losses.dice,
        "iou": losses.iou,
        "presence": losses.presence,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=default_run_directory())
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--decay-over", type=int, help="begin the final decay now")
    parser.add_argument("--evaluate-every", type=int, default=1000, help="steps")
    parser.add_argument("--evaluate-images", type=int, default=80)
    parser.add_argument("--evaluate-clips", type=int, default=16)
    parser.add_argument("--stop-after", type=int, help="steps, for trials")
    options = Options(**vars(parser.parse_args()))
    options.run.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rendezvous = options.run / f"rendezvous-{os.getpid()}"
    rendezvous.unlink(missing_ok=True)
    try:
        multiprocessing.spawn(
            work, args=(options, f"file://{rendezvous.resolve()}"), nprocs=options.processes
        )
    finally:
        rendezvous.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
