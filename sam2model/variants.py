"""The model variants as data: one entry per published checkpoint, and "demo".

Values are those of Meta's configuration files: ``sam2/configs/sam2`` and ``sam2/configs/sam2.1``
of the ``sam2`` package, version 1.1.0, and ``sam2/configs/edgetam.yaml`` of EdgeTAM
(github.com/facebookresearch/EdgeTAM, commit 9cc44bfe).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """Shape of the Hiera trunk.

    Attributes:
        embed_dim: channels of the first stage; every later stage doubles them.
        num_heads: attention heads of the first stage; every later stage doubles them.
        stages: blocks per stage.
        global_att_blocks: indices of the blocks that attend to the whole map.
        window_spec: window side per stage, in tokens of that stage.
        window_pos_embed_bkg_spatial_size: size of the learned map stretched over the image.
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_att_blocks: tuple[int, ...]
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (7, 7)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps of strides 4, 8, 16 and 32."""
        dim = self.embed_dim
        return dim, 2 * dim, 4 * dim, 8 * dim


@dataclass(frozen=True, kw_only=True)
class RepViTConfig:
    """Shape of the RepViT trunk.

    Attributes:
        channels: of the four stages, whose maps have strides 4, 8, 16 and 32.
        depths: blocks per stage, besides those that lead from one stage to the next.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig:
    """Shape of the spatial perceiver, which makes a spatial memory smaller: the tokens of the
    global latents, then those of the local ones, row by row.

    Attributes:
        depth: layers.
        num_global_latents: tokens that look at the whole memory.
        local_side: the memory is cut into ``local_side`` x ``local_side`` windows, at each of
            which one more token looks.
    """

    depth: int = 2
    num_global_latents: int = 256
    local_side: int = 16


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model: everything that decides shapes and steps, nothing that decides weights.

    Attributes:
        trunk: the image encoder's trunk.
        image_size: side of the square the image is resized to, in pixels.
        d_model: channels of everything after the trunk.
        memory_layers: layers of the memory attention.
        memory_feedforward: hidden channels of their feed-forward blocks.
        memory_dropout: dropout inside them while training.
        occlusion_embedding: SAM 2.1's embedding added to the memory of frames on which the
            object is absent (``no_obj_embed_spatial`` in Meta's configuration).
        pointer_time_encoding: SAM 2.1's encoding of the signed time difference of object
            pointers (``add_tpos_enc_to_obj_ptrs``, ``proj_tpos_enc_in_obj_ptrs`` and
            ``use_signed_tpos_enc_to_obj_ptrs``, which the published models set together).
        perceiver: EdgeTAM's spatial perceiver; None where memory attention reads spatial
            memories as they are.
    """

    trunk: TrunkConfig | RepViTConfig
    image_size: int = 1024
    d_model: int = 256
    memory_layers: int = 4
    memory_feedforward: int = 2048
    memory_dropout: float = 0.1
    occlusion_embedding: bool = True
    pointer_time_encoding: bool = True
    perceiver: PerceiverConfig | None = None


_TINY = TrunkConfig(embed_dim=96, num_heads=1, stages=(1, 2, 7, 2), global_att_blocks=(5, 7, 9))
_SMALL = TrunkConfig(embed_dim=96, num_heads=1, stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13))
_BASE_PLUS = TrunkConfig(
    embed_dim=112,
    num_heads=2,
    stages=(2, 3, 16, 3),
    global_att_blocks=(12, 16, 20),
    window_pos_embed_bkg_spatial_size=(14, 14),
)
_LARGE = TrunkConfig(
    embed_dim=144,
    num_heads=2,
    stages=(2, 6, 36, 4),
    global_att_blocks=(23, 33, 43),
    window_spec=(8, 4, 16, 8),
)
_DEMO = TrunkConfig(
    embed_dim=48,
    num_heads=1,
    stages=(1, 2, 6, 1),
    global_att_blocks=(4, 5, 6, 7, 8),
    window_spec=(8, 4, 16, 8),
    window_pos_embed_bkg_spatial_size=(8, 8),
)


def _sam2(trunk: TrunkConfig) -> Variant:
    return Variant(trunk=trunk, occlusion_embedding=False, pointer_time_encoding=False)


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "sam2_hiera_tiny": _sam2(_TINY),
        "sam2_hiera_small": _sam2(_SMALL),
        "sam2_hiera_base_plus": _sam2(_BASE_PLUS),
        "sam2_hiera_large": _sam2(_LARGE),
        "sam2.1_hiera_tiny": Variant(trunk=_TINY),
        "sam2.1_hiera_small": Variant(trunk=_SMALL),
        "sam2.1_hiera_base_plus": Variant(trunk=_BASE_PLUS),
        "sam2.1_hiera_large": Variant(trunk=_LARGE),
        "edgetam": Variant(
            trunk=RepViTConfig(channels=(48, 96, 192, 384), depths=(2, 2, 14, 2)),
            memory_layers=2,
            occlusion_embedding=False,
            pointer_time_encoding=False,
            perceiver=PerceiverConfig(),
        ),
        "demo": Variant(
            trunk=_DEMO,
            image_size=256,
            d_model=128,
            memory_layers=2,
            memory_feedforward=512,
            memory_dropout=0.0,
        ),
    }
)


def get_variant(name: str) -> Variant:
    """Look a variant up by name.

    Raises:
        ValueError: no variant has that name; the message lists those there are.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        known = ", ".join(VARIANTS)
        raise ValueError(f"unknown model variant {name!r}; known variants: {known}") from None
