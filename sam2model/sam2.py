"""The SAM 2 network (Ravi et al. 2024, arXiv 2408.00714) as pure steps.

A caller (image predictor, video tracker, training loop) strings the steps together and
owns all state:

    features = model.encode_image(images)
    conditioned = model.without_memory(features.embedding)          # no memory yet, or
    conditioned = model.condition_on_memory(features.embedding, memories, pointers, horizon)
    mask = model.segment_object(conditioned, features.high_res, points, labels)
    memory = model.encode_memory(features.embedding, mask.high_res_logits, mask.object_score_logits)

EdgeTAM (Zhou et al. 2025, arXiv 2501.07256) is the same network with another trunk
(:mod:`sam2model.repvit`) and smaller memories (:mod:`sam2model.spatial_perceiver`).

No step keeps anything, none switches gradients off, and all are batched over objects: the
features of one image (batch 1) serve any number of objects. Together they cover what
``SAM2Base.track_step`` of the reference does under the published configurations. Module
and parameter names are the reference's, so that its checkpoints load strictly.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.image_encoder import ImageEncoder, Maps
from sam2model.inference_weights import Derived, compute_dtype, computing_in, narrow_weights
from sam2model.layers import MLP, Conv2d, Linear
from sam2model.mask_decoder import DecodedMasks, MaskDecoder, to_tokens
from sam2model.memory_attention import MemoryAttention
from sam2model.memory_encoder import MemoryEncoder
from sam2model.position_encoding import sine_position_encoding, sine_time_encoding
from sam2model.prompt_encoder import PromptEncoder
from sam2model.spatial_perceiver import SpatialPerceiver
from sam2model.values import ImageFeatures, ObjectMasks, ObjectPointer, SpatialMemory
from sam2model.variants import Variant
from sam2model.yield_point import yielding_to

# Spatial memories a frame attends to: conditioning frames share one temporal slot, the
# six frames before it have one each.
NUM_MASK_MEMORIES = 7
# Object pointers a frame attends to at most, counting its own place.
MAX_OBJECT_POINTERS = 16
# Logit written everywhere in the masks of absent objects.
NO_OBJECT_LOGIT = -1024.0

_MEMORY_DIM = 64
_STRIDE = 16
_TRUNK_STRIDE = 32
# Mask probabilities are stretched to [-10, 10] for the memory encoder; given masks become
# logits of the same range.
_MASK_SCALE = 20.0
_MASK_BIAS = -10.0


class SAM2(nn.Module):
    """SAM 2 in one of its variants.

    Args:
        variant: shapes and steps.
        image_size: side of the square input in pixels, a multiple of :func:`size_step`; the
            variant's own size where None. Positions, windows and rotary encodings follow it.

    Attributes:
        compute_dtype: dtype that :meth:`inference` and :meth:`autocast` compute in; weights stay
            float32.
        num_mask_memories: spatial memories a tracked frame reads, 1 to 7: the conditioning
            frames, which count as one, and the frames just passed. 7 is what the models were
            trained with (``num_maskmem`` of the reference), fewer are faster.

    Raises:
        ValueError: ``image_size`` is not a positive multiple of that.
    """

    memory_position: Tensor
    image_position: Tensor

    def __init__(self, variant: Variant, image_size: int | None = None) -> None:
        super().__init__()
        size = variant.image_size if image_size is None else image_size
        step = size_step(variant)
        if size <= 0 or size % step:
            raise ValueError(
                f"image_size must be a positive multiple of {step}, not {size}: the model "
                "divides the image into cells of that size"
            )
        dim = variant.d_model
        self.variant = variant
        self.image_size = size
        self.embedding_size = size // _STRIDE
        self.compute_dtype = torch.float32
        self.num_mask_memories = NUM_MASK_MEMORIES

        self.image_encoder = ImageEncoder(variant)
        self.memory_attention = MemoryAttention(variant, _MEMORY_DIM, self.embedding_size)
        self.memory_encoder = MemoryEncoder(dim, _MEMORY_DIM)
        self.spatial_perceiver = (
            None
            if variant.perceiver is None
            else SpatialPerceiver(variant.perceiver, _MEMORY_DIM, self.embedding_size)
        )
        self.sam_prompt_encoder = PromptEncoder(dim, self.embedding_size, size)
        self.sam_mask_decoder = MaskDecoder(dim)
        self.mask_downsample = Conv2d(1, 1, kernel_size=4, stride=4)
        self.obj_ptr_proj = MLP(dim, dim, dim, num_layers=3)
        self.obj_ptr_tpos_proj = Linear(dim, _MEMORY_DIM) if variant.pointer_time_encoding else None
        self.maskmem_tpos_enc = _embedding(NUM_MASK_MEMORIES, 1, 1, _MEMORY_DIM)
        self.no_mem_embed = _embedding(1, 1, dim)
        # In every checkpoint, used by no published configuration.
        self.no_mem_pos_enc = _embedding(1, 1, dim)
        self.no_obj_ptr = _embedding(1, dim)
        self.no_obj_embed_spatial = (
            _embedding(1, _MEMORY_DIM) if variant.occlusion_embedding else None
        )
        self._register_positions(dim)
        self._positions: Derived[Tensor] = Derived()

    def _register_positions(self, dim: int) -> None:
        """Constants: ``[1, h * w, dim]`` of the embedding, ``[1, M, 64]`` of a spatial memory."""
        side = self.embedding_size
        image = to_tokens(sine_position_encoding(dim, side, side))
        if self.spatial_perceiver is None:
            memory = to_tokens(sine_position_encoding(_MEMORY_DIM, side, side))
        else:
            memory = self.spatial_perceiver.latent_position()
        for name, position in (("image_position", image), ("memory_position", memory)):
            self.register_buffer(name, position.contiguous(), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        return self.no_mem_embed.device

    def autocast(self) -> AbstractContextManager[None]:
        """A context in which the steps compute in ``compute_dtype``, with gradients too."""
        return torch.autocast(
            self.device.type,
            dtype=None if self.compute_dtype == torch.float32 else self.compute_dtype,
            enabled=self.compute_dtype != torch.float32,
        )

    @contextmanager
    def inference(self, yield_to: Callable[[], None] | None = None) -> Iterator[None]:
        """A context in which the steps compute in ``compute_dtype`` and without gradients.

        Args:
            yield_to: called between the steps; see :mod:`sam2model.yield_point`.
        """
        dtype = None if self.compute_dtype == torch.float32 else self.compute_dtype
        with torch.inference_mode(), computing_in(dtype), yielding_to(yield_to):
            yield

    def narrow(self) -> None:
        """Drop the float32 of weights that are only ever cast to ``compute_dtype``: half of what
        they take, on a device or in host memory. For inference only, with the same results."""
        if self.compute_dtype != torch.float32:
            exact = [self.sam_mask_decoder.iou_prediction_head]
            narrow_weights(self, self.compute_dtype, exact)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Run the image encoder.

        Args:
            images: float ``[B, 3, S, S]``, resized and normalised
                (:func:`sam2model.preprocessing.preprocess`).

        Raises:
            ValueError: the images do not have that shape.
        """
        size = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(
                f"this model takes images of shape [B, 3, {size}, {size}], not {list(images.shape)}"
            )
        stride_4, stride_8, embedding = self.encode_maps(images)
        return ImageFeatures(embedding, (stride_4, stride_8))

    def encode_maps(self, images: Tensor) -> Maps:
        """What :meth:`encode_image` computes: ``[B, C, S/s, S/s]`` for s = 4, 8, 16."""
        decoder = self.sam_mask_decoder
        # Narrowed here, once per image, rather than in every decode.
        maps: Maps = self.image_encoder(images, narrowing=(decoder.conv_s0, decoder.conv_s1))
        return maps

    def without_memory(self, embedding: Tensor) -> Tensor:
        """Condition on an empty memory: for images, and where an object starts.

        Args:
            embedding: ``[B, C, h, w]`` from :meth:`encode_image`.

        Returns:
            ``[B, C, h, w]``.
        """
        return embedding + self.no_mem_embed.view(1, -1, 1, 1)

    def condition_on_memory(
        self,
        embedding: Tensor,
        memories: Sequence[SpatialMemory],
        pointers: Sequence[ObjectPointer],
        horizon: int,
    ) -> Tensor:
        """Let a frame's features attend to what is remembered of B objects.

        Args:
            embedding: ``[B or 1, C, h, w]`` from :meth:`encode_image`.
            memories: at least one spatial memory.
            pointers: object pointers, possibly none.
            horizon: the time difference that counts as 1 in the pointers' time encoding:
                ``min(frames in the video, 16) - 1`` in the reference.

        Returns:
            ``[B, C, h, w]``.

        Raises:
            ValueError: there is no spatial memory.
        """
        if not memories:
            raise ValueError("at least one spatial memory is needed; see without_memory")
        dtype = embedding.dtype if torch.is_grad_enabled() else compute_dtype(embedding)
        memory = torch.cat([memory.tokens for memory in memories], dim=1).to(dtype)
        positions = self._memory_positions(tuple(memory.frames_ago for memory in memories))
        num_pointer_tokens = 0
        if pointers:
            pointer_tokens, pointer_positions = self._pointer_tokens(pointers, horizon)
            num_pointer_tokens = pointer_tokens.shape[1]
            memory = torch.cat((memory, pointer_tokens.to(dtype)), dim=1)
            positions = torch.cat((positions, pointer_positions), dim=1)
        out = self.memory_attention(
            to_tokens(embedding), self.image_position, memory, positions, num_pointer_tokens
        )
        return out.mT.unflatten(2, embedding.shape[-2:])

    def _memory_positions(self, frames_ago: tuple[int, ...]) -> Tensor:
        """``[1, R * M, 64]`` of R spatial memories: place in the image plus place in time.

        A track in full swing asks for the same ones on every frame.
        """
        if torch.is_grad_enabled():
            return self._placed_in_time(frames_ago)
        parameters = (self.maskmem_tpos_enc, self.memory_position)
        return self._positions.get(parameters, frames_ago, lambda: self._placed_in_time(frames_ago))

    def _placed_in_time(self, frames_ago: tuple[int, ...]) -> Tensor:
        # Conditioning frames (0) own the last slot, which is index -1.
        places = torch.cat([self.maskmem_tpos_enc[ago - 1] for ago in frames_ago])
        return (self.memory_position + places).flatten(0, 1)[None]

    def _pointer_tokens(
        self, pointers: Sequence[ObjectPointer], horizon: int
    ) -> tuple[Tensor, Tensor]:
        """Pointers cut into tokens ``[B, P, 64]``, and their positions ``[1, P, 64]``."""
        vectors = torch.stack([pointer.vector for pointer in pointers], dim=1)
        pieces = vectors.shape[2] // _MEMORY_DIM
        tokens = vectors.unflatten(2, (pieces, _MEMORY_DIM)).flatten(1, 2)
        if self.obj_ptr_tpos_proj is None:
            return tokens, tokens.new_zeros(1, tokens.shape[1], _MEMORY_DIM)
        differences = torch.tensor(
            [pointer.time_difference / max(horizon, 1) for pointer in pointers],
            dtype=torch.float32,
        )
        # A few numbers, which the host has at once; it must not wait for the device to take them.
        encoding = sine_time_encoding(differences, self.variant.d_model)
        positions = self.obj_ptr_tpos_proj(encoding.to(tokens.device, non_blocking=True))
        return tokens, positions.repeat_interleave(pieces, dim=0)[None]

    def decode_masks(
        self,
        conditioned: Tensor,
        high_res: tuple[Tensor, Tensor],
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
        multimask: bool = False,
    ) -> DecodedMasks:
        """Prompt encoder and mask decoder alone, as ``SAM2ImagePredictor`` uses them.

        Args:
            conditioned: ``[B or 1, C, h, w]`` from :meth:`without_memory` or
                :meth:`condition_on_memory`.
            high_res: high-resolution features of :meth:`encode_image`, batch B or 1.
            points: float ``[B, P, 2]``, xy in pixels of the S x S input.
            labels: int ``[B, P]``: 1 positive, 0 negative, 2 and 3 the corners of a box,
                -1 padding.
            mask_logits: float ``[B, 1, S/4, S/4]``, logits of an earlier answer.
            multimask: three masks instead of one.
        """
        sparse, dense = self.sam_prompt_encoder(points, labels, mask_logits)
        return self._decode(conditioned, high_res, sparse, dense, multimask)

    def _decode(
        self,
        conditioned: Tensor,
        high_res: tuple[Tensor, Tensor],
        sparse: Tensor,
        dense: Tensor,
        multimask: bool,
    ) -> DecodedMasks:
        decoded: DecodedMasks = self.sam_mask_decoder(
            conditioned, self.sam_prompt_encoder.dense_pe, sparse, dense, high_res, multimask
        )
        return decoded

    def segment_object(
        self,
        conditioned: Tensor,
        high_res: tuple[Tensor, Tensor],
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
        multimask: bool = False,
    ) -> ObjectMasks:
        """Find B objects on a frame: by prompts, or by the memories in ``conditioned``.

        Takes the best mask of several and treats absent objects. Arguments as in
        :meth:`decode_masks`; without points, one padding point stands for each object, as
        in the tracking of the reference. It uses ``multimask`` where an object has at most
        one point (:func:`is_ambiguous`).
        """
        if points is None:
            sparse = self.sam_prompt_encoder.without_points()
            dense = self.sam_prompt_encoder.dense(mask_logits)
            decoded = self._decode(conditioned, high_res, sparse, dense, multimask)
        else:
            decoded = self.decode_masks(
                conditioned, high_res, points, labels, mask_logits, multimask
            )
        present = decoded.object_score_logits > 0
        candidates = torch.where(present[:, :, None, None], decoded.logits.float(), NO_OBJECT_LOGIT)
        best = decoded.ious.argmax(dim=1)
        rows = torch.arange(len(best), device=best.device)
        logits = candidates[rows, best][:, None]
        # With a single mask there is a single token, and ``best`` is 0 everywhere.
        pointer = self.obj_ptr_proj(decoded.tokens[rows, best])
        return ObjectMasks(
            logits=logits,
            high_res_logits=self.upscale(logits),
            iou=decoded.ious[rows, best][:, None],
            pointer=self._pointer_where(present, pointer),
            object_score_logits=decoded.object_score_logits,
            candidates=candidates,
            candidate_ious=decoded.ious,
        )

    def mask_as_output(self, features: ImageFeatures, masks: Tensor) -> ObjectMasks:
        """Take given masks for the answer, and derive object pointers from them.

        Args:
            features: of the frame, batch B or 1.
            masks: bool or float ``[B, 1, S, S]``, 1 inside and 0 outside; all 0 where an
                object is absent.
        """
        masks = masks.float()
        high_res_logits = masks * _MASK_SCALE + _MASK_BIAS
        logits = F.interpolate(
            high_res_logits,
            size=(self.image_size // 4, self.image_size // 4),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        decoded = self.segment_object(
            features.embedding, features.high_res, mask_logits=self.mask_downsample(masks)
        )
        present = masks.flatten(1).any(dim=1, keepdim=True)
        certain = torch.ones_like(decoded.iou)
        return ObjectMasks(
            logits=logits,
            high_res_logits=high_res_logits,
            iou=certain,
            pointer=self._pointer_where(present, decoded.pointer),
            object_score_logits=present.float() * _MASK_SCALE + _MASK_BIAS,
            candidates=logits,
            candidate_ious=certain,
        )

    def encode_memory(
        self,
        embedding: Tensor,
        high_res_logits: Tensor,
        object_score_logits: Tensor,
        binarize: bool = False,
    ) -> Tensor:
        """Remember where B objects are on a frame.

        Args:
            embedding: ``[B or 1, C, h, w]`` from :meth:`encode_image`.
            high_res_logits: ``[B, 1, S, S]`` mask logits.
            object_score_logits: ``[B, 1]``.
            binarize: remember the mask as thresholded, which the reference's video
                predictor does on frames with clicks, so that it remembers what the user saw.

        Returns:
            ``[B, M, 64]``: M = h * w tokens row by row, or the 512 latents of EdgeTAM.
        """
        inside = (high_res_logits > 0).float() if binarize else high_res_logits.sigmoid()
        memory = self.memory_encoder(embedding, inside * _MASK_SCALE + _MASK_BIAS)
        if self.no_obj_embed_spatial is not None:
            absent = (object_score_logits <= 0).to(memory.dtype)[..., None, None]
            memory = memory + absent * self.no_obj_embed_spatial[..., None, None]
        if self.spatial_perceiver is not None:
            return self.spatial_perceiver(memory)
        return to_tokens(memory)

    def upscale(self, logits: Tensor) -> Tensor:
        """Mask logits ``[B, M, S/4, S/4]`` at the size of the input image, in float32."""
        size = (self.image_size, self.image_size)
        return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)

    def _pointer_where(self, present: Tensor, pointer: Tensor) -> Tensor:
        """The learned "no object" pointer where ``present`` ``[B, 1]`` is False."""
        return torch.where(present, pointer, self.no_obj_ptr)


def size_step(variant: Variant) -> int:
    """What the side of a variant's input is a multiple of, in pixels."""
    if variant.perceiver is None:
        return _TRUNK_STRIDE
    return math.lcm(_TRUNK_STRIDE, _STRIDE * variant.perceiver.local_side)


def is_ambiguous(num_points: int) -> bool:
    """Whether the reference asks for several masks: at most one point; a box counts as two."""
    return num_points <= 1


def _embedding(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(shape), std=0.02))
