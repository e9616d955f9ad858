"""Masks for one image from prompts: numpy in, numpy out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sam2model.mask_decoder import DecodedMasks
from sam2model.object_memory import ObjectMemory
from sam2model.postprocessing import first_that_holds, resize_masks
from sam2model.preprocessing import preprocess
from sam2model.prompts import check_boxes, check_mask_logits, check_points, point_prompt
from sam2model.sam2 import SAM2, ImageFeatures
from sam2model.transfer import transfer_for

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
        self.yield_to = yield_to
        self._transfer = transfer_for(model.device)

    def embed(self, image: NDArray[np.uint8]) -> ImageEmbedding:
        """Encode an image, once for any number of predictions.

        Args:
            image: uint8 RGB ``[H, W, 3]``.

        Raises:
            ValueError: not such an image.
        """
        with self.model.inference(self.yield_to):
            size, device = self.model.image_size, self.model.device
            pixels = preprocess(image, size, device, self._transfer.upload)
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
        memory: ObjectMemory | None = None,
        heed: tuple[ArrayLike, ArrayLike] | None = None,
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
            memory: of the object on other frames, where the image is a frame of a video on which
                it was tracked: the prompts then correct its mask there, given as ``mask``, as
                ``SAM2VideoPredictor.add_new_points_or_box`` does on a tracked frame. A single
                click is answered with three masks there, whether ``mask`` is given or not.
            heed: pixels, int ``[N, 2]`` as column and row, and bool ``[N]``: of several masks give
                only the best one that holds the pixels where True and none of those where False, or
                the best one where there is no such mask. Only that one is made as large as the
                image, which of large images is most of the work.

        Raises:
            ValueError: no prompt at all, or one of a wrong shape, or with values that are
                not finite; a memory of nothing.
        """
        self._check_embedding(embedding)
        checked_points, checked_labels = check_points(points, labels)
        boxes = None if box is None else check_boxes(np.asarray(box)[None])
        checked_mask = None if mask is None else check_mask_logits(mask, self.model.image_size // 4)
        if checked_points is None and boxes is None and checked_mask is None:
            raise ValueError("no prompt: give points, a box or a mask")
        ambiguous = (
            checked_points is not None
            and len(checked_points) == 1
            and boxes is None
            and (checked_mask is None or memory is not None)
        )
        return self._predict(
            embedding,
            boxes,
            checked_points,
            checked_labels,
            checked_mask,
            multimask and ambiguous,
            memory,
            heed,
        )[0]

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
            predictions += self._predict(embedding, checked[start : start + _MAX_BATCH])
        return predictions

    def _check_embedding(self, embedding: ImageEmbedding) -> None:
        shape = tuple(embedding.features.embedding.shape)
        size = self.model.embedding_size
        expected = (1, self.model.variant.d_model, size, size)
        if shape != expected:
            raise ValueError(
                f"the embedding is of another model: shape {list(shape)} instead of "
                f"{list(expected)}; embed the image with this model"
            )

    def _predict(
        self,
        embedding: ImageEmbedding,
        boxes: NDArray[np.float32] | None,
        points: NDArray[np.float32] | None = None,
        labels: NDArray[np.int64] | None = None,
        mask: NDArray[np.float32] | None = None,
        multimask: bool = False,
        memory: ObjectMemory | None = None,
        heed: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> list[Prediction]:
        """Answer prompts that were checked: one prediction per box, or one for all of them."""
        model, features = self.model, embedding.features
        prompt = point_prompt(boxes, points, labels, embedding.original_size, model.image_size)
        xy, kinds = (None, None) if prompt is None else map(torch.from_numpy, prompt)
        with model.inference(self.yield_to):
            if memory is None:
                conditioned = model.without_memory(features.embedding)
            else:
                conditioned = memory.condition(model, features)
            decoded = model.decode_masks(
                conditioned,
                features.high_res,
                None if xy is None else xy.to(model.device),
                None if kinds is None else kinds.to(model.device),
                None if mask is None else torch.from_numpy(mask)[None].to(model.device),
                multimask,
            )
        return self._predictions(embedding, decoded, heed)

    def _predictions(
        self,
        embedding: ImageEmbedding,
        decoded: DecodedMasks,
        heed: tuple[ArrayLike, ArrayLike] | None,
    ) -> list[Prediction]:
        """One prediction per object of the batch, its masks sorted by score."""
        with torch.inference_mode():
            ious, order = decoded.ious.float().sort(dim=1, descending=True, stable=True)
            rows = torch.arange(len(order), device=order.device)[:, None]
            logits = decoded.logits.float()[rows, order]
            if heed is not None and logits.shape[1] > 1:
                pixels, held = (torch.from_numpy(np.array(each)) for each in heed)
                chosen = first_that_holds(logits, embedding.original_size, pixels, held)[:, None]
                logits, ious = logits[rows, chosen], ious[rows, chosen]
            masks = resize_masks(logits.flatten(0, 1), embedding.original_size)
            arrays = self._transfer.download(
                masks.unflatten(0, ious.shape),
                ious,
                logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT),
                decoded.object_score_logits[:, 0].float(),
            ).arrays()
        return [
            Prediction(masks, scores, logits, float(object_score))
            for masks, scores, logits, object_score in zip(*arrays, strict=True)
        ]
