"""Whether a device computes what the CPU computes, in every number format."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.check import Row, Rows, wait
from benchmarks.gpu.peers import FAILURES
from benchmarks.support import torchvision_stand_in
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.composed_clips import HELD_OUT, ComposedClip, compose
from benchmarks.support.reference import draw_weights, make_pair
from sam2model import ImagePredictor, VideoTracker, build_model
from sam2model.image_predictor import ImageEmbedding
from sam2model.precision import settle_kernels
from sam2model.preprocessing import preprocess
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS

PART = "right"
MOST_ERROR = 1e-3  # of float32, as a fraction of the largest value
LEAST_IOU, MOST_J = 0.98, 0.005  # of half precision with real weights
FRAMES = 8
SMALLER = 512  # pixels, of tracks of many objects that the CPU follows, too
FRAMES_OF_CLIP = 40
HALF = (torch.bfloat16, torch.float16)


def rows(variants: list[str], device: torch.device, objects: list[int]) -> Rows:
    """All checks."""
    yield _no_hidden_wait(device)
    yield from _real_masks(device)
    yield from _engine(device)
    yield _full_device(device)
    for name in variants:
        if name != "edgetam":
            yield from _like_sam2(name, device)
    for name in variants:
        yield from _like_the_cpu(name, device, objects)


def _random(name: str, device: torch.device, dtype: torch.dtype, size: int | None = None) -> SAM2:
    settle_kernels(device, dtype)
    model = SAM2(VARIANTS[name], size).eval()
    model.load_state_dict(draw_weights(model.state_dict(), seed=0))
    model.compute_dtype = dtype
    return model.to(device)


def _like_the_cpu(name: str, device: torch.device, objects: list[int]) -> Rows:
    here, there = (_random(name, each, torch.float32) for each in (device, torch.device("cpu")))
    picture = MovingDiscs(1, 512)[0]
    ours, theirs = ImagePredictor(here).embed(picture), ImagePredictor(there).embed(picture)
    pairs = zip(_maps(ours), _maps(theirs), strict=True)
    error = max(_error(a, b) for a, b in pairs)
    yield Row.at_most(PART, f"{name}: embedding, float32, beside the CPU", error, MOST_ERROR)
    click = [
        ImagePredictor(model).predict(found, points=[[200, 160]]).logits
        for model, found in ((here, ours), (there, theirs))
    ]
    yield Row.at_most(PART, f"{name}: a click's logits, float32", _error(*click), MOST_ERROR)
    small = min(VARIANTS[name].image_size, SMALLER)
    for count in objects:
        if count > 1 and here.image_size != small:  # the CPU has to do the same in minutes
            cpu = torch.device("cpu")
            here, there = (_random(name, each, torch.float32, small) for each in (device, cpu))
        a, b = (_tracked(model, count) for model in (here, there))
        what = f"{name}: {FRAMES} tracked frames of {count} objects, float32"
        yield Row.at_most(PART, what, _error(a, b), MOST_ERROR)
        for dtype in HALF:
            here.compute_dtype = dtype
            narrow = _tracked(here, count)
            yield Row(PART, f"{what[:-9]}, {_short(dtype)}", f"{_error(narrow, b):.3g}")
        here.compute_dtype = torch.float32


def _maps(embedding: ImageEmbedding) -> list[NDArray[np.float32]]:
    features = embedding.features
    return [x.float().cpu().numpy() for x in (features.embedding, *features.high_res)]


def _tracked(model: SAM2, objects: int) -> NDArray[np.float32]:
    """Logits ``[frames, objects, S/4, S/4]``."""
    tracker = VideoTracker(model, MovingDiscs(FRAMES + 1, 512))
    for each in range(objects):
        tracker.prompt(0, each, box=[20 + 8 * each, 30, 200 + 12 * each, 260])
    return np.stack([step.logits for step in islice(tracker.propagate(0), FRAMES)])


def _error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _like_sam2(name: str, device: torch.device) -> Rows:
    """Pictures and tracked masks of the official package on the same device, in float32."""
    settle_kernels(device, torch.float32)
    try:
        yield from _pictures_like_sam2(name, device)
        yield from _tracks_like_sam2(name, device)
    except FAILURES as error:
        yield Row.missing(PART, f"{name}: beside sam2, float32", error)


def _pictures_like_sam2(name: str, device: torch.device) -> Rows:
    """A variant's embedding and a click, at its own size."""
    with torchvision_stand_in.installed():
        from sam2.sam2_image_predictor import SAM2ImagePredictor

    pair = make_pair(name)
    official, ours = pair.official.to(device), ImagePredictor(pair.ours.to(device))
    picture = MovingDiscs(1, 512)[0]
    pixels = preprocess(picture, pair.ours.image_size, device)
    predictor: Any = SAM2ImagePredictor(official)
    predictor._bb_feat_sizes = [(pair.ours.image_size // stride,) * 2 for stride in (4, 8, 16)]
    with torch.inference_mode():
        maps = [x.cpu().numpy() for x in official.forward_image(pixels)["backbone_fpn"]]
        predictor.set_image(picture)
        _, ious, logits = predictor.predict(np.array([[200, 160]]), np.array([1]))
    found = ours.embed(picture)
    error = max(_error(a, b) for a, b in zip(_maps(found), [maps[2], *maps[:2]], strict=True))
    yield Row.at_most(PART, f"{name}: embedding, float32, beside sam2", error, MOST_ERROR)
    click = _error(ours.predict(found, points=[[200, 160]]).logits, logits[np.argsort(-ious)])
    yield Row.at_most(PART, f"{name}: a click's logits, float32, beside sam2", click, MOST_ERROR)


def _tracks_like_sam2(name: str, device: torch.device) -> Rows:
    """Masks of two objects; both models at one size, for which a frame is quick."""
    from benchmarks.support.official_tracker import OfficialTracker, make_tracking_pair

    official, ours = make_tracking_pair(name, min(VARIANTS[name].image_size, SMALLER))
    frames = [MovingDiscs(FRAMES, 256)[i] for i in range(FRAMES)]
    trackers = OfficialTracker(official.to(device), frames), VideoTracker(ours.to(device), frames)
    masks = []
    for tracker in trackers:
        tracker.prompt(0, 1, box=[60, 40, 150, 120])
        tracker.prompt(0, 2, box=[90, 100, 190, 190])
        masks.append(np.stack([step.masks for step in tracker.propagate(0)]))
    what = f"{name}: tracked masks that differ from sam2's, float32"
    yield Row.at_most(PART, what, float((masks[0] != masks[1]).mean()), 1e-3)


def _real_masks(device: torch.device) -> Rows:
    """The demo weights on clips with known truth, in half precision beside float32."""
    clips = [compose(family, HELD_OUT, 0) for family in ("occlusion", "crossing")]
    exact = build_model("demo", device=device, dtype="float32")
    wide = [_followed(exact, clip) for clip in clips]
    truth = [np.stack([m[:FRAMES_OF_CLIP] for m in clip.masks.values()], axis=1) for clip in clips]
    for dtype in HALF:
        model = build_model("demo", device=device, dtype=dtype)
        narrow = [_followed(model, clip) for clip in clips]
        overlap = [_mean_iou(a, b) for a, b in zip(narrow, wide, strict=True)]
        what = f"demo, {_short(dtype)}: IoU with float32 on clips"
        yield Row.at_least(PART, what, min(overlap), LEAST_IOU)
        lost = [
            abs(_mean_iou(a, t) - _mean_iou(b, t))
            for a, b, t in zip(narrow, wide, truth, strict=True)
        ]
        yield Row.at_most(PART, f"demo, {_short(dtype)}: change of J", max(lost), MOST_J)


def _followed(model: SAM2, clip: ComposedClip) -> NDArray[np.bool_]:
    """Masks ``[frames, objects, H, W]`` of a clip's objects, given on frame 0."""
    tracker = VideoTracker(model, clip.frames)
    for name, truth in clip.masks.items():
        tracker.prompt(0, name, mask=truth[0])
    return np.stack([step.masks for step in islice(tracker.propagate(0), FRAMES_OF_CLIP)])


def _mean_iou(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    both = (ours & theirs).sum(axis=(2, 3))
    either = (ours | theirs).sum(axis=(2, 3))
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())


def _no_hidden_wait(device: torch.device) -> Row:
    """A tracked frame must not make the host wait before its masks are read."""
    what = "host syncs in a tracked frame"
    if device.type != "cuda":
        return Row.missing(PART, what, "the device has none")
    tracker = VideoTracker(build_model("demo", device=device), MovingDiscs(24, 256))
    tracker.prompt(0, 0, points=[[100, 80]])
    frames = tracker.propagate(0)
    for _ in range(18):
        last = next(frames)
    assert last.masks.any() or not last.masks.any()
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(frames)
    except RuntimeError as error:
        return Row(PART, what, str(error).splitlines()[0], "none", ok=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Row(PART, what, "0", "none", ok=True)


def _engine(device: torch.device) -> Rows:
    """The engine's own ways on the device: a frame ahead, weights that are replaced, bounds."""
    what = "engine: tracked masks that differ from those of the network alone"
    try:
        from benchmarks.gpu.engine import SIDE, Bench
        from sam2model.transfer import PINNED_BYTES, pinned_bytes
    except ImportError as error:
        yield Row.missing(PART, what, error)
        return
    bench = Bench("demo", device)
    try:
        found = bench.followed(2, FRAMES + 1)
        model = build_model("demo", device=device)
        model.narrow()
        tracker = VideoTracker(model, MovingDiscs(FRAMES + 1, SIDE), history_frames=16)
        for each in range(2):
            tracker.prompt(0, str(each), box=[20 + 8 * each, 30, 120 + 8 * each, 160])
        alone = [step.masks for step in tracker.propagate(0)]
        differing = sum(
            int((each.mask.unpack() != mask).sum())
            for (_, objects), masks in zip(found, alone, strict=True)
            for each, mask in zip(objects, masks, strict=True)
        )
        yield Row.at_most(PART, what, differing, 0)
        before = bench.answer(0, 100)
        bench.engine.replace(bench.choice)
        changed = int((bench.answer(0, 100) != before).sum())
        yield Row.at_most(PART, "engine: pixels that change with the same weights", changed, 0)
        held = pinned_bytes() / 1e6
        yield Row.at_most(PART, "engine: pinned host memory, MB", held, 2 * PINNED_BYTES / 1e6)
    finally:
        bench.close()


def _full_device(device: torch.device) -> Row:
    """A click is answered on a device that others have filled, once the caches are emptied."""
    what = "a click on a device without free memory: the sentence, and the next click"
    if device.type != "cuda":
        return Row.missing(PART, what, "the device is not a GPU")
    predictor = ImagePredictor(build_model("demo", device=device))
    picture = predictor.embed(MovingDiscs(1, 256)[0])
    expected = predictor.predict(picture, points=[[100, 80]]).masks
    filled = []
    try:
        size = torch.cuda.mem_get_info(device)[0]
        while size > 1 << 20:
            try:
                filled.append(torch.empty(size, dtype=torch.uint8, device=device))
            except torch.OutOfMemoryError:
                size //= 2
        try:
            predictor.embed(np.zeros((4000, 4000, 3), np.uint8))
            first = "answered"
        except torch.OutOfMemoryError:
            first = "OutOfMemoryError"
    finally:
        filled.clear()
        torch.cuda.empty_cache()
    wait(device)
    same = bool((predictor.predict(picture, points=[[100, 80]]).masks == expected).all())
    return Row(PART, what, f"{first}, then {'the same mask' if same else 'another mask'}", ok=same)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
