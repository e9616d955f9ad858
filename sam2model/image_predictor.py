"""Masks for one image from prompts: numpy in, numpy out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sam2model.mask_decoder import DecodedMasks
from sam2model.postprocessing import resize_masks
from sam2model.preprocessing import preprocess
from sam2model.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT
from sam2model.prompts import check_boxes, check_mask, check_points
from sam2model.sam2 import SAM2, ImageFeatures
from sam2model.yield_point import yielding_to

# Logits handed out, and taken back as mask prompts, are clipped to this range, as in the
# reference.
_LOGIT_LIMIT = 32.0
# Boxes decoded at once. The decoder needs about 60 MB per box at 1024 pixels.
_MAX_BATCH = 32


@dataclass(frozen=True)
class ImageEmbedding:
    """An encoded image: a value that can be kept, shared between threads, and used again.

    Attributes:
        features: batch of one, on the model's device.
        original_size: height and width of the image, in pixels.
    """

    features: ImageFeatures
    original_size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes the features occupy on the device."""
        return self.features.nbytes


@dataclass(frozen=True)
class Prediction:
    """M masks of one object, best first.

    Attributes:
        masks: bool ``[M, H, W]``, at the size of the image.
        scores: float32 ``[M]``, predicted IoU of each mask, in [0, 1].
        logits: float32 ``[M, S/4, S/4]`` in [-32, 32], S being the model's image size; one
            of them, as ``[1, S/4, S/4]``, is a mask prompt for the next prediction.
        object_score: logit of "there is an object at the prompt", > 0 for yes. SAM 2 learned
            it from videos; for still images it is a hint.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    object_score: float


class ImagePredictor:
    """Predict masks for single images.

    Keeps no state but the model: what belongs to an image is in its
    :class:`ImageEmbedding`, so threads that share a predictor cannot mix images up.

    Args:
        model: from :func:`sam2model.build_model`.
        yield_to: called between the steps of a computation; see :mod:`sam2model.yield_point`.
    """

    def __init__(self, model: SAM2, yield_to: Callable[[], None] | None = None) -> None:
        self.model = model
        self._yield_to = yield_to

    def embed(self, image: NDArray[np.uint8]) -> ImageEmbedding:
        """Encode an image, once for any number of predictions.

        Args:
            image: uint8 RGB ``[H, W, 3]``.

        Raises:
            ValueError: not such an image.
        """
        with self._inference():
            pixels = preprocess(image, self.model.image_size, self.model.device)
            features = self.model.encode_image(pixels)
        return ImageEmbedding(features, (image.shape[0], image.shape[1]))

    def predict(
        self,
        embedding: ImageEmbedding,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask: bool = True,
    ) -> Prediction:
        """Find one object by its prompts; all prompts given describe the same object.

        A single click can mean a part or the whole, so it is answered with three masks
        where ``multimask`` is set. Anything more (several clicks, a box, a mask) says
        enough for one. In terms of Meta's ``SAM2ImagePredictor.predict``: one click here is
        ``multimask_output=multimask`` there, with the three answers sorted by score;
        everything else is ``multimask_output=False``.

        Args:
            embedding: of the image, from :meth:`embed` of the same model.
            points: float ``[N, 2]``, xy in pixels of the image, (0, 0) being the centre of
                the first pixel. Points outside the image are allowed.
            labels: int ``[N]``, 1 for clicks on the object, 0 for clicks beside it; all 1
                where None.
            box: float ``[4]``, x0, y0, x1, y1 in pixels of the image.
            mask: float ``[1, S/4, S/4]``, logits of an earlier prediction to be improved;
                clicks should come with it.
            multimask: allow three masks for a single click.

        Raises:
            ValueError: no prompt at all, or one of a wrong shape, or with values that are
                not finite.
        """
        self._check_embedding(embedding)
        checked_points, checked_labels = check_points(points, labels)
        boxes = None if box is None else check_boxes(np.asarray(box)[None])
        checked_mask = None if mask is None else check_mask(mask, self.model.image_size // 4)
        if checked_points is None and boxes is None and checked_mask is None:
            raise ValueError("no prompt: give points, a box or a mask")
        ambiguous = (
            checked_points is not None
            and len(checked_points) == 1
            and boxes is None
            and checked_mask is None
        )
        prompt = self._point_prompt(embedding, checked_points, checked_labels, boxes)
        with self._inference():
            decoded = self._decode(embedding, prompt, checked_mask, multimask and ambiguous)
        return self._predictions(embedding, decoded)[0]

    def predict_boxes(self, embedding: ImageEmbedding, boxes: ArrayLike) -> list[Prediction]:
        """Find one object in each of many boxes, decoding up to 32 boxes at once.

        Args:
            embedding: of the image, from :meth:`embed` of the same model.
            boxes: float ``[N, 4]``, x0, y0, x1, y1 in pixels of the image.

        Returns:
            One prediction with one mask per box, in the order of the boxes.

        Raises:
            ValueError: boxes of a wrong shape, or with values that are not finite.
        """
        self._check_embedding(embedding)
        checked = check_boxes(boxes)
        predictions: list[Prediction] = []
        for start in range(0, len(checked), _MAX_BATCH):
            prompt = self._point_prompt(embedding, None, None, checked[start : start + _MAX_BATCH])
            with self._inference():
                decoded = self._decode(embedding, prompt, None, multimask=False)
            predictions += self._predictions(embedding, decoded)
        return predictions

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with torch.inference_mode(), self.model.autocast(), yielding_to(self._yield_to):
            yield

    def _check_embedding(self, embedding: ImageEmbedding) -> None:
        shape = tuple(embedding.features.embedding.shape)
        size = self.model.embedding_size
        expected = (1, self.model.variant.d_model, size, size)
        if shape != expected:
            raise ValueError(
                f"the embedding is of another model: shape {list(shape)} instead of "
                f"{list(expected)}; embed the image with this model"
            )

    def _point_prompt(
        self,
        embedding: ImageEmbedding,
        points: NDArray[np.float32] | None,
        labels: NDArray[np.int64] | None,
        boxes: NDArray[np.float32] | None,
    ) -> tuple[Tensor, Tensor] | None:
        """Corners of boxes, then points, in the model's coordinates: ``[B, P, 2]``, ``[B, P]``."""
        xy: list[NDArray[np.float32]] = []
        kinds: list[NDArray[np.int64]] = []
        if boxes is not None:
            xy.append(boxes.reshape(-1, 2, 2))
            kinds.append(np.tile([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], (len(boxes), 1)))
        if points is not None and labels is not None:
            xy.append(points[None])
            kinds.append(labels[None])
        if not xy:
            return None
        height, width = embedding.original_size
        scale = self.model.image_size / np.array([width, height], dtype=np.float32)
        device = self.model.device
        return (
            torch.from_numpy(np.concatenate(xy, axis=1) * scale).to(device),
            torch.from_numpy(np.concatenate(kinds, axis=1)).to(device),
        )

    def _decode(
        self,
        embedding: ImageEmbedding,
        prompt: tuple[Tensor, Tensor] | None,
        mask: NDArray[np.float32] | None,
        multimask: bool,
    ) -> DecodedMasks:
        model = self.model
        points, labels = (None, None) if prompt is None else prompt
        mask_logits = None if mask is None else torch.from_numpy(mask)[None].to(model.device)
        features = embedding.features
        return model.decode_masks(
            model.without_memory(features.embedding),
            features.high_res,
            points,
            labels,
            mask_logits,
            multimask,
        )

    def _predictions(self, embedding: ImageEmbedding, decoded: DecodedMasks) -> list[Prediction]:
        """One prediction per object of the batch, its masks sorted by score."""
        predictions = []
        with torch.inference_mode():
            for logits, ious, object_score in zip(
                decoded.logits.float(),
                decoded.ious.float(),
                decoded.object_score_logits.float(),
                strict=True,
            ):
                order = ious.argsort(descending=True)
                logits = logits[order]
                predictions.append(
                    Prediction(
                        masks=resize_masks(logits, embedding.original_size).cpu().numpy(),
                        scores=ious[order].cpu().numpy(),
                        logits=logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT).cpu().numpy(),
                        object_score=float(object_score),
                    )
                )
        return predictions
