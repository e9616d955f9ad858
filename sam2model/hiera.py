"""Hiera, the image encoder's trunk (Ryali et al. 2023, arXiv 2306.00989).

A vision transformer in four stages. Attention is local to windows except in a few global
blocks; the first block of stages 2 to 4 halves the resolution by pooling its queries, and
doubles channels and heads. Positions are a small learned map stretched over the image plus
a learned map repeated in every window (Bolya et al. 2023, arXiv 2311.05613).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.dot_product import dot_product_attention
from sam2model.inference_weights import Derived, compute_dtype
from sam2model.layers import MLP, Conv2d, LayerNorm, Linear
from sam2model.variants import TrunkConfig

_NORM_EPS = 1e-6
# Tokens of the first stage that a CPU takes at a time where attention is local: few enough for
# everything computed from them to stay in its caches and in memory already allocated.
_TOKENS_PER_STRIP = 8192


class PatchEmbed(nn.Module):
    """Overlapping 7x7 patches every 4 pixels."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = Conv2d(3, embed_dim, kernel_size=7, stride=4, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, H/4, W/4, embed_dim]``."""
        return self.proj(image).permute(0, 2, 3, 1)


class MultiScaleAttention(nn.Module):
    """Self-attention over a map of tokens, with queries pooled 2x2 where ``pool`` is set."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, pool: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pool = pool
        self.qkv = Linear(dim, 3 * dim_out)
        self.proj = Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, dim]`` to ``[B, H, W, dim_out]``, H and W halved by pooling."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pool:
            q = max_pool_2x2(q)
        height, width = q.shape[1:3]
        out = dot_product_attention(
            self._split_heads(q), self._split_heads(k), self._split_heads(v)
        )
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (height, width)))

    def _split_heads(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, heads, H * W, C / heads]``."""
        return x.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class MultiScaleBlock(nn.Module):
    """Transformer block over windows (``window_size > 0``) or the whole map (0)."""

    def __init__(
        self, dim: int, dim_out: int, num_heads: int, window_size: int, pool: bool
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.pool = pool
        self.norm1 = LayerNorm(dim, eps=_NORM_EPS)
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, pool)
        self.norm2 = LayerNorm(dim_out, eps=_NORM_EPS)
        self.mlp = MLP(dim_out, 4 * dim_out, dim_out, num_layers=2, activation="gelu")
        # Only blocks that widen have a projection on their shortcut (and in checkpoints).
        self.proj = Linear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, dim]`` to ``[B, H, W, dim_out]``, H and W halved by pooling.

        Takes maps, and single windows too, each as a map of its size.
        """
        shortcut = x
        x = self.norm1(x)
        x = x.to(compute_dtype(x))
        if self.proj is not None:
            shortcut = self.proj(x)
            if self.pool:
                shortcut = max_pool_2x2(shortcut)
        x = shortcut + self._attend(x, shortcut.shape[1], shortcut.shape[2])
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, height_out: int, width_out: int) -> Tensor:
        if self.window_size == 0 or x.shape[1:3] == (self.window_size, self.window_size):
            return self.attn(x)
        batch = x.shape[0]
        windows, rows = split_into_windows(x, self.window_size)
        windows = self.attn(windows)
        return join_windows(windows, batch, rows)[:, :height_out, :width_out]


class Hiera(nn.Module):
    """The trunk: an image to four feature maps of strides 4, 8, 16 and 32."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        embed_dim = config.embed_dim
        window = config.window_spec[0]
        self.patch_embed = PatchEmbed(embed_dim)
        self.pos_embed = nn.Parameter(
            torch.zeros(1, embed_dim, *config.window_pos_embed_bkg_spatial_size)
        )
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window, window))
        self.blocks = nn.ModuleList()
        self._position: Derived[Tensor] = Derived()
        self.stage_ends: list[int] = []
        dim, heads = embed_dim, config.num_heads
        for stage, depth in enumerate(config.stages):
            for i in range(depth):
                opens_stage = stage > 0 and i == 0
                dim_out = 2 * dim if opens_stage else dim
                heads = 2 * heads if opens_stage else heads
                # The opening block still sees the finer map, so it takes the windows of
                # the stage before; pooling its queries brings them to this stage's size.
                window = config.window_spec[stage - 1 if opens_stage else stage]
                if len(self.blocks) in config.global_att_blocks:
                    window = 0
                self.blocks.append(MultiScaleBlock(dim, dim_out, heads, window, opens_stage))
                dim = dim_out
            self.stage_ends.append(len(self.blocks) - 1)
        # The windows of stages 1 and 2 are the same pieces of the image, and those in which the
        # block after them, the opening one of stage 3, attends.
        self.local_window = config.window_spec[0]
        self.num_local_blocks = self.stage_ends[1] + 2

    def forward(self, image: Tensor) -> list[Tensor]:
        """Encode.

        Args:
            image: ``[B, 3, S, S]``, normalised; S a multiple of 32.

        Returns:
            Four maps ``[B, C, S/4, S/4]``, ``[B, 2C, S/8, S/8]``, ``[B, 4C, S/16, S/16]``,
            ``[B, 8C, S/32, S/32]``.
        """
        x = self.patch_embed(image)
        x = x + self._position_embedding(x.shape[1], x.shape[2])
        strips = [self._local_stages(strip) for strip in x.split(self._strip_height(x), dim=1)]
        stride_4, stride_8, x = (torch.cat(maps, dim=1) for maps in zip(*strips, strict=True))
        maps = [stride_4, stride_8]
        if self.num_local_blocks - 1 in self.stage_ends:
            maps.append(x)
        for i, block in enumerate(self.blocks[self.num_local_blocks :], self.num_local_blocks):
            x = block(x)
            if i in self.stage_ends:
                maps.append(x)
        return [x.permute(0, 3, 1, 2) for x in maps]

    def _strip_height(self, x: Tensor) -> int:
        """Rows of the first map that go through the local stages together."""
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return x.shape[1]
        row_of_windows = self.local_window * x.shape[0] * x.shape[2]
        return self.local_window * max(1, _TOKENS_PER_STRIP // row_of_windows)

    def _local_stages(self, strip: Tensor) -> list[Tensor]:
        """Stages 1 and 2 and the opening block of stage 3, on rows of whole windows.

        Tokens are put in the order of windows once and stay so.

        Args:
            strip: ``[B, h, W, C]``.

        Returns:
            The maps at the end of stage 1, of stage 2, and after the opening block.
        """
        batch = strip.shape[0]
        windows, rows = split_into_windows(strip, self.local_window)
        maps = []
        for i, block in enumerate(self.blocks[: self.num_local_blocks]):
            windows = block(windows)
            if i in self.stage_ends or i == self.num_local_blocks - 1:
                maps.append(join_windows(windows, batch, rows))
        return maps

    def _position_embedding(self, height: int, width: int) -> Tensor:
        """``[1, height, width, embed_dim]``."""
        if torch.is_grad_enabled():
            return self._stretched_positions(height, width)
        return self._position.get(
            (self.pos_embed, self.pos_embed_window),
            (height, width),
            lambda: self._stretched_positions(height, width).contiguous(),
        )

    def _stretched_positions(self, height: int, width: int) -> Tensor:
        background = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic")
        window = self.pos_embed_window
        tiles = window.tile(1, 1, height // window.shape[2], width // window.shape[3])
        return (background + tiles).permute(0, 2, 3, 1)


def max_pool_2x2(x: Tensor) -> Tensor:
    """Pool a channels-last map: ``[B, H, W, C]`` to ``[B, H/2, W/2, C]``.

    Written as maxima of slices: ``max_pool2d`` wants channels first, and is reported to
    read strided input wrongly on Apple's MPS in torch 2.7.
    """
    x = torch.maximum(x[:, 0::2], x[:, 1::2])
    return torch.maximum(x[:, :, 0::2], x[:, :, 1::2])


def split_into_windows(x: Tensor, size: int) -> tuple[Tensor, int]:
    """Cut a map into windows, padding it with zeros at the right and at the bottom.

    The zeros take part in attention, as in the reference.

    Args:
        x: ``[B, H, W, C]``.
        size: side of a window.

    Returns:
        Windows ``[B * rows * columns, size, size, C]``, and the number of rows of windows.
    """
    _, height, width, _ = x.shape
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    rows = x.shape[1]
    return x.transpose(2, 3).flatten(0, 2), rows


def join_windows(windows: Tensor, batch: int, rows: int) -> Tensor:
    """Undo :func:`split_into_windows`; the padding stays.

    Args:
        windows: ``[B * rows * columns, size, size, C]``.
        batch: B.
        rows: rows of windows.

    Returns:
        ``[B, rows * size, columns * size, C]``.
    """
    x = windows.unflatten(0, (batch, rows, -1))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
