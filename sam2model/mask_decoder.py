"""Mask decoder: a two-way transformer between prompt tokens and the image, and its heads."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sam2model.attention import Attention
from sam2model.inference_weights import Derived, compute_dtype, computing_in
from sam2model.layers import MLP, ConvTranspose2d, LayerNorm, LayerNorm2d, SideBySide

NUM_MULTIMASKS = 3
_DEPTH = 2
_NUM_HEADS = 8
_MLP_DIM = 2048
_IOU_HEAD_DIM = 256
_CROSS_ATTENTION_DOWNSAMPLING = 2

# A single mask counts as unstable where moving the threshold by +-delta logits changes its
# area by more than 2 % (Meta's defaults in build_sam2).
_STABILITY_DELTA = 0.05
_STABILITY_THRESHOLD = 0.98


@dataclass(frozen=True)
class DecodedMasks:
    """What the mask decoder says about B objects, with M masks each.

    Attributes:
        logits: ``[B, M, 4h, 4w]`` mask logits; inside where > 0.
        ious: ``[B, M]`` predicted IoU of each mask, in [0, 1].
        tokens: ``[B, T, C]`` output tokens for object pointers; T = 3 with several masks,
            else 1.
        object_score_logits: ``[B, 1]``, > 0 where the object is present.
    """

    logits: Tensor
    ious: Tensor
    tokens: Tensor
    object_score_logits: Tensor


@dataclass(frozen=True)
class Attended:
    """B prompts that have looked at the image: all that the masks follow from.

    Attributes:
        own_tokens: ``[B, 6, C]``: object score, IoUs, the single mask, the three others.
        image: ``[B, h * w, C]``, the image as each prompt sees it.
        size: h and w.
        ious: ``[B, 4]`` predicted IoU of the single mask and the three others, in [0, 1].
    """

    own_tokens: Tensor
    image: Tensor
    size: tuple[int, int]
    ious: Tensor

    def only(self, rows: Tensor) -> "Attended":
        """Those prompts where ``rows``, bool ``[B]``, says so."""
        if bool(rows.all()):
            return self
        return Attended(self.own_tokens[rows], self.image[rows], self.size, self.ious[rows])


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves, then to the image; then the image attends to the tokens."""

    def __init__(self, dim: int, is_first: bool) -> None:
        super().__init__()
        # The tokens entering the first block are the position encodings themselves.
        self.is_first = is_first
        self.self_attn = Attention(dim, _NUM_HEADS)
        self.norm1 = LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, _NUM_HEADS, _CROSS_ATTENTION_DOWNSAMPLING)
        self.norm2 = LayerNorm(dim)
        self.mlp = MLP(dim, _MLP_DIM, dim, num_layers=2)
        self.norm3 = LayerNorm(dim)
        self.norm4 = LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, _NUM_HEADS, _CROSS_ATTENTION_DOWNSAMPLING)

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update tokens ``[B, N, C]`` and image ``[B or 1, h * w, C]``, which each of them sees its
        own way afterwards."""
        if self.is_first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)

        placed_image = image + image_pe
        if not torch.is_grad_enabled():  # once for both that look at it
            placed_image = placed_image.to(compute_dtype(placed_image))
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_pe, placed_image, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))

        image = image + self.cross_attn_image_to_token(placed_image, tokens + token_pe, tokens)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """Two blocks of the above, and a last look of the tokens at the image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(dim, is_first=i == 0) for i in range(_DEPTH)
        )
        self.final_attn_token_to_image = Attention(dim, _NUM_HEADS, _CROSS_ATTENTION_DOWNSAMPLING)
        self.norm_final_attn = LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, token_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Run.

        Args:
            image: ``[B, h * w, C]``, or ``[1, h * w, C]`` where it is the same for all.
            image_pe: ``[1, h * w, C]``.
            token_pe: ``[B, N, C]``, the tokens, which serve as their own positions.

        Returns:
            Tokens ``[B, N, C]`` and image ``[B, h * w, C]``.
        """
        tokens = token_pe
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image


class MaskDecoder(nn.Module):
    """Predict masks, their IoUs and the object's presence from embeddings of image and prompts."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        num_masks = NUM_MULTIMASKS + 1
        self.transformer = TwoWayTransformer(dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(num_masks, dim)
        self.obj_score_token = nn.Embedding(1, dim)
        self.output_upscaling = nn.Sequential(
            ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        # Applied by SAM2.encode_image, once per image instead of once per decode.
        self.conv_s0 = nn.Conv2d(dim, dim // 8, kernel_size=1)
        self.conv_s1 = nn.Conv2d(dim, dim // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim // 8, num_layers=3) for _ in range(num_masks)
        )
        self.iou_prediction_head = MLP(
            dim, _IOU_HEAD_DIM, num_masks, num_layers=3, sigmoid_output=True
        )
        self.pred_obj_score_head = MLP(dim, dim, 1, num_layers=3)
        self._own_tokens: Derived[Tensor] = Derived()
        self._filters = SideBySide()

    def forward(
        self,
        image: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res: tuple[Tensor, Tensor],
        multimask: bool,
    ) -> DecodedMasks:
        """Decode B objects.

        Args:
            image: ``[B, C, h, w]`` image embedding, or ``[1, C, h, w]`` where all objects
                are on the same image.
            image_pe: ``[1, C, h, w]`` positions of its cells.
            sparse: ``[B, N, C]`` embeddings of points.
            dense: ``[B, C, h, w]`` or ``[1, C, 1, 1]`` embeddings of masks.
            high_res: ``[B or 1, C/8, 4h, 4w]`` and ``[B or 1, C/4, 2h, 2w]``.
            multimask: three masks per object, for ambiguous prompts; else one, for which
                an unstable single mask is replaced by the best of the three (not while
                training).
        """
        return self.draw(self.attend(image, image_pe, sparse, dense), high_res, multimask)

    def attend(self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor) -> Attended:
        """The first half of :meth:`forward`, with the same arguments: what most of the work of a
        prompt goes into that is not worth drawing."""
        batch = max(image.shape[0], sparse.shape[0], dense.shape[0])
        embeddings = (self.obj_score_token, self.iou_token, self.mask_tokens)
        weights = [each.weight for each in embeddings]
        if torch.is_grad_enabled():
            own_tokens = torch.cat(weights)
        else:
            own_tokens = self._own_tokens.get(weights, None, lambda: torch.cat(weights))
        tokens = torch.cat((own_tokens.expand(batch, -1, -1), sparse.expand(batch, -1, -1)), dim=1)
        height, width = image.shape[-2:]
        # Where all prompts see the same, it stays one until the first of them has looked at it.
        source = to_tokens(image + dense)
        tokens, source = self.transformer(source, to_tokens(image_pe), tokens)
        with computing_in(torch.float32):  # in half precision scores tie that are not equal
            ious = self.iou_prediction_head(tokens[:, 1])
        return Attended(tokens[:, : len(own_tokens)], source, (height, width), ious)

    def draw(
        self, attended: Attended, high_res: tuple[Tensor, Tensor], multimask: bool
    ) -> DecodedMasks:
        """The second half of :meth:`forward`."""
        mask_tokens, ious = attended.own_tokens[:, 2:], attended.ious
        logits = self._masks(attended.image.mT.unflatten(2, attended.size), mask_tokens, high_res)
        if multimask:
            logits, ious, tokens = logits[:, 1:], ious[:, 1:], mask_tokens[:, 1:]
        else:
            # The pointer comes from the single-mask token even where the mask does not.
            tokens = mask_tokens[:, :1]
            if self.training:
                logits, ious = logits[:, :1], ious[:, :1]
            else:
                logits, ious = best_if_unstable(logits, ious)
        score = self.pred_obj_score_head(attended.own_tokens[:, 0])
        return DecodedMasks(logits, ious, tokens, score)

    def _masks(
        self, source: Tensor, mask_tokens: Tensor, high_res: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Dot products of each mask token's filter with every high-resolution pixel."""
        stride_4, stride_8 = high_res
        upscale_1, norm, activation_1, upscale_2, activation_2 = self.output_upscaling
        pixels = activation_1(norm(upscale_1(source) + stride_8))
        pixels = activation_2(upscale_2(pixels) + stride_4)
        filters = self._filters(self.output_hypernetworks_mlps, mask_tokens)
        return (filters @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:])


def to_tokens(feature_map: Tensor) -> Tensor:
    """``[B, C, h, w]`` to ``[B, h * w, C]``."""
    return feature_map.flatten(2).mT


def best_if_unstable(logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """The single mask where it is stable, else the best of the three by predicted IoU.

    Args:
        logits: ``[B, 4, H, W]``, the single mask first.
        ious: ``[B, 4]``.

    Returns:
        ``[B, 1, H, W]`` logits and ``[B, 1]`` IoUs.
    """
    single = logits[:, :1]
    inner = (single > _STABILITY_DELTA).sum(dim=(2, 3))
    outer = (single > -_STABILITY_DELTA).sum(dim=(2, 3))
    stability = torch.where(outer > 0, inner / outer, 1.0)[:, 0]  # an empty mask is stable
    best = 1 + ious[:, 1:].argmax(dim=1)
    chosen = torch.where(stability >= _STABILITY_THRESHOLD, torch.zeros_like(best), best)
    rows = torch.arange(len(chosen), device=chosen.device)
    return logits[rows, chosen][:, None], ious[rows, chosen][:, None]
