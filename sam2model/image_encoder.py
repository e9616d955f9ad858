"""The image encoder: trunk and feature pyramid neck."""

from collections.abc import Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.hiera import Hiera
from sam2model.inference_weights import Derived, compute_dtype
from sam2model.matrix_product import linear
from sam2model.repvit import RepViT
from sam2model.variants import RepViTConfig, Variant

# ``[B, C, S/s, S/s]`` for strides s = 4, 8, 16.
Maps: TypeAlias = tuple[Tensor, Tensor, Tensor]


class Pointwise:
    """1x1 convolutions one after the other; without gradients, as one matrix product.

    Two that follow each other with nothing in between are one, with the product of their
    weights, and never visit the channels in between.
    """

    def __init__(self) -> None:
        self._product: Derived[tuple[Tensor, Tensor]] = Derived()

    def __call__(self, x: Tensor, *convs: nn.Conv2d) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, channels of the last, H, W]``."""
        if torch.is_grad_enabled():
            for conv in convs:
                x = conv(x)
            return x
        dtype = compute_dtype(x)
        parameters = [p for conv in convs for p in (conv.weight, conv.bias)]
        weight, bias = self._product.get(parameters, dtype, lambda: _multiplied(convs, dtype))
        return linear(x.permute(0, 2, 3, 1).to(dtype), weight, bias).permute(0, 3, 1, 2)


def _multiplied(convs: Sequence[nn.Conv2d], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight ``[out, in]`` and bias ``[out]`` of all of them together."""
    channels = convs[0].in_channels
    weight = torch.eye(channels, device=convs[0].weight.device)
    bias = torch.zeros(channels, device=convs[0].weight.device)
    for conv in convs:
        following = conv.weight.flatten(1).float()
        weight, bias = following @ weight, F.linear(bias, following, conv.bias)
    return weight.to(dtype), bias.to(dtype)


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
        self._pointwise = [Pointwise() for _ in trunk_channels]

    def forward(self, maps: list[Tensor], narrowing: Sequence[nn.Conv2d] = ()) -> Maps:
        """Run.

        Args:
            maps: the trunk's four maps, strides 4 to 32.
            narrowing: two 1x1 convolutions that the stride-4 and stride-8 maps go through
                next, or none.

        Returns:
            ``[B, d_model, S/s, S/s]`` for s = 4, 8, 16, the first two narrowed.
        """
        following = ((), (), narrowing[1:], narrowing[:1])
        stride_32, stride_16, stride_8, stride_4 = (
            pointwise(x, cast("nn.Conv2d", level.conv), *convs)
            for pointwise, level, convs, x in zip(
                self._pointwise, self.convs, following, reversed(maps), strict=True
            )
        )
        # The sum is kept in float32 under autocast, as in the reference.
        top_down = F.interpolate(stride_32.to(torch.float32), scale_factor=2.0, mode="nearest")
        return stride_4, stride_8, stride_16 + top_down


class ImageEncoder(nn.Module):
    """Trunk and neck; position encodings are left to those who need them."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        trunk = variant.trunk
        self.trunk = RepViT(trunk) if isinstance(trunk, RepViTConfig) else Hiera(trunk)
        self.neck = FpnNeck(variant.d_model, trunk.channels)

    def forward(self, images: Tensor, narrowing: Sequence[nn.Conv2d] = ()) -> Maps:
        """Map ``[B, 3, S, S]`` to the maps of :meth:`FpnNeck.forward`."""
        return self.neck(self.trunk(images), narrowing)
