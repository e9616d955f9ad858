"""Building the model and its trackers; torch is imported only when that is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.engine.engine import Frames

if TYPE_CHECKING:
    from sam2model import ImagePredictor, VideoTracker

HISTORY_FRAMES = 16  # what a step of a tracker reads


@dataclass(frozen=True)
class ModelChoice:
    """The arguments of ``sam2model.build_model`` as the operator chose them.

    Attributes:
        family: the version of the model that this one was fine-tuned from, at the very beginning;
            None for that model itself.
        compile_cache: folder that keeps what ``torch.compile`` made; None to compile nothing.
    """

    variant: str
    checkpoint: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    image_size: int | None = None
    num_mask_memories: int = 7
    family: str | None = None
    compile_cache: Path | None = None

    @property
    def version(self) -> str:
        """What Label Studio shows and stores as the model version."""
        parts = [self.variant]
        if self.checkpoint is not None:
            parts.append(self.checkpoint.stem)
        if self.image_size is not None:
            parts.append(f"{self.image_size}px")
        return "-".join(parts)


def build_predictor(choice: ModelChoice, yield_to: Callable[[], None]) -> ImagePredictor:
    """Build and load the model; imports torch, so it is called on the inference thread.

    Args:
        choice: which model.
        yield_to: called between the steps of every encoding.
    """
    from sam2model import ImagePredictor, build_model

    model = build_model(
        choice.variant,
        checkpoint=choice.checkpoint,
        device=choice.device,
        dtype=choice.dtype,
        image_size=choice.image_size,
        num_mask_memories=choice.num_mask_memories,
    )
    predictor = ImagePredictor(model, yield_to=yield_to)
    # The first run sets up kernels and memory; better here than in somebody's click.
    blank = predictor.embed(np.zeros((64, 64, 3), np.uint8))
    predictor.predict(blank, points=[[32, 32]])
    return predictor


def compile_encoder(choice: ModelChoice, predictor: ImagePredictor) -> None:
    """Have the model encode with a compiled image encoder; takes minutes the first time.

    Raises:
        Exception: it cannot be compiled on this machine, or answers otherwise.
    """
    if choice.compile_cache is not None:
        # Read by torch when it compiles; an operator's own goes first.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(choice.compile_cache))

    from sam2model.compiled import compile_image_encoder

    compile_image_encoder(predictor.model)


def build_video_tracker(
    predictor: ImagePredictor, frames: Frames, yield_to: Callable[[], None]
) -> VideoTracker:
    """A tracker on the predictor's model, with the history that one pass over the frames needs:
    a correction is a pass of its own, and the masks are in the store.

    Args:
        predictor: whose model is used.
        frames: to be tracked.
        yield_to: called between the steps of every frame's computation.
    """
    from sam2model import VideoTracker

    return VideoTracker(predictor.model, frames, history_frames=HISTORY_FRAMES, yield_to=yield_to)
