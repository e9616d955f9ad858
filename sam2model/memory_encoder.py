"""Memory encoder: a frame's features and the object's mask to a spatial memory."""

import torch
from torch import Tensor, nn

from sam2model.layers import Conv2d, LayerNorm2d, Linear
from sam2model.yield_point import yield_point

_NUM_FUSER_BLOCKS = 2
_LAYER_SCALE = 1e-6
_NUM_HALVINGS = 4  # from the image's pixels to the embedding's cells of 16 x 16


class MaskDownSampler(nn.Module):
    """Four strided convolutions, each with four times the channels of the one before."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(_NUM_HALVINGS):
            out = 4 ** (i + 1)
            layers += [
                Conv2d(4**i, out, kernel_size=3, stride=2, padding=1),
                LayerNorm2d(out),
                nn.GELU(),
            ]
        layers.append(Conv2d(4**_NUM_HALVINGS, embed_dim, kernel_size=1))
        self.encoder = nn.Sequential(*layers)

    def forward(self, mask: Tensor) -> Tensor:
        """Map ``[B, 1, 16h, 16w]`` to ``[B, embed_dim, h, w]``."""
        return self.encoder(mask)


class CXBlock(nn.Module):
    """ConvNeXt block (Liu et al. 2022): depth-wise 7x7, then a per-position MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = Linear(dim, 4 * dim)
        self.pwconv2 = Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), _LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Update ``[B, dim, h, w]``."""
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.pwconv1(y, "gelu"))
        return x + y.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """Two ConvNeXt blocks."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CXBlock(dim) for _ in range(_NUM_FUSER_BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """Update ``[B, dim, h, w]``."""
        for layer in self.layers:
            yield_point()
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Fuse the mask into the features and narrow them to ``out_dim`` channels."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownSampler(dim)
        self.pix_feat_proj = Conv2d(dim, dim, kernel_size=1)
        self.fuser = Fuser(dim)
        self.out_proj = Conv2d(dim, out_dim, kernel_size=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Encode.

        Args:
            features: ``[B or 1, dim, h, w]``, the frame's features without any memory in
                them; one frame serves all objects.
            mask: ``[B, 1, 16h, 16w]``, scaled mask probabilities.

        Returns:
            ``[B, out_dim, h, w]``.
        """
        fused = self.pix_feat_proj(features) + self.mask_downsampler(mask)
        return self.out_proj(self.fuser(fused))
