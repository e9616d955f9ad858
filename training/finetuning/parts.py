"""Which weights a fine-tuning changes."""

from __future__ import annotations

from enum import StrEnum

from sam2model.checkpoints import ENCODER_PREFIXES
from sam2model.sam2 import SAM2

_DECODER = ("sam_mask_decoder.",)
_PRESENCE = "sam_mask_decoder.pred_obj_score_head."
_MEMORY = (
    "memory_attention.",
    "memory_encoder.",
    "spatial_perceiver.",
    "mask_downsample.",
    "maskmem_tpos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)


class What(StrEnum):
    """What is trained."""

    DECODER = "decoder"
    DECODER_AND_MEMORY = "decoder+memory"
    ALL = "all"


def trained_names(model: SAM2, what: What) -> list[str]:
    """Names of the parameters that are trained, in the order of the model.

    The head that says whether the object is there stays as it is, but for ``ALL``: annotations
    show where objects are, hardly ever where one is not, and it would learn to say yes always.
    """
    names = [name for name, _ in model.named_parameters()]
    if what is What.ALL:
        return names
    wanted = _DECODER if what is What.DECODER else (*_DECODER, *_MEMORY)
    return [
        name
        for name in names
        if name.startswith(wanted) and not name.startswith((*ENCODER_PREFIXES, _PRESENCE))
    ]
