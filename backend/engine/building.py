"""Building the model and its trackers; torch is imported only when that is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.engine.engine import Frames, ModelChoice

if TYPE_CHECKING:
    from sam2model import ImagePredictor, VideoTracker

HISTORY_FRAMES = 16  # what a step of a tracker reads
_ROOM_FOR_BASE_PLUS = 8 * 10**9  # bytes free on a CUDA device
CACHE_BYTES = 1 << 30  # of embeddings, where nobody says otherwise
_SHARE_OF_CACHE, _LEAST_CACHE, _MOST_CACHE = 0.25, 256 << 20, 8 << 30
# About as long as lies between two loops of the network.
_SPINS = ("GOMP_SPINCOUNT", "4000")
_SPINS_CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # by an operator, in the environment
_SWITCH_SECONDS = 0.0005


def share_cores() -> None:
    """Have the network get on beside other work on the same cores; before torch is imported, which
    reads the environment then.

    Every loop of the network is shared out to all cores and ends with the slowest. Where another
    process has one of them, the threads that are done wait, and by default they do so at work, for
    longer than a turn of that process lasts: they take its core too, and in the end the network
    takes many times as long. Here they wait at work for a moment, and then asleep.

    Between two operations the inference thread lets go of the interpreter's lock, which a thread
    that works in Python gives back after ``sys.getswitchinterval``, by default in 5 ms: as long as
    many of these operations take together.
    """
    if not any(name in os.environ for name in _SPINS_CHOSEN):
        os.environ.update([_SPINS])
    sys.setswitchinterval(_SWITCH_SECONDS)


def variant_for(device: str) -> str:
    """The variant for a device, as it is at the moment; imports torch.

    Args:
        device: as an operator names it, "auto" included.
    """
    free = _free_bytes(device)
    if free is None:
        return "edgetam"
    return "sam2.1_hiera_base_plus" if free >= _ROOM_FOR_BASE_PLUS else "sam2.1_hiera_tiny"


def cache_bytes_for(device: str) -> int:
    """What embeddings may take of a device, as it is before the model is on it: a share of what is
    free, within bounds; on others than CUDA devices what a CPU's get. Imports torch.

    Args:
        device: as an operator names it, "auto" included.
    """
    free = _free_bytes(device)
    if free is None:
        return CACHE_BYTES
    return int(min(max(free * _SHARE_OF_CACHE, _LEAST_CACHE), _MOST_CACHE))


def _free_bytes(device: str) -> int | None:
    """What a CUDA device has free; None where the model will run on no such device."""
    share_cores()
    import torch

    from sam2model.precision import resolve_device

    try:
        resolved = resolve_device(device)
    except ValueError:  # which building the model reports
        return None
    if resolved.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(resolved)
    return int(free)


def build_predictor(choice: ModelChoice, yield_to: Callable[[], None]) -> ImagePredictor:
    """Build and load the model; imports torch, so it is called on the inference thread.

    Args:
        yield_to: called between the steps of every encoding.
    """
    share_cores()
    from sam2model import ImagePredictor, build_model

    model = build_model(
        choice.variant,
        checkpoint=choice.checkpoint,
        device=choice.device,
        dtype=choice.dtype,
        image_size=choice.image_size,
        num_mask_memories=choice.num_mask_memories,
    )
    if model.device.type != "cpu":  # whose memory is scarcer
        model.narrow()
    predictor = ImagePredictor(model, yield_to=yield_to)
    # The first run sets up kernels and memory; better here than in somebody's click.
    blank = predictor.embed(np.zeros((64, 64, 3), np.uint8))
    predictor.predict(blank, points=[[32, 32]])
    return predictor


def build_video_tracker(
    choice: ModelChoice, yield_to: Callable[[], None], predictor: ImagePredictor, frames: Frames
) -> VideoTracker:
    """A tracker on the predictor's model, with the history that one pass over the frames needs:
    a correction is a pass of its own, and the masks are in the store.

    Args:
        yield_to: called between the steps of every frame's computation.
    """
    from sam2model import VideoTracker
    from sam2model.memory_policy import POLICIES

    return VideoTracker(
        predictor.model,
        frames,
        history_frames=HISTORY_FRAMES,
        memory_policy=POLICIES[choice.track_memory],
        yield_to=yield_to,
    )


@dataclass(frozen=True)
class LoadedModel:
    """Loaded weights, by ``version``; ``encoder`` names those that make embeddings."""

    predictor: ImagePredictor
    encoder: str
    version: str

    @property
    def side(self) -> int:
        """Of the network's input, pixels."""
        return self.predictor.model.image_size


def loaded(predictor: ImagePredictor, version: str) -> LoadedModel:
    from sam2model.checkpoints import encoder_digest  # brings torch

    # On the disk they meet those of other settings.
    numbers = getattr(predictor.model, "compute_dtype", "")
    encoder = encoder_digest(predictor.model.state_dict())
    encoder = f"{encoder} {predictor.model.image_size} {numbers}"
    return LoadedModel(predictor, encoder, version)


def device_of(predictor: ImagePredictor) -> str:
    """Where a model computes and in which numbers, such as "cuda:0, bfloat16"."""
    parts = [getattr(predictor.model, name, "") for name in ("device", "compute_dtype")]
    return ", ".join(str(part).removeprefix("torch.") for part in parts if part)


def unused_card(choice: ModelChoice) -> str | None:
    from sam2model.precision import why_card_is_unused  # brings torch

    return why_card_is_unused(choice.device)
