"""From an image to the tensor the network takes."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# Mean and standard deviation of ImageNet's RGB values in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# Of a picture on a GPU: 1 GB as float32.
_MOST_VALUES_AT_ONCE = 1 << 28


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse what is not an image.

    Raises:
        ValueError: not a uint8 array of shape [H, W, 3] with at least one pixel.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"an image must be a numpy array, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            "an image must be uint8 RGB of shape [H, W, 3], "
            f"not {image.dtype} of shape {list(image.shape)}"
        )
    if image.size == 0:
        raise ValueError(f"the image has no pixels: its shape is {list(image.shape)}")


def preprocess(
    image: NDArray[np.uint8],
    image_size: int,
    device: torch.device,
    upload: Callable[[NDArray[np.uint8]], Tensor] | None = None,
) -> Tensor:
    """Scale to [0, 1], stretch to a square, normalise by ImageNet's statistics.

    Equal to ``SAM2Transforms`` of the reference, whose ``torchvision`` resize of a float
    tensor is this antialiased bilinear interpolation. Channels are laid side by side as
    bytes, then go one by one, which bounds the float copy of a large image to a third.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        image_size: side S of the square.
        device: where the result is wanted; the resizing happens there too on CUDA.
        upload: brings the image to where it is resized; see :mod:`sam2model.transfer`.

    Returns:
        float32 ``[1, 3, S, S]``.

    Raises:
        ValueError: not such an image.
    """
    check_image(image)
    if upload is None:
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))
        pixels = pixels.to(device) if device.type == "cuda" else pixels
    else:
        pixels = upload(image)
    planes = pixels.permute(2, 0, 1).contiguous()
    # A GPU has room for all three at once, and a third of the kernels to launch.
    together = planes.device.type != "cpu" and planes.numel() <= _MOST_VALUES_AT_ONCE
    scaled = [_scaled(part, image_size) for part in planes.split(3 if together else 1)]
    square = torch.cat(scaled, dim=1) if len(scaled) > 1 else scaled[0]
    statistics = torch.tensor((_MEAN, _STD), dtype=torch.float32).view(2, 1, 3, 1, 1)
    mean, std = statistics.to(square.device, non_blocking=True)
    return ((square - mean) / std).to(device)


def _scaled(planes: Tensor, image_size: int) -> Tensor:
    """uint8 ``[C, H, W]`` as float32 ``[1, C, S, S]`` in [0, 1]."""
    scaled = planes[None].float().div_(255)
    if scaled.shape[2:] == (image_size, image_size):
        return scaled
    return F.interpolate(
        scaled,
        size=(image_size, image_size),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
