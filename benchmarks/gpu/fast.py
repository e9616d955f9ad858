"""How fast the network is on a device, beside its floors and beside others, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.check import Row, Rows, launched, timed, wait
from benchmarks.speed import launches
from benchmarks.support import transformers_peer
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.launches import meta_model, transferring
from benchmarks.support.reference import draw_weights, official_config
from sam2model import ImagePredictor, VideoTracker
from sam2model.precision import settle_kernels
from sam2model.preprocessing import preprocess
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS

PART = "fast"
FULL = 17  # frames after which a track's memory is full
PEER = "sam2 1.1.0"


def rows(variants: list[str], device: torch.device, objects: list[int], rounds: int) -> Rows:
    """The floors, then every variant."""
    rate, copied = _floors(device, rounds)
    yield Row(PART, "rate of bfloat16 products", f"{rate / 1e12:.1f} TFLOP/s")
    yield Row(PART, "rate of copies on the device", f"{copied / 1e9:.0f} GB/s")
    for name in variants:
        settle_kernels(device, torch.bfloat16)
        model = SAM2(VARIANTS[name]).eval()
        weights = draw_weights(model.state_dict(), seed=0)
        model.load_state_dict(weights)
        model.compute_dtype = torch.bfloat16
        yield from _pictures(name, model.to(device), rate, rounds)
        for count in objects:
            yield from _frames(name, model, count, rounds)


def _floors(device: torch.device, rounds: int) -> tuple[float, float]:
    """Floating-point operations a second in bfloat16, and bytes a second, read and written."""
    side, size = (8192, 1 << 30) if device.type == "cuda" else (512, 1 << 24)
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    product = timed(lambda: a @ a, device, rounds)
    values = torch.empty(size, dtype=torch.uint8, device=device)
    copy = timed(values.clone, device, rounds)
    return 2 * side**3 / product.wall, 2 * size / copy.wall


def _pictures(name: str, model: SAM2, rate: float, rounds: int) -> Rows:
    device, size = model.device, model.image_size
    predictor = ImagePredictor(model)
    picture = MovingDiscs(1, size)[0]

    def embed(batch: int) -> Callable[[], object]:
        pixels = preprocess(picture, size, device).expand(batch, -1, -1, -1).contiguous()

        def call() -> object:
            with model.inference():
                return model.encode_image(pixels)

        return call

    peers = _encoders(name, model)
    flop = _flop_of_embedding(name)
    for batch in (1, 8):
        ours = timed(embed(batch), device, rounds)
        what = f"{name}: embedding, batch {batch}"
        yield Row(PART, f"{what}, floor", _ms(batch * flop / rate))
        yield Row(PART, what, _ms(ours.wall), f"device {_ms(ours.device)}")
        pixels = preprocess(picture, size, device).expand(batch, -1, -1, -1)
        for peer, encode, least in peers:
            title = f"{what}, times faster than {peer}"
            yield from _beside(title, ours.wall, least, rounds, encode, pixels)
    found = predictor.embed(picture)
    click = timed(lambda: predictor.predict(found, points=[[9, 9]]), device, rounds)
    yield Row(PART, f"{name}: further click", _ms(click.wall), f"device {_ms(click.device)}")
    profile = launched(embed(1), device)
    if profile is not None:
        yield Row(PART, f"{name}: kernels of an embedding", str(profile.kernels))


def _beside(
    what: str,
    ours: float,
    least: float | None,
    rounds: int,
    encode: Callable[[torch.Tensor], object],
    pixels: torch.Tensor,
) -> Rows:
    try:
        theirs = timed(lambda: encode(pixels), pixels.device, rounds).wall
    except (RuntimeError, ImportError, torch._dynamo.exc.TorchDynamoException) as error:
        yield Row.missing(PART, what, error)
        return
    ratio = theirs / ours
    yield (
        Row(PART, what, f"{ratio:.2f}") if least is None else Row.at_least(PART, what, ratio, least)
    )


Encoder = tuple[str, Callable[[torch.Tensor], object], float | None]


def _encoders(name: str, model: SAM2) -> list[Encoder]:
    """Others that encode pictures with the same weights, and what we aim at beside them."""
    found: list[Encoder] = []
    device, weights = model.device, model.state_dict()
    if name == "edgetam":
        return found
    try:
        from benchmarks.support.reference import build_official

        official = build_official(name, model.image_size)
        official.load_state_dict({key: value.cpu() for key, value in weights.items()})
        official.to(device)

        def eager(pixels: torch.Tensor) -> object:
            with _eager_bfloat16(device):
                return official.forward_image(pixels)

        compiled = torch.compile(official.image_encoder, mode="max-autotune", fullgraph=True)

        def fused(pixels: torch.Tensor) -> object:
            with _eager_bfloat16(device):
                return compiled(pixels)

        found.append((f"{PEER} eager", eager, 2.0 if device.type == "cuda" else None))
        if device.type == "cuda":
            found.append((f"{PEER} compiled", fused, 1.2))
    except ImportError:
        pass
    if transformers_peer.is_installed():
        encode = transformers_peer.build_encoder(
            name, model.image_size, {key: value.cpu() for key, value in weights.items()}, device
        )

        def theirs(pixels: torch.Tensor) -> object:
            with _eager_bfloat16(device):
                return encode(pixels)

        found.append(("transformers", theirs, None))
    return found


@contextmanager
def _eager_bfloat16(device: torch.device) -> Iterator[None]:
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
        yield


def _frames(name: str, model: SAM2, objects: int, rounds: int) -> Rows:
    device = model.device
    clip = MovingDiscs(FULL + rounds + 8, model.image_size)
    tracker = VideoTracker(model, clip)
    for each in range(objects):
        tracker.prompt(0, each, box=[20 + 4 * each, 30, 300 + 6 * each, 360])
    frames = tracker.propagate(0)
    for _ in range(FULL):
        next(frames)
    ours = timed(lambda: next(frames), device, rounds)
    what = f"{name}: tracked frame, {objects} objects"
    yield Row(PART, what, _ms(ours.wall), f"device {_ms(ours.device)}")
    profile = launched(lambda: next(frames), device)
    if profile is not None:
        yield Row(PART, f"{what}: kernels", str(profile.kernels))
        yield Row(PART, f"{what}: idle share of the device", f"{profile.idle:.0%}")
    if name == "edgetam":
        return
    least = {1: 2.0, 8: 4.0}.get(objects) if device.type == "cuda" else None
    for peer, compiled, aim in ((f"{PEER} eager", False, least), ("vos_optimized", True, 1.2)):
        if compiled and (device.type != "cuda" or objects != 1):
            continue
        title = f"{what}, times faster than {peer}"
        try:
            theirs = _official_frame(name, device, clip, objects, rounds, compiled)
        except (ImportError, RuntimeError) as error:
            yield Row.missing(PART, title, error)
            continue
        ratio = theirs / ours.wall
        yield (
            Row(PART, title, f"{ratio:.2f}")
            if aim is None
            else Row.at_least(PART, title, ratio, aim)
        )


def _official_frame(
    name: str, device: torch.device, clip: MovingDiscs, objects: int, rounds: int, compiled: bool
) -> float:
    """Seconds of a frame of the official video predictor, with a full memory."""
    from sam2.build_sam import build_sam2_video_predictor

    from benchmarks.support.official_tracker import OfficialTracker

    config, overrides = official_config(name, VARIANTS[name].image_size)
    predictor: Any = build_sam2_video_predictor(
        config, device=str(device), hydra_overrides_extra=overrides, vos_optimized=compiled
    )
    predictor.fill_hole_area = 0  # wants a CUDA extension of its own
    with _eager_bfloat16(device):
        tracker = OfficialTracker(predictor, [clip[i] for i in range(len(clip))])
        for each in range(objects):
            tracker.prompt(0, each, box=[20 + 4 * each, 30, 300 + 6 * each, 360])
        frames = tracker.propagate(0)
        for _ in range(FULL):
            next(frames)
        wait(device)
        return timed(lambda: next(frames), device, rounds).wall


def _flop_of_embedding(name: str) -> float:
    with transferring(), FlopCounterMode(display=False) as counted:
        ImagePredictor(meta_model(name)).embed(np.zeros(launches.PICTURE, np.uint8))
    return float(counted.get_total_flops())


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"
