"""Which weights image embeddings depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# The two convolutions are the decoder's by name, but SAM2.encode_image applies them, once per
# image: an embedding holds what they made of it.
ENCODER = ("image_encoder.", "sam_mask_decoder.conv_s0.", "sam_mask_decoder.conv_s1.")


def encoder_digest(weights: Mapping[str, Tensor]) -> str:
    """Names the weights that embeddings depend on: the same for all that differ elsewhere only.

    Args:
        weights: state dict of a model.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        if name.startswith(ENCODER):
            values = weights[name].detach().cpu().float().contiguous().numpy()
            digest.update(f"{name} {values.shape}\n".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()[:32]
