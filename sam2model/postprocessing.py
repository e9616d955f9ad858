"""From mask logits to masks at the size of the image."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Pixels upsampled at once; in float32, four times as many bytes. A GPU has room for more, and
# launches two kernels for each band.
_BAND_PIXELS = 8_000_000
_BAND_PIXELS_GPU = 64_000_000


def resize_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample logits bilinearly and threshold them at 0.

    Works in bands of rows, so that the float copy stays small next to the masks
    themselves, however large the image. Bilinear interpolation is separable: rows first,
    then columns band by band, gives what doing both at once gives.

    Args:
        logits: ``[M, h, w]``.
        size: height H and width W of the image.

    Returns:
        bool ``[M, H, W]``, on the device of the logits.
    """
    height, width = size
    num_masks, _, low_width = logits.shape
    masks = logits.new_empty((num_masks, height, width), dtype=torch.bool)
    tall = _interpolate(logits.float(), height, low_width)
    pixels = _BAND_PIXELS if logits.device.type == "cpu" else _BAND_PIXELS_GPU
    rows = max(1, pixels // (max(num_masks, 1) * width))
    for top in range(0, height, rows):
        band = tall[:, top : top + rows]
        torch.gt(_interpolate(band, band.shape[1], width), 0, out=masks[:, top : top + rows])
    return masks


def first_that_holds(logits: Tensor, size: tuple[int, int], pixels: Tensor, held: Tensor) -> Tensor:
    """Which mask agrees with given pixels, found without upsampling any.

    Args:
        logits: ``[B, M, h, w]``.
        size: height H and width W of the image.
        pixels: int ``[N, 2]``, column and row in the image.
        held: bool ``[N]``, whether a mask is to hold each of them.

    Returns:
        int ``[B]``, the first mask that holds what it should; 0 where none does.
    """
    height, width = size
    sides = torch.tensor((width, height), dtype=torch.float32)
    places = (2 * (pixels.float() + 0.5) / sides - 1).to(logits.device, non_blocking=True)
    grid = places.view(1, 1, -1, 2).expand(len(logits), -1, -1, -1)
    values = F.grid_sample(
        logits, grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, :, 0]
    agrees = ((values > 0) == held.to(logits.device, non_blocking=True)).all(dim=2)
    return agrees.int().argmax(dim=1)


def _interpolate(logits: Tensor, height: int, width: int) -> Tensor:
    """``[M, h, w]`` to ``[M, height, width]``."""
    return F.interpolate(logits[None], size=(height, width), mode="bilinear", align_corners=False)[
        0
    ]
