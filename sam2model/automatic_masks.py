"""Masks of all objects of a picture, without prompts: a grid of points asks for them.

Does what ``SAM2AutomaticMaskGenerator`` of the official package does, with two things done in
another order, to the same end: a mask whose predicted IoU is too low is not drawn, and none is
made at the size of the picture before duplicates have left.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2model.box_nms import box_nms
from sam2model.crops import Crop, crops, point_grid
from sam2model.image_predictor import ImageEmbedding, ImagePredictor
from sam2model.mask_decoder import NUM_MULTIMASKS, Attended
from sam2model.prompt_encoder import POSITIVE
from sam2model.sam2 import SAM2
from sam2model.small_regions import without_small_regions
from sam2model.upsampled_masks import OutlineLogits, Upsampling

# Points decoded at once on a CPU, whatever is asked for: more do not fit its caches, and the
# decoder takes about 60 MB for each at 1024 pixels.
_CPU_BATCH = 8
# Mask prompts are clipped to this range, as in the reference.
_LOGIT_LIMIT = 32.0


@dataclass(frozen=True)
class AutomaticMask:
    """One mask of a picture.

    Attributes:
        box: float32 ``[4]``, x0, y0, x1, y1: the first and the last column and row of the mask.
        area: its pixels.
        predicted_iou: the model's own estimate.
        stability_score: how little the mask changes where the threshold of its logits moves: the
            IoU of the masks at ``stability_score_offset`` above and below it.
        point: float32 ``[2]``, xy of the point that asked for it.
        crop: where it was looked for.
        size: height and width of the picture.
        outline: what ``mask`` is made of.
    """

    box: NDArray[np.float32]
    area: int
    predicted_iou: float
    stability_score: float
    point: NDArray[np.float32]
    crop: Crop
    size: tuple[int, int]
    outline: OutlineLogits

    @property
    def mask(self) -> NDArray[np.bool_]:
        """bool ``[H, W]``, made anew each time: a list of masks of a large picture would not fit
        into memory."""
        crop = self.crop
        inside = Upsampling(self.outline.shape, crop.size).mask(self.outline.restored())
        if crop.size == self.size:
            return inside
        whole = np.zeros(self.size, dtype=np.bool_)
        whole[crop.y0 : crop.y1, crop.x0 : crop.x1] = inside
        return whole


class AutomaticMaskGenerator:
    """Finds the masks of all objects of pictures.

    Args:
        model: from :func:`sam2model.build_model`.
        points_per_side: of the grid of points on the picture, which has this many squared.
        points_per_batch: points decoded at once, at most. More are faster on a GPU, and take more
            memory.
        pred_iou_thresh: masks whose predicted IoU is not above this are left out; 0 for none.
        stability_score_thresh: masks less stable than this are left out; 0 for none.
        stability_score_offset: how far the threshold moves for that, in logits.
        box_nms_thresh: of two masks of one crop whose boxes have a higher IoU than this, the one
            with the lower predicted IoU is left out.
        crop_n_layers: look closer as well: layer n looks at 2^n x 2^n crops of the picture.
        crop_nms_thresh: as ``box_nms_thresh``, between crops; the smaller crop's mask stays.
        crop_overlap_ratio: how much the crops of layer 1 overlap, as a share of the picture's
            shorter side; halved with each further layer.
        crop_n_points_downscale_factor: ``points_per_side`` is divided by this once per layer.
        min_mask_region_area: holes and specks of at most this many logits (a quarter of the
            model's input on each side, so 256 x 256) are filled in and taken away.
        use_m2m: ask once more for each mask, with the mask as a prompt.
        yield_to: called between the steps of a computation; see :mod:`sam2model.yield_point`.

    Raises:
        ValueError: a setting that makes no sense; the message says which.
    """

    def __init__(
        self,
        model: SAM2,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        min_mask_region_area: int = 0,
        use_m2m: bool = False,
        yield_to: Callable[[], None] | None = None,
    ) -> None:
        for name, value, least in (
            ("points_per_side", points_per_side, 1),
            ("points_per_batch", points_per_batch, 1),
            ("crop_n_layers", crop_n_layers, 0),
            ("crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1),
            ("min_mask_region_area", min_mask_region_area, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if points_per_side < crop_n_points_downscale_factor**crop_n_layers:
            raise ValueError(
                f"layer {crop_n_layers} would have no point: points_per_side {points_per_side} is "
                f"divided by {crop_n_points_downscale_factor} once per layer"
            )
        self.predictor = ImagePredictor(model, yield_to)
        self._grids = [
            point_grid(int(points_per_side / crop_n_points_downscale_factor**layer))
            for layer in range(crop_n_layers + 1)
        ]
        on_cpu = model.device.type == "cpu"
        self._batch = min(points_per_batch, _CPU_BATCH) if on_cpu else points_per_batch
        self._least_iou, self._least_stability = pred_iou_thresh, stability_score_thresh
        self._offset = stability_score_offset
        self._box_nms, self._crop_nms = box_nms_thresh, crop_nms_thresh
        self._layers, self._overlap_ratio = crop_n_layers, crop_overlap_ratio
        self._small_area = min_mask_region_area
        self._use_m2m = use_m2m
        self._yield_to = yield_to

    def generate(self, image: NDArray[np.uint8]) -> list[AutomaticMask]:
        """All masks of a picture, in the order of the official package: those of one crop by
        predicted IoU, the best first; with several crops, those of the smallest ones first.

        Args:
            image: uint8 RGB ``[H, W, 3]``.

        Raises:
            ValueError: not such an image.
        """
        found = []
        size = (image.shape[0], image.shape[1])
        parts = crops(size, self._layers, self._overlap_ratio)
        for crop in parts:
            part = np.ascontiguousarray(image[crop.y0 : crop.y1, crop.x0 : crop.x1])
            embedding = self.predictor.embed(part)
            batches = self.points_of(crop)
            asked = [each for points in batches for each in self.ask(embedding, points, crop, size)]
            found += self.without_duplicates(asked)
        if len(parts) == 1:
            return found
        sizes = np.array([each.crop.size for each in found], dtype=np.float32).reshape(-1, 2)
        boxes = np.array([each.box for each in found], dtype=np.float32).reshape(-1, 4)
        return [found[each] for each in box_nms(boxes, 1 / sizes.prod(axis=1), self._crop_nms)]

    def points_of(self, crop: Crop) -> Iterator[NDArray[np.float32]]:
        """The points that are asked for on a crop, batch by batch: ``[N, 2]``, xy in its pixels."""
        height, width = crop.size
        points = (self._grids[crop.layer] * (width, height)).astype(np.float32)
        for start in range(0, len(points), self._batch):
            yield points[start : start + self._batch]

    def ask(
        self,
        embedding: ImageEmbedding,
        points: NDArray[np.float32],
        crop: Crop,
        size: tuple[int, int],
    ) -> list[AutomaticMask]:
        """The masks that a batch of points finds and the thresholds leave.

        Args:
            embedding: of the crop.
            points: ``[N, 2]``, xy in pixels of the crop.
            size: height and width of the picture.
        """
        with self.predictor.model.inference(self._yield_to):
            find = self._refined if self._use_m2m else self._drawn
            logits, ious, asked = find(embedding, points)
            shown = without_small_regions(logits, self._small_area)
            upsampling = Upsampling((shown.shape[1], shown.shape[2]), crop.size)
            measured = upsampling.measure(shown, self._offset)
            stay = measured.stability >= self._least_stability
            if self._least_stability <= 0:
                stay[:] = True
            boxes = (measured.boxes.numpy() + np.tile(crop.corner, 2)).astype(np.float32)
            stay &= torch.from_numpy(~crop.cuts(boxes, size))
            outlines = OutlineLogits.of(shown[stay.to(shown.device)])
        rows = stay.nonzero()[:, 0].numpy()
        return [
            AutomaticMask(box, area, iou, stability, point, crop, size, outline)
            for box, area, iou, stability, point, outline in zip(
                boxes[rows],
                measured.areas[stay].tolist(),
                ious.cpu()[stay].tolist(),
                measured.stability[stay].tolist(),
                points[asked.cpu().numpy()[rows]] + crop.corner.astype(np.float32),
                outlines,
                strict=True,
            )
        ]

    def without_duplicates(self, masks: Sequence[AutomaticMask]) -> list[AutomaticMask]:
        """Of the masks of one crop those that stay beside one another, best first."""
        boxes = np.array([each.box - np.tile(each.crop.corner, 2) for each in masks], np.float32)
        ious = np.array([each.predicted_iou for each in masks], np.float32)
        return [masks[each] for each in box_nms(boxes.reshape(-1, 4), ious, self._box_nms)]

    def _drawn(
        self, embedding: ImageEmbedding, points: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[M, h, w]`` and predicted IoUs ``[M]`` of the masks whose IoU is high enough,
        and the number of each one's point ``[M]``."""
        attended = self._attend(embedding, points)
        wanted = self._good_enough(attended.ious[:, 1:])
        rows = wanted.any(1)
        logits, ious = self._draw(embedding, attended.only(rows), multimask=True)
        wanted = wanted[rows]
        asked = rows.nonzero().expand(-1, NUM_MULTIMASKS)
        return logits[wanted], ious[wanted], asked[wanted]

    def _refined(
        self, embedding: ImageEmbedding, points: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with each mask the answer to its point and to an earlier mask."""
        attended = self._attend(embedding, points)
        earlier, _ = self._draw(embedding, attended, multimask=True)
        earlier = earlier.flatten(0, 1)[:, None].clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        points = points.repeat(NUM_MULTIMASKS, axis=0)
        found = []
        for start in range(0, len(points), self._batch):
            batch = slice(start, start + self._batch)
            attended = self._attend(embedding, points[batch], earlier[batch])
            rows = self._good_enough(attended.ious).any(1)
            logits, ious = self._draw(embedding, attended.only(rows), multimask=False)
            wanted = self._good_enough(ious[:, 0])
            asked = (start + rows.nonzero()[:, 0]) // NUM_MULTIMASKS
            found.append((logits[wanted, 0], ious[wanted, 0], asked[wanted]))
        logits, ious, asked = (torch.cat(each) for each in zip(*found, strict=True))
        return logits, ious, asked

    def _attend(
        self,
        embedding: ImageEmbedding,
        points: NDArray[np.float32],
        masks: Tensor | None = None,
    ) -> Attended:
        """Let each point look at the picture, with the mask ``[N, 1, h, w]`` it comes with."""
        model = self.predictor.model
        scaled = points / np.array(embedding.original_size[::-1], dtype=np.float32)
        xy = torch.from_numpy(scaled * np.float32(model.image_size)).to(model.device)[:, None]
        kinds = torch.full(xy.shape[:2], POSITIVE, device=model.device)
        sparse, dense = model.sam_prompt_encoder(xy, kinds, masks)
        conditioned = model.without_memory(embedding.features.embedding)
        decoder = model.sam_mask_decoder
        return decoder.attend(conditioned, model.sam_prompt_encoder.dense_pe, sparse, dense)

    def _draw(
        self, embedding: ImageEmbedding, attended: Attended, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits ``[B, M, h, w]`` and predicted IoUs ``[B, M]``."""
        decoder = self.predictor.model.sam_mask_decoder
        decoded = decoder.draw(attended, embedding.features.high_res, multimask)
        return decoded.logits.float(), decoded.ious.float()

    def _good_enough(self, ious: Tensor) -> Tensor:
        if self._least_iou <= 0:
            return torch.ones_like(ious, dtype=torch.bool)
        return ious.float() > self._least_iou
