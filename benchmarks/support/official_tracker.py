"""The official ``SAM2VideoPredictor`` behind the interface of our ``VideoTracker``.

One scenario then drives both, and their masks can be compared frame by frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from benchmarks.support.reference import draw_weights, official_config
from sam2model.preprocessing import preprocess
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS
from sam2model.video_tracker import Frames


@dataclass(frozen=True)
class OfficialMasks:
    """What the official predictor says about a frame.

    Attributes:
        frame: index of the frame.
        object_ids: its objects.
        masks: bool ``[O, H, W]``.
    """

    frame: int
    object_ids: tuple[int, ...]
    masks: NDArray[np.bool_]


class OfficialTracker:
    """Drives a ``SAM2VideoPredictor``; method by method the meaning of ``VideoTracker``'s."""

    def __init__(self, predictor: Any, frames: Frames) -> None:
        self._predictor = predictor
        self.state = _initial_state(predictor, frames)

    def prompt(
        self,
        frame: int,
        object_id: int,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> OfficialMasks:
        """``add_new_mask`` or ``add_new_points_or_box``; points join the earlier ones."""
        if mask is not None:
            return _masks(*self._predictor.add_new_mask(self.state, frame, object_id, mask))
        if points is not None and labels is None:
            labels = np.ones(len(np.asarray(points)), dtype=np.int64)
        answer = self._predictor.add_new_points_or_box(
            self.state,
            frame,
            object_id,
            points=points,
            labels=labels,
            box=box,
            clear_old_points=box is not None,
        )
        return _masks(*answer)

    def propagate(
        self, start: int | None = None, count: int | None = None, reverse: bool = False
    ) -> Iterator[OfficialMasks]:
        """``propagate_in_video``, whose count leaves the first frame out."""
        steps = self._predictor.propagate_in_video(
            self.state, start, None if count is None else count - 1, reverse
        )
        for step in steps:
            yield _masks(*step)

    def remove(self, object_id: int) -> None:
        """``remove_object``."""
        self._predictor.remove_object(self.state, object_id, strict=True, need_output=False)


def make_tracking_pair(
    name: str, image_size: int, *, corrections_condition: bool = True, seed: int = 0
) -> tuple[Any, SAM2]:
    """The official video predictor and our model, with the same random weights.

    Args:
        name: of a variant.
        image_size: side of the square input.
        corrections_condition: the official ``add_all_frames_to_correct_as_cond``.
        seed: of the weights.
    """
    predictor = build_official_tracker(name, image_size, corrections_condition)
    weights = draw_weights(predictor.state_dict(), seed)
    predictor.load_state_dict(weights, strict=True)
    ours = SAM2(VARIANTS[name], image_size).eval()
    ours.load_state_dict(weights, strict=True)
    return predictor, ours


def build_official_tracker(name: str, image_size: int, corrections_condition: bool = True) -> Any:
    """The official video predictor for a variant, as ``build_sam2_video_predictor`` makes it."""
    from sam2.build_sam import build_sam2_video_predictor

    config, overrides = official_config(name, image_size)
    flag = str(corrections_condition).lower()
    overrides.append(f"++model.add_all_frames_to_correct_as_cond={flag}")
    predictor = build_sam2_video_predictor(config, device="cpu", hydra_overrides_extra=overrides)
    # Filling holes needs a CUDA extension, without which it warns at every mask and does nothing.
    predictor.fill_hole_area = 0
    return predictor


def _initial_state(predictor: Any, frames: Frames) -> dict[str, Any]:
    """``init_state``, but from arrays: writing and reading JPEGs would change the pixels."""
    device = predictor.device
    every = (frames[index] for index in range(len(frames)))
    images = torch.cat([preprocess(frame, predictor.image_size, device) for frame in every])
    height, width = frames[0].shape[:2]
    with mock.patch(
        "sam2.sam2_video_predictor.load_video_frames", return_value=(images, height, width)
    ):
        return predictor.init_state("")


def _masks(frame: int, object_ids: list[int], logits: torch.Tensor) -> OfficialMasks:
    return OfficialMasks(frame, tuple(object_ids), (logits[:, 0] > 0).cpu().numpy())
