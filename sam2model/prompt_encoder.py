"""Prompt encoder: points, boxes and masks to embeddings for the mask decoder."""

from typing import Any

import torch
from torch import Tensor, nn

from sam2model.layers import Conv2d, LayerNorm2d
from sam2model.position_encoding import PositionEmbeddingRandom

# Labels of points. A box is two points: its top-left and its bottom-right corner.
NOT_A_POINT = -1
NEGATIVE = 0
POSITIVE = 1
BOX_TOP_LEFT = 2
BOX_BOTTOM_RIGHT = 3

_MASK_CHANNELS = 16


class PromptEncoder(nn.Module):
    """Embed prompts given in the coordinates of the model's square input image.

    Args:
        embed_dim: channels of the embeddings.
        embedding_size: side of the image embedding, in cells.
        image_size: side of the input image, in pixels.
    """

    dense_pe: Tensor

    def __init__(self, embed_dim: int, embedding_size: int, image_size: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.embedding_size = embedding_size
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            Conv2d(1, _MASK_CHANNELS // 4, kernel_size=2, stride=2),
            LayerNorm2d(_MASK_CHANNELS // 4),
            nn.GELU(),
            Conv2d(_MASK_CHANNELS // 4, _MASK_CHANNELS, kernel_size=2, stride=2),
            LayerNorm2d(_MASK_CHANNELS),
            nn.GELU(),
            Conv2d(_MASK_CHANNELS, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)
        # Positions of the image embedding's cells, float32 [1, C, h, w]. They depend only
        # on the frequencies in the checkpoint: computed once per load, not once per click.
        self.register_buffer("dense_pe", self._dense_pe(), persistent=False)
        self.register_load_state_dict_post_hook(_refresh_dense_pe)

    def _dense_pe(self) -> Tensor:
        return self.pe_layer.grid(self.embedding_size, self.embedding_size)

    def forward(
        self, points: Tensor | None, labels: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed one set of prompts per object.

        Where points are given, one "not a point" is appended to them, as SAM does; where
        ``points`` is None there are no tokens at all.

        Args:
            points: float ``[B, P, 2]``, xy in pixels of the input image, or None.
            labels: int ``[B, P]``: 1 positive, 0 negative, 2 and 3 corners of a box,
                -1 padding; None together with ``points``.
            masks: float ``[B, 1, 4h, 4w]`` mask logits, or None.

        Returns:
            Sparse embeddings ``[B, P + 1, C]`` (``[1, 0, C]`` without points), and dense
            embeddings ``[B, C, h, w]`` (``[1, C, 1, 1]``, to be broadcast, without masks).
        """
        if points is None or labels is None:
            sparse = self.no_mask_embed.weight.new_zeros(1, 0, self.embed_dim)
        else:
            sparse = self._embed_points(points, labels)
        return sparse, self.dense(masks)

    def without_points(self) -> Tensor:
        """The tokens ``[1, 2, C]`` of an object that has no points: a padding point, and the "not
        a point" that is appended to points."""
        return self.not_a_point_embed.weight.expand(2, -1)[None]

    def dense(self, masks: Tensor | None) -> Tensor:
        """Embed masks alone, see :meth:`forward`."""
        if masks is None:
            return self.no_mask_embed.weight.view(1, -1, 1, 1)
        embedded: Tensor = self.mask_downscaling(masks)
        return embedded

    def _embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        batch = points.shape[0]
        points = torch.cat((points, points.new_zeros(batch, 1, 2)), dim=1)
        labels = torch.cat((labels, labels.new_full((batch, 1), NOT_A_POINT)), dim=1)
        # Integer coordinates name pixels; their centres lie half a pixel further.
        position = self.pe_layer((points + 0.5) / self.image_size)
        position = position * (labels != NOT_A_POINT)[..., None]
        kinds = torch.cat([self.not_a_point_embed.weight, *self.point_embeddings.parameters()])
        return position + kinds[labels.long() + 1]


@torch.no_grad()
def _refresh_dense_pe(encoder: PromptEncoder, _incompatible_keys: Any) -> None:
    encoder.dense_pe = encoder._dense_pe()
