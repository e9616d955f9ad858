"""The image encoder: Hiera trunk and feature pyramid neck."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.hiera import Hiera
from sam2model.variants import Variant


class FpnNeck(nn.Module):
    """Project the trunk's maps to ``d_model`` channels; mix strides 16 and 32.

    Only the stride-16 map gets top-down features. The stride-4 and stride-8 maps stay
    purely lateral (``fpn_top_down_levels: [2, 3]`` in every published configuration), and
    the stride-32 map is dropped after it has been mixed in (``scalp: 1``).

    Args:
        d_model: channels of every map after projection.
        trunk_channels: channels of the trunk's four maps, strides 4 to 32.
    """

    def __init__(self, d_model: int, trunk_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        # Coarsest first, each in a container of its own: the layout of the checkpoints.
        for channels in reversed(trunk_channels):
            level = nn.Sequential()
            level.add_module("conv", nn.Conv2d(channels, d_model, kernel_size=1))
            self.convs.append(level)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Map the trunk's four maps to ``[B, d_model, S/s, S/s]`` for s = 4, 8, 16."""
        stride_32, stride_16, stride_8, stride_4 = (
            conv(x) for conv, x in zip(self.convs, reversed(maps), strict=True)
        )
        # The sum is kept in float32 under autocast, as in the reference.
        top_down = F.interpolate(stride_32.to(torch.float32), scale_factor=2.0, mode="nearest")
        return stride_4, stride_8, stride_16 + top_down


class ImageEncoder(nn.Module):
    """Trunk and neck; position encodings are left to those who need them."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.trunk = Hiera(variant.trunk)
        channels = tuple(variant.trunk.embed_dim * 2**stage for stage in range(4))
        self.neck = FpnNeck(variant.d_model, channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``[B, 3, S, S]`` to ``[B, d_model, S/s, S/s]`` for s = 4, 8, 16."""
        return self.neck(self.trunk(images))
