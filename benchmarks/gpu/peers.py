"""Other implementations of SAM 2, with our weights, each asked as those who use it do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.support import torchvision_stand_in, transformers_peer
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.reference import official_config
from sam2model.preprocessing import preprocess
from sam2model.variants import VARIANTS

Call = Callable[[], object]
Weights = Mapping[str, Tensor]  # in the layout and under the names of the official package
# What a peer of another version than ours, or one that cannot be compiled here, may end with.
FAILURES = (
    ImportError,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    AssertionError,
    OSError,
)


class Peer(Protocol):
    """One implementation of one variant in bfloat16; each method prepares what is then timed.

    Attributes:
        name: of the implementation.
    """

    name: str

    def embedding(self, pixels: Tensor) -> Call:
        """Of pictures ``[B, 3, S, S]``, preprocessed."""

    def click(self, picture: NDArray[np.uint8]) -> Call | None:
        """A further one on an encoded picture, to masks of its size; None where it is no other."""

    def frame(self, clip: MovingDiscs, objects: int) -> Call:
        """The next frame, from frame 0 on, of so many objects with boxes on that one."""


def boxes(objects: int) -> list[list[float]]:
    """x0, y0, x1, y1 in pixels, by object: what is tracked, by us and by others."""
    return [[20.0 + 4 * each, 30.0, 300.0 + 6 * each, 360.0] for each in range(objects)]


class Official:
    """``sam2`` 1.1.0, eager: ``SAM2ImagePredictor`` and ``SAM2VideoPredictor``."""

    name = "sam2 1.1.0 eager"
    compiled = False

    def __init__(self, variant: str, weights: Weights, device: torch.device) -> None:
        self._variant = variant
        self._weights = weights
        self._device = device

    @cached_property
    def _model(self) -> Any:
        from sam2.build_sam import build_sam2_video_predictor

        config, overrides = official_config(self._variant, VARIANTS[self._variant].image_size)
        model: Any = build_sam2_video_predictor(
            config,
            device=str(self._device),
            hydra_overrides_extra=overrides,
            vos_optimized=self.compiled,
        )
        model.load_state_dict(dict(self._weights))
        model.fill_hole_area = 0  # wants a CUDA extension of its own
        return model

    def embedding(self, pixels: Tensor) -> Call:
        """See ``Peer``."""
        model = self._model
        return lambda: _in_bfloat16(self._device, lambda: model.forward_image(pixels))

    def click(self, picture: NDArray[np.uint8]) -> Call | None:
        """See ``Peer``."""
        with torchvision_stand_in.installed():
            from sam2.sam2_image_predictor import SAM2ImagePredictor

        predictor: Any = SAM2ImagePredictor(self._model)
        side = self._model.image_size // 16
        predictor._bb_feat_sizes = [(side * by,) * 2 for by in (4, 2, 1)]  # knows those of 1024
        _in_bfloat16(self._device, lambda: predictor.set_image(picture))
        point, label = np.array([[9, 9]]), np.array([1])
        return lambda: _in_bfloat16(self._device, lambda: predictor.predict(point, label))

    def frame(self, clip: MovingDiscs, objects: int) -> Call:
        """See ``Peer``."""
        from benchmarks.support.official_tracker import OfficialTracker

        with _bfloat16(self._device):
            tracker = OfficialTracker(self._model, [clip[i] for i in range(len(clip))])
            for each, box in enumerate(boxes(objects)):
                tracker.prompt(0, each, box=box)
        frames = tracker.propagate(0)
        return lambda: _in_bfloat16(self._device, lambda: next(frames))


class Compiled(Official):
    """Its ``vos_optimized`` predictor, which torch compiles part by part, on first use."""

    name = "sam2 1.1.0 vos_optimized"
    compiled = True

    def click(self, picture: NDArray[np.uint8]) -> Call | None:
        """There is no such predictor for pictures."""
        return None


class Transformers:
    """``Sam2Model`` and ``Sam2VideoModel``, in bfloat16 throughout, as their documentation does."""

    name = "transformers"

    def __init__(self, variant: str, weights: Weights, device: torch.device) -> None:
        self._variant = variant
        self._side = VARIANTS[variant].image_size
        self._weights = weights
        self._device = device

    @cached_property
    def _model(self) -> Any:
        return self._build(video=False)

    @cached_property
    def _tracking_model(self) -> Any:
        return self._build(video=True)

    def _build(self, *, video: bool) -> Any:
        model = transformers_peer.build_model(
            self._variant, self._side, self._weights, self._device, video=video
        )
        return model.to(torch.bfloat16)

    def embedding(self, pixels: Tensor) -> Call:
        """See ``Peer``."""
        model, narrow = self._model, pixels.to(torch.bfloat16)
        return _inference(lambda: model.get_image_embeddings(narrow))

    def click(self, picture: NDArray[np.uint8]) -> Call | None:
        """See ``Peer``."""
        model, side, size = self._model, self._side, (picture.shape[0], picture.shape[1])
        pixels = preprocess(picture, side, model.device)
        encoded = self.embedding(pixels)()
        scale = side / size[0]

        def call() -> object:
            point = torch.tensor([[[[9.0, 9.0]]]], device=model.device) * scale
            label = torch.ones(1, 1, 1, dtype=torch.int32, device=model.device)
            found = model(input_points=point, input_labels=label, image_embeddings=encoded)
            masks = transformers_peer.large(found.pred_masks[0].float(), size)
            return masks.cpu(), found.iou_scores.float().cpu()

        return _inference(call)

    def frame(self, clip: MovingDiscs, objects: int) -> Call:
        """See ``Peer``."""
        frames = [clip[i] for i in range(len(clip))]
        track = transformers_peer.Track(self._tracking_model, frames)
        for each, box in enumerate(boxes(objects)):
            track.prompt(each, box)
        numbers = iter(range(len(frames)))
        return _inference(lambda: track.masks(next(numbers)))


def _inference(call: Call) -> Call:
    return torch.inference_mode()(call)


def _in_bfloat16(device: torch.device, call: Call) -> object:
    with _bfloat16(device):
        return call()


@contextmanager
def _bfloat16(device: torch.device) -> Iterator[None]:
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
        yield
