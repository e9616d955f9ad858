"""What is known of an object on other frames, for corrections after its tracker has gone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam2model.sam2 import SAM2, ImageFeatures
from sam2model.track_memory import ObjectTrack, Step
from sam2model.track_step import answer_mask, condition
from sam2model.yield_point import yield_point


@dataclass(frozen=True)
class KnownMask:
    """An object's mask on another frame.

    Attributes:
        features: of that frame, from :meth:`sam2model.image_predictor.ImagePredictor.embed`.
        mask: bool ``[h, w]``, stretched over the frame; empty where the object is absent.
        prompted: a human marked it there, and it was not tracked.
    """

    features: ImageFeatures
    mask: NDArray[np.bool_]
    prompted: bool


@dataclass(frozen=True)
class ObjectMemory:
    """The memory of a tracker, made again of the masks that it left.

    A frame finds in it what :class:`sam2model.track_memory.ObjectTrack` says; of the tracked masks
    those of the frames just passed. Spatial memories are of thresholded masks, as those of prompted
    frames always are, and pointers those of given masks.

    Attributes:
        frame: the frame that is corrected.
        num_frames: of the video.
        reverse: it was reached going towards the beginning.
        known: by frame, at least one that was prompted or just passed.
    """

    frame: int
    num_frames: int
    known: Mapping[int, KnownMask]
    reverse: bool = False

    def condition(self, model: SAM2, features: ImageFeatures) -> Tensor:
        """The frame's features with this memory: ``[1, C, h, w]``.

        Runs inside the caller's inference mode and autocast.

        Raises:
            ValueError: no known frame is one that a frame reads.
        """
        track = ObjectTrack(num_mask_memories=model.num_mask_memories)
        for frame, known in self.known.items():
            remembered = answer_mask(model, known.features, known.mask)
            if known.prompted:
                track.conditioning[frame] = remembered
            else:
                track.memories[frame] = remembered.memory
                track.pointers[frame] = remembered.answer.pointer[None]
            yield_point()
        recall = track.recall(Step(self.frame, self.reverse), self.num_frames)
        return condition(model, features, [recall], self.num_frames)
