"""What a video tracker answers, frame by frame."""

from collections.abc import Hashable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2model.transfer import Download

ObjectId: TypeAlias = Hashable


class FrameMasks:
    """The masks of O objects on one frame; S is the model's image size.

    They may still be on their way from the device: who first reads an array waits for all of
    them, while the tracker can go on with the next frame.

    Attributes:
        frame: index of the frame, from 0.
        object_ids: the objects, in the order in which they were first prompted.
    """

    def __init__(self, frame: int, object_ids: tuple[ObjectId, ...], download: Download) -> None:
        """
        Args:
            download: masks, logits, object scores and IoUs as below, something else, and the look
                of the frame where it is known.
        """
        self.frame = frame
        self.object_ids = object_ids
        self._download = download

    def __repr__(self) -> str:
        return f"FrameMasks(frame={self.frame}, object_ids={self.object_ids})"

    @property
    def masks(self) -> NDArray[np.bool_]:
        """bool ``[O, H, W]`` at the size of the frame; empty where an object is absent."""
        return self._array(0)

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 ``[O, S/4, S/4]``, the mask logits they come from; all -1024 where an object is
        absent."""
        return self._array(1)

    @property
    def object_scores(self) -> NDArray[np.float32]:
        """float32 ``[O]``, logits of presence: > 0 where an object is visible, +-10 where a mask
        prompt says so; -1024 where an object has no answer on this frame yet."""
        return self._array(2)

    @property
    def ious(self) -> NDArray[np.float32]:
        """float32 ``[O]``, predicted IoU of each mask, in [0, 1]; 1 for mask prompts, 0 where an
        object has no answer on this frame yet."""
        return self._array(3)

    @property
    def look(self) -> NDArray[np.float32] | None:
        """float32 ``[C, 4, 4]``, the mean of the image features in each part of the frame: tells
        one scene from another. None where the frame was not encoded for this answer."""
        arrays = self._download.arrays()
        return arrays[5] if len(arrays) > 5 else None

    def _array(self, place: int) -> NDArray[Any]:
        return self._download.arrays()[place]
