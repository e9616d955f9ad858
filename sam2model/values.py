"""The values that pass between the steps of :class:`sam2model.sam2.SAM2`."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class ImageFeatures:
    """Features of a batch of B images of S x S pixels.

    Attributes:
        embedding: ``[B, C, S/16, S/16]``, without any memory in it.
        high_res: ``[B, C/8, S/4, S/4]`` and ``[B, C/4, S/8, S/8]``, as the mask decoder
            wants them.
    """

    embedding: Tensor
    high_res: tuple[Tensor, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes the tensors occupy."""
        return sum(t.nbytes for t in (self.embedding, *self.high_res))


@dataclass(frozen=True)
class ObjectMasks:
    """One mask per object, with everything tracking and training need of it.

    Attributes:
        logits: ``[B, 1, S/4, S/4]``, the best mask; all -1024 where the object is absent.
        high_res_logits: ``[B, 1, S, S]``, the same at the size of the input image.
        iou: ``[B, 1]`` predicted IoU of that mask.
        pointer: ``[B, C]`` object pointer.
        object_score_logits: ``[B, 1]``, > 0 where the object is present.
        candidates: ``[B, M, S/4, S/4]``, all masks that were predicted.
        candidate_ious: ``[B, M]``.
    """

    logits: Tensor
    high_res_logits: Tensor
    iou: Tensor
    pointer: Tensor
    object_score_logits: Tensor
    candidates: Tensor
    candidate_ious: Tensor


class SpatialMemory(NamedTuple):
    """What one earlier frame remembers of the objects.

    Attributes:
        frames_ago: distance in tracked frames, 1 to 6; 0 for a conditioning (prompted)
            frame, however far away it is.
        tokens: ``[B, M, 64]`` from :meth:`sam2model.sam2.SAM2.encode_memory`.
    """

    frames_ago: int
    tokens: Tensor


class ObjectPointer(NamedTuple):
    """One earlier frame's object pointers.

    Attributes:
        time_difference: frames since then; negative for frames that lie ahead in the
            direction of tracking.
        vector: ``[B, C]``.
    """

    time_difference: int
    vector: Tensor
