"""RepViT, EdgeTAM's trunk (Wang et al. 2023, arXiv 2307.09283): a convolutional network.

Every block mixes places by a depth-wise convolution and channels by an MLP per place. It was
trained with several branches and batch norms, which amount to one convolution each: that one is
computed, with and without gradients. Beside ``timm``'s separate branches that differs by
rounding alone (``tests/sam2model/test_edgetam_parity.py`` states the bound). Batch statistics are
those of the checkpoint, always: a single image has none worth learning from.

Modules are called as in ``timm`` (``repvit_m1``), where EdgeTAM took them from.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.inference_weights import Derived, compute_dtype
from sam2model.layers import Conv2d
from sam2model.matrix_product import Activation, activate, linear
from sam2model.variants import RepViTConfig
from sam2model.yield_point import yield_point

_MLP_RATIO = 2
# The hidden width of squeeze and excitation: a quarter, rounded to a multiple of 8.
_SQUEEZE_RATIO = 4
_SQUEEZE_MULTIPLE = 8


class MergedConv(nn.Module):
    """What is trained as several layers and computed as one convolution; same-sized padding."""

    def __init__(self, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.groups = groups
        self._merged: Derived[tuple[Tensor, Tensor]] = Derived()

    def sources(self) -> Sequence[Tensor]:
        """Every tensor that :meth:`merge` computes with."""
        raise NotImplementedError

    def merge(self) -> tuple[Tensor, Tensor]:
        """Weight ``[out, in / groups, k, k]`` and bias ``[out]`` of the convolution."""
        raise NotImplementedError

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """Map ``[B, in, H, W]`` to ``[B, out, H / stride, W / stride]``, channels last."""
        dtype = compute_dtype(x)
        if torch.is_grad_enabled():
            weight, bias = self.merge()
        else:
            weight, bias = self._merged.get(self.sources(), dtype, lambda: self._laid_out(dtype))
        x = x.to(dtype)
        kernel = weight.shape[2]
        if kernel == 1 and self.groups == 1 and not torch.is_grad_enabled():
            tokens = linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias, activation)
            return tokens.permute(0, 3, 1, 2)
        x = F.conv2d(x, weight, bias, self.stride, kernel // 2, groups=self.groups)
        return activate(x, activation)

    def _laid_out(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weight, bias = self.merge()
        return weight.to(dtype, memory_format=torch.channels_last), bias.to(dtype)


class ConvNorm(MergedConv):
    """Convolution without bias, and batch norm."""

    def __init__(
        self, dim: int, dim_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(stride, groups)
        self.c = nn.Conv2d(dim, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(dim_out)  # holds the tensors, is never called

    def sources(self) -> Sequence[Tensor]:
        """Every tensor that :meth:`merge` computes with."""
        return self.c.weight, self.bn.weight, self.bn.bias, *self._statistics()

    def merge(self) -> tuple[Tensor, Tensor]:
        """Weight ``[out, in / groups, k, k]`` and bias ``[out]`` of the convolution."""
        mean, variance = self._statistics()
        scale = self.bn.weight * (variance + self.bn.eps).rsqrt()
        return self.c.weight * scale[:, None, None, None], self.bn.bias - mean * scale

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.bn.get_buffer("running_mean"), self.bn.get_buffer("running_var")


class TokenMixer(MergedConv):
    """The sum of a 3x3 depth-wise convolution, a 1x1 one, and what goes in."""

    def __init__(self, dim: int) -> None:
        super().__init__(stride=1, groups=dim)
        self.conv = ConvNorm(dim, dim, kernel=3, groups=dim)
        self.conv1 = ConvNorm(dim, dim, kernel=1, groups=dim)

    def sources(self) -> Sequence[Tensor]:
        """Every tensor that :meth:`merge` computes with."""
        return *self.conv.sources(), *self.conv1.sources()

    def merge(self) -> tuple[Tensor, Tensor]:
        """Weight ``[dim, 1, 3, 3]`` and bias ``[dim]`` of the convolution."""
        weight, bias = self.conv.merge()
        centre, more_bias = self.conv1.merge()
        return weight + F.pad(centre + 1, (1, 1, 1, 1)), bias + more_bias


class SqueezeExcite(nn.Module):
    """Weigh channels by what there is in the whole map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = _SQUEEZE_MULTIPLE // 2
        hidden = (dim // _SQUEEZE_RATIO + half) // _SQUEEZE_MULTIPLE * _SQUEEZE_MULTIPLE
        self.fc1 = Conv2d(dim, hidden, kernel_size=1)
        self.fc2 = Conv2d(hidden, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, dim, H, W]`` to the same shape."""
        weights = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
        return x * weights.to(x.dtype)


class ChannelMixer(nn.Module):
    """An MLP per place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, _MLP_RATIO * dim)
        self.conv2 = ConvNorm(_MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, dim, H, W]`` to the same shape."""
        return self.conv2(self.conv1(x, "gelu"))


class RepViTBlock(nn.Module):
    """Mix places, weigh channels where asked to, mix channels."""

    def __init__(self, dim: int, squeeze: bool) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(dim)
        self.se = SqueezeExcite(dim) if squeeze else nn.Identity()
        self.channel_mixer = ChannelMixer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, dim, H, W]`` to the same shape."""
        yield_point()
        x = self.se(self.token_mixer(x))
        return x + self.channel_mixer(x)


class Downsample(nn.Module):
    """From one stage to the next: half the resolution, other channels."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.pre_block = RepViTBlock(dim, squeeze=False)
        self.spatial_downsample = ConvNorm(dim, dim, kernel=3, stride=2, groups=dim)
        self.channel_downsample = ConvNorm(dim, dim_out)
        self.ffn = ChannelMixer(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, dim, H, W]`` to ``[B, dim_out, H/2, W/2]``."""
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)


class Stage(nn.Module):
    """Blocks of one resolution; every other one weighs channels."""

    def __init__(self, dim: int, dim_out: int, depth: int) -> None:
        super().__init__()
        self.downsample = Downsample(dim, dim_out) if dim != dim_out else nn.Identity()
        self.blocks = nn.Sequential(*(RepViTBlock(dim_out, i % 2 == 0) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, dim, H, W]`` to ``[B, dim_out, H/2, W/2]``, or H and W as they are."""
        return self.blocks(self.downsample(x))


class Stem(nn.Module):
    """Two convolutions from pixels to stride 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, dim // 2, kernel=3, stride=2)
        self.conv2 = ConvNorm(dim // 2, dim, kernel=3, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, dim, H/4, W/4]``."""
        return self.conv2(self.conv1(image, "gelu"))


class RepViT(nn.Module):
    """The trunk: an image to four feature maps of strides 4, 8, 16 and 32."""

    def __init__(self, config: RepViTConfig) -> None:
        super().__init__()
        dims = (config.channels[0], *config.channels)
        stages = (
            (f"stages_{i}", Stage(dims[i], dims[i + 1], depth))
            for i, depth in enumerate(config.depths)
        )
        self.body = nn.Sequential(OrderedDict([("stem", Stem(dims[0])), *stages]))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Encode.

        Args:
            image: ``[B, 3, S, S]``, normalised; S a multiple of 32.

        Returns:
            Maps ``[B, channels, S/s, S/s]`` for s = 4, 8, 16, 32, channels last in memory.
        """
        x = image.contiguous(memory_format=torch.channels_last)
        maps = []
        for part in self.body:
            x = part(x)
            maps.append(x)
        return maps[1:]  # without the stem's
