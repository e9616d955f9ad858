"""The four position encodings of SAM 2.

* 2-D sine encoding of feature maps (DETR's), for memory attention and memories.
* Random Fourier encoding of image coordinates (SAM's), for prompts and the decoder.
* Axial rotary encoding (RoPE), inside memory attention.
* 1-D sine encoding of time differences, for object pointers.

The first three depend only on the size of the feature map: callers compute them once
per model and keep them as buffers.
"""

import math

import torch
from torch import Tensor, nn

_TEMPERATURE = 10_000.0


def _wavelengths(channels: int, device: torch.device | None = None) -> Tensor:
    """Wavelengths ``[channels]`` of a sine encoding; each is used for a sine and a cosine."""
    pair = torch.arange(channels, dtype=torch.float32, device=device) // 2
    return _TEMPERATURE ** (2 * pair / channels)


def sine_position_encoding(channels: int, height: int, width: int) -> Tensor:
    """Sine encoding of a feature map, normalised so that each side spans 2 pi.

    Half of the channels encode y, the other half x; in each half sines and cosines alternate
    (``PositionEmbeddingSine`` with ``normalize=True`` in the reference).

    Args:
        channels: channels of the encoding; a multiple of 4.
        height: rows of the feature map.
        width: columns of the feature map.

    Returns:
        float32 ``[1, channels, height, width]``, values in [-1, 1].
    """
    half = channels // 2
    wavelengths = _wavelengths(half)

    def encode(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, dtype=torch.float32)
        phase = (steps / (length + 1e-6) * 2 * math.pi)[:, None] / wavelengths
        return torch.stack((phase[:, 0::2].sin(), phase[:, 1::2].cos()), dim=2).flatten(1)

    y = encode(height)[:, None, :].expand(height, width, half)
    x = encode(width)[None, :, :].expand(height, width, half)
    return torch.cat((y, x), dim=2).permute(2, 0, 1)[None].contiguous()


def sine_time_encoding(differences: Tensor, channels: int) -> Tensor:
    """Sine encoding of time differences, sines first and cosines after.

    Args:
        differences: float ``[N]``, time differences divided by the longest possible one.
        channels: channels of the encoding; even.

    Returns:
        float32 ``[N, channels]``.
    """
    phase = differences[:, None] / _wavelengths(channels // 2, differences.device)
    return torch.cat((phase.sin(), phase.cos()), dim=1)


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier encoding of points in the image plane (Tancik et al. 2020; SAM).

    The frequencies are drawn once, at training, and travel in the checkpoint.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_pos_feats))

    def forward(self, xy: Tensor) -> Tensor:
        """Encode points.

        Computed in float32 even under autocast, unlike the reference: bfloat16 has 8 bits
        of mantissa, which would round a coordinate to about 1/256 of the image.

        Args:
            xy: float ``[..., 2]``, as fractions of width and height in [0, 1].

        Returns:
            float32 ``[..., 2 * num_pos_feats]``.
        """
        x, y = (2 * xy.float() - 1).split(1, dim=-1)
        frequencies = self.positional_encoding_gaussian_matrix.float()
        # A product of 2 terms, spelled out: autocast would compute a matmul in half precision.
        phase = 2 * math.pi * (x * frequencies[0] + y * frequencies[1])
        return torch.cat((phase.sin(), phase.cos()), dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """Encode the centres of the cells of a grid: float32 ``[1, C, height, width]``."""
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return self(xy).permute(2, 0, 1)[None].contiguous()


def axial_rope(channels: int, height: int, width: int, theta: float = 10_000.0) -> Tensor:
    """Rotation of every token of a feature map, for :func:`apply_rope`.

    The first half of the channel pairs turns with x, the second half with y ("axial" RoPE,
    Heo et al. 2024).

    Args:
        channels: channels of one attention head; a multiple of 4.
        height: rows of the feature map.
        width: columns of the feature map.
        theta: base of the geometric series of frequencies.

    Returns:
        float32 ``[height * width, channels / 2, 2]``: cosine and sine, tokens row by row.
    """
    frequencies = theta ** (-torch.arange(0, channels, 4, dtype=torch.float32) / channels)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )
    angles = torch.cat(
        (torch.outer(x.flatten(), frequencies), torch.outer(y.flatten(), frequencies)), dim=1
    )
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate pairs of neighbouring channels by the angle of their token.

    Done in float32, as in the reference, and as one product of complex numbers: eight times as
    fast on a CPU as spelling it out, and a third of the kernels on a GPU. Apple's MPS came late to
    complex numbers.

    Args:
        x: ``[..., N, C]`` queries or keys.
        rope: ``[N, C / 2, 2]`` from :func:`axial_rope`.

    Returns:
        ``[..., N, C]`` in the dtype of ``x``.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type != "mps":
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope))
    else:
        (even, odd), (cos, sin) = pairs.unbind(-1), rope.unbind(-1)
        rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).type_as(x)
