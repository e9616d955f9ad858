"""How long a click takes while two tracks run, beside the same click on an idle service.

Every click is a whole ``/predict`` request, JSON in, JSON out, on photos over HTTP: the first
click on a photo, which encodes it, and a further one. First all of them with nothing else to do;
then the same ones again while two frame sequences are tracked as jobs of the same service (the
model's memory for photos holds one, so that the first click encodes again). Masks under tracking
are compared with the idle ones: waiting must change no answer. A click that met fewer than two
running tracks does not count and is made again.

    python -m benchmarks.speed.click_under_tracking [--variants NAME ...] [--clicks 20] [--out FILE]

Weights are the shipped ones for the demo variant and random ones for the others (time does not
depend on the values).
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from backend.job_state import JobState
from backend.labelstudio.brush_rle import encode_brush
from backend.runs.runs import open_runs
from backend.settings import Settings
from backend.tracking.store import TrackStore
from backend.web.app import create_app
from backend.wiring import Wiring
from benchmarks.speed.click_latency import mask_iou, our_click, serve_photos
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.reference import build_official, draw_weights
from sam2model import VARIANTS

SHOWN = ("demo", "sam2.1_hiera_tiny")
PAGES, PAGE_SIZE = 60, 512
START_SECONDS, PAUSE_SECONDS, ALONE_SECONDS = 300.0, 0.5, 60.0
SEQUENCE = """<View><Image name="image" valueList="$frames"/>
  <BrushLabels name="mask" toName="image"><Label value="Object"/></BrushLabels>
  <TextArea name="command" toName="image"/>
</View>"""
BEHIND = """
What is behind it:

- A click goes between two steps of the frame that is being tracked, or of a picture that is
  encoded ahead. Every attention of the network comes by a yield point (`sam2model/yield_point.py`),
  where the inference thread answers the clicks that wait, within the call of the job it is at. The
  frame then goes on where it was: same computation, same masks. Cancelling a track ends its frame
  there.
- The next frames are fetched and decoded in another thread (`backend/pixels/buffer.py`). They are
  not encoded while the present one is tracked: on a CPU both would share the same cores, and what
  a second stream brings on a GPU is left to those who can measure it. Two tracks that run at a
  time do fill each other's pauses. Pictures of several users are encoded one after the other for
  the same reason.
- On CUDA nothing in a tracked frame makes the host wait: frames and masks are copied through
  pinned memory on streams of their own (`sam2model/transfer.py`), and masks are waited for by who
  reads them, or once the next frame has been begun. `tests/sam2model/test_device_path.py` checks
  that without a GPU; no figure for one is given here.
"""
Times = dict[str, list[float]]
T = TypeVar("T")


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=SHOWN, choices=list(VARIANTS))
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        base = serve_photos(Path(folder), arguments.clicks + 1)
        _draw_pages(Path(folder))
        for variant in arguments.variants:
            rows += _measure(variant, arguments.clicks, Path(folder), base)
    text = _report(rows, arguments.clicks)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def _draw_pages(folder: Path) -> None:
    clip = MovingDiscs(PAGES, PAGE_SIZE)
    for page in range(PAGES):
        Image.fromarray(clip[page]).save(folder / f"page{page}.jpg", quality=92)


def _measure(variant: str, clicks: int, folder: Path, base: str) -> Iterator[str]:
    """Rows of the table: the first click and a further one."""
    client, service = _service(variant, folder)
    tracks = _Tracks(client, service.tracking.store, base)
    try:
        idle, answers = _click_all(client, clicks, base, None)
        with tracks.running():
            _, alone = tracks.paced(tracks.rest)
            clicked, pace = tracks.paced(lambda: _click_all(client, clicks, base, tracks))
            busy, busy_answers = clicked
    finally:
        service.close()
    for kind, name in (("first", "first click"), ("further", "further click")):
        agreement = min(
            mask_iou(answers[place], mask)
            for place, mask in busy_answers.items()
            if place[1] == kind
        )
        yield (
            f"| {variant} | {name} | {_spread(idle[kind])} | {_spread(busy[kind])} "
            f"| {agreement:.4f} | {pace:.2f} | {alone:.2f} |"
        )


def _service(variant: str, folder: Path) -> tuple[Any, Any]:
    side = VARIANTS[variant].image_size
    weights = None
    if variant != "demo":
        weights = folder / f"{variant}.safetensors"
        drawn = draw_weights(build_official(variant, side).state_dict(), seed=0)
        save_file({name: tensor.contiguous() for name, tensor in drawn.items()}, weights)
    settings = Settings(
        variant=variant,
        checkpoint=weights,
        dtype="float32",
        cache_dir=folder / "cache" / variant,
        state_dir=folder / "state" / variant,
        allowed_private_hosts=("127.0.0.1",),
        click_budget_seconds=START_SECONDS,
        track_budget_seconds=0.1,
        embedding_cache_bytes=24 * side * side,  # of 16 bytes a pixel that one takes
        zoom_small_objects=False,
    )
    wiring = Wiring(settings)
    engine = wiring.engine()
    service = wiring.service(engine)
    engine.wait_ready(START_SECONDS)
    runs = open_runs(wiring, service)
    return create_app(wiring, service, wiring.finetuning(engine), runs).test_client(), service


class _Tracks:
    """Two frame sequences that are tracked, and begun anew when they are at their end."""

    def __init__(self, client: Any, store: TrackStore, base: str) -> None:
        self._client = client
        self._store = store
        self._frames = [f"{base}/page{page}.jpg" for page in range(PAGES)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Two tracks run inside."""
        self.keep()
        end = time.monotonic() + START_SECONDS
        while not all(job.done for job in self._jobs()):  # opened, and past their prompts
            if time.monotonic() > end:
                raise RuntimeError("the tracks do not begin")
            time.sleep(0.1)
        yield
        for number in (1, 2):
            self._say(number, "stop")

    def keep(self) -> None:
        """See that two tracks run."""
        for number in (1, 2):
            if not any(job.request["task"]["id"] == number for job in self._jobs()):
                self._say(number, "redo")

    def both(self) -> set[str]:
        """The jobs that run now."""
        return {job.id for job in self._jobs()}

    def rest(self) -> None:
        """Leave the tracks alone for a while."""
        end = time.monotonic() + ALONE_SECONDS
        while time.monotonic() < end:
            self.keep()
            time.sleep(PAUSE_SECONDS)

    def paced(self, call: Callable[[], T]) -> tuple[T, float]:
        """What a call returns, and the frames tracked per second meanwhile."""
        before, start = self._done(), time.monotonic()
        result = call()
        return result, (self._done() - before) / (time.monotonic() - start)

    def _done(self) -> int:
        return sum(job.done for job in self._store.jobs())

    def _jobs(self) -> list[Any]:
        return [job for job in self._store.jobs(unfinished=True) if job.state is JobState.RUNNING]

    def _say(self, number: int, text: str) -> None:
        mask = np.zeros((PAGE_SIZE, PAGE_SIZE), bool)
        rows, columns = np.mgrid[:PAGE_SIZE, :PAGE_SIZE] / PAGE_SIZE
        mask[(columns - 0.4) ** 2 + (rows - 0.3) ** 2 < 0.15**2] = True
        size = {"original_width": PAGE_SIZE, "original_height": PAGE_SIZE, "to_name": "image"}
        region = {
            **size,
            "id": "drawn",
            "item_index": 0,
            "from_name": "mask",
            "type": "brushlabels",
            "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["Object"]},
        }
        line = {"id": "t", "from_name": "command", "to_name": "image", "type": "textarea"}
        body = {
            "tasks": [
                {
                    "id": number,
                    "data": {"frames": self._frames},
                    "drafts": [{"id": 1, "result": [region]}],
                }
            ],
            "project": "2.1",
            "label_config": SEQUENCE,
            "params": {"context": {"result": [{**line, "value": {"text": [text]}}]}},
        }
        reply = self._client.post("/predict", json=body).json
        if not reply["results"]:
            raise RuntimeError(f"{text} was not answered: {reply}")


def _click_all(
    client: Any, clicks: int, base: str, tracks: _Tracks | None
) -> tuple[Times, dict[tuple[int, str], np.ndarray]]:
    """Seconds of first and further clicks, and the masks by photo and kind."""

    def post(body: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = client.post("/predict", json=body).json
        return reply

    times: Times = {"first": [], "further": []}
    masks = {}
    for number in range(clicks + 1):  # the first round warms up
        for kind, x in (("first", 30.0), ("further", 50.0)):
            time.sleep(PAUSE_SECONDS)  # an annotator's; the tracks go on in it
            while True:
                before = tracks.both() if tracks else set()
                seconds, mask = our_click(post, f"{base}/{number}.jpg", number, x)
                if tracks is None or len(before & tracks.both()) == 2:
                    break
                if kind == "first":  # it is encoded now: click elsewhere, to forget it
                    our_click(post, f"{base}/{(number + 1) % (clicks + 1)}.jpg", number, x)
                tracks.keep()
                time.sleep(PAUSE_SECONDS)
            masks[number, kind] = mask
            if number:
                times[kind].append(seconds)
    return times, masks


def _spread(seconds: list[float]) -> str:
    """Median, 95th percentile and maximum, in milliseconds, as three cells."""
    cells = (np.median(seconds), np.percentile(seconds, 95), max(seconds))
    return " | ".join(f"{1000 * cell:.0f}" for cell in cells)


def _report(rows: list[str], clicks: int) -> str:
    lines = [
        "# The time of a click while two tracks run",
        "",
        f"{clicks} clicks of each kind; milliseconds. {torch.get_num_threads()} threads, "
        f"{platform.machine()}, torch {torch.__version__}, float32, CPU, load averages "
        f"{' '.join(f'{load:.1f}' for load in os.getloadavg())} at the end (2 is this program "
        "alone). Printed by `python -m benchmarks.speed.click_under_tracking`, whose head says "
        "what is measured. IoU is the smallest agreement with the mask of the idle service. "
        "The last columns are frames tracked per second, while somebody clicks every half second "
        "and before.",
        "",
        "| variant | click | idle, median | 95 % | max | two tracks, median | 95 % | max "
        "| IoU | frames per second | without clicks |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*lines, *rows]) + "\n" + BEHIND


if __name__ == "__main__":
    main()
