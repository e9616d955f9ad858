"""Find, download, verify, load and tell apart checkpoints."""

import hashlib
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sam2model.sam2 import SAM2
from sam2model.transformers_layout import from_transformers, is_transformers_layout
from sam2model.variants import VARIANTS, RepViTConfig, TrunkConfig, Variant

# Prefixes of the weights that image embeddings depend on. The two convolutions are the decoder's
# by name, but SAM2.encode_image applies them, once per image.
ENCODER_PREFIXES = ("image_encoder.", "sam_mask_decoder.conv_s0.", "sam_mask_decoder.conv_s1.")

_DEMO_WEIGHTS = Path(__file__).parent / "weights" / "demo.safetensors"
_MAX_NAMED_KEYS = 3

# What the readers raise on damaged files. Torch's unpickler takes bytes for instructions, and
# damaged ones fail in any of these ways.
_DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
)


class CheckpointError(Exception):
    """A checkpoint that cannot be found, fetched, read or used; the message is one line."""


@dataclass(frozen=True)
class PublishedWeights:
    """Where Meta publishes the weights of a variant.

    Attributes:
        repo: repository on the Hugging Face hub.
        filename: file in it.
        revision: commit of the repository; None for its main branch, where the commit is
            not known to us.
        sha256: digest of the file; None where ``git_blob`` stands for it. The file is checked
            after every download and load, so the weights are pinned with or without a revision.
        git_blob: the id that git gives the file: SHA-1 over ``blob``, its size, and its bytes.
        elsewhere: an address of the same file, where the hub might hold another.
    """

    repo: str
    filename: str
    revision: str | None
    sha256: str | None
    git_blob: str | None = None
    elsewhere: str | None = None

    def check(self, path: Path) -> None:
        """Do nothing if a file is the published one.

        Raises:
            CheckpointError: it is another.
        """
        with path.open("rb") as file:
            kind, expected = "SHA-256", self.sha256
            if expected is not None:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                kind, expected = "git blob id", self.git_blob
                header = f"blob {path.stat().st_size}\0".encode()
                digest = hashlib.file_digest(
                    file, lambda: hashlib.sha1(header, usedforsecurity=False)
                ).hexdigest()
        if digest != expected:
            fetch = "delete it to download it again" if self.elsewhere is None else self.elsewhere
            raise CheckpointError(
                f"{path} is not the published {self.filename}: its {kind} is {digest}, "
                f"expected {expected}; {fetch}, or pass a file you trust as checkpoint="
            )


def _published(name: str, revision: str | None, sha256: str) -> PublishedWeights:
    return PublishedWeights(
        f"facebook/{name.replace('_', '-')}",
        f"{name}.pt",
        revision,
        sha256,
    )


# Digests are those of Meta's own downloads (072824 and 092824), with which the files on the
# hub agree. Revisions are commits at which the hub's repositories are known to hold the file;
# for sam2-hiera-base-plus no commit could be confirmed, so its digest alone pins it.
PUBLISHED: Mapping[str, PublishedWeights] = MappingProxyType(
    {
        name: _published(name, revision, sha256)
        for name, revision, sha256 in (
            (
                "sam2_hiera_tiny",
                "7c218beaf0bb87874785f32b582f640134fc1c09",
                "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
            ),
            (
                "sam2_hiera_small",
                "e080ada8afd19df5e165abe71b006edc7f4c3d4e",
                "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
            ),
            (
                "sam2_hiera_base_plus",
                None,
                "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
            ),
            (
                "sam2_hiera_large",
                "e6a8e8809b8f1bfa2238b6d080f3d05cc76bd251",
                "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
            ),
            (
                "sam2.1_hiera_tiny",
                "de431c4043854a71d8101e17995dfe596bf101a5",
                "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
            ),
            (
                "sam2.1_hiera_small",
                "ee5bba1d82bb8749febdf90f45e84b687142ba03",
                "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
            ),
            (
                "sam2.1_hiera_base_plus",
                "b7320756a13354e7530a63935656d35b2f91a290",
                "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
            ),
            (
                "sam2.1_hiera_large",
                "665f8e2ad61cf5f53d65644ff27c8ee525124610",
                "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
            ),
        )
    }
    # No SHA-256 of it is published; git's id of the file in Meta's repository is.
    | {
        "edgetam": PublishedWeights(
            "facebook/EdgeTAM",
            "edgetam.pt",
            None,
            sha256=None,
            git_blob="abd54d22bbd22ba3e53cf59a307e59e0f3701be6",
            elsewhere="download https://github.com/facebookresearch/EdgeTAM/raw/"
            "9cc44bfe9e16cc374242917b91283c718410ea87/checkpoints/edgetam.pt and pass its path",
        )
    }
)


def find_checkpoint(name: str, checkpoint: str | PathLike[str] | None = None) -> Path:
    """The file to load: the given one, or the published one, downloaded if need be.

    Downloads go through ``huggingface_hub``: its cache, progress bar and environment
    variables (``HF_HOME``, ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``) apply.

    Args:
        name: of a variant.
        checkpoint: a path, or None for the published weights.

    Raises:
        CheckpointError: no such file, or it cannot be fetched, or not what was published.
    """
    if checkpoint is not None:
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            reason = "it is a directory" if path.is_dir() else "there is no such file"
            raise CheckpointError(f"cannot load checkpoint {path}: {reason}")
        return path
    if name == "demo":
        return _DEMO_WEIGHTS
    published = PUBLISHED[name]
    path = _download(published)
    published.check(path)
    return path


def _download(published: PublishedWeights) -> Path:
    try:
        return Path(
            hf_hub_download(published.repo, published.filename, revision=published.revision)
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"cannot download {published.filename} from huggingface.co/{published.repo}, and "
            "it is not in the local cache: no network, or HF_HUB_OFFLINE is set; download it "
            "on a machine with network and pass its path as checkpoint= (SAM2_CHECKPOINT in the "
            "service)"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot download {published.filename} from huggingface.co/{published.repo}: "
            f"{reason}; or pass the path of a downloaded file as checkpoint= (SAM2_CHECKPOINT in "
            "the service)"
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint file without running code from it.

    Args:
        path: a ``.safetensors`` file, or a pickle holding a state dict or
            ``{"model": state_dict}``.

    Raises:
        CheckpointError: unreadable, damaged, or something else than a state dict.
    """
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"cannot load checkpoint {path}: there is no such file") from None
    except _DAMAGED as error:
        raise CheckpointError(
            f"cannot load checkpoint {path}: the file is damaged, cut short, or no checkpoint "
            f"({type(error).__name__}); fetch it again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot load checkpoint {path}: {error.strerror}") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if (
        not isinstance(content, dict)
        or not content
        or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
        )
    ):
        raise CheckpointError(
            f"cannot load checkpoint {path}: it holds no state dict, neither bare nor "
            "under the key 'model'"
        )
    return content


def load_checkpoint(model: SAM2, path: Path, name: str) -> None:
    """Load a checkpoint file into a model, strictly.

    Args:
        model: built for the variant called ``name``.
        path: see :func:`read_state_dict`.
        name: of the variant, for the error message.

    Raises:
        CheckpointError: unreadable, or of another model; the message says which.
    """
    state_dict = read_state_dict(path)
    expected = model.state_dict()
    if is_transformers_layout(state_dict):
        state_dict = from_transformers(state_dict, expected)
    misfits = [
        key
        for key in sorted(expected.keys() | state_dict.keys())
        if key not in expected
        or key not in state_dict
        or expected[key].shape != state_dict[key].shape
    ]
    if misfits:
        raise CheckpointError(
            f"checkpoint {path} does not fit {name}: {_advice(state_dict, name, misfits)}"
        )
    model.load_state_dict(state_dict, strict=True)


def _advice(state_dict: Mapping[str, Tensor], name: str, misfits: list[str]) -> str:
    """What the file looks like, and what to do; one line."""
    likely = identify(state_dict)
    if likely is not None and likely != name:
        return f"it looks like {likely}; pass {likely!r} as the variant, or another file"
    if any(key.startswith("vision_encoder.") for key in state_dict):
        return (
            "it looks like a conversion for the transformers library; "
            "use Meta's original .pt file of the same model"
        )
    if any(key.startswith("image_encoder.blocks.") for key in state_dict):
        return "it looks like the first SAM, not SAM 2"
    shown = ", ".join(misfits[:_MAX_NAMED_KEYS])
    more = f" and {len(misfits) - _MAX_NAMED_KEYS} more" if len(misfits) > _MAX_NAMED_KEYS else ""
    kind = "it looks like an unknown model" if likely is None else f"it looks like {likely}"
    return f"{kind}, but these tensors are missing, unexpected or of another shape: {shown}{more}"


def identify(state_dict: Mapping[str, Tensor]) -> str | None:
    """Which variant a state dict looks like: size by the trunk, generation by its keys."""
    if is_transformers_layout(state_dict):
        return "edgetam"
    for name, variant in VARIANTS.items():
        if _trunk_matches(state_dict, variant) and variant.occlusion_embedding == (
            "no_obj_embed_spatial" in state_dict
        ):
            return name
    return None


def _trunk_matches(state_dict: Mapping[str, Tensor], variant: Variant) -> bool:
    no_memory = state_dict.get("no_mem_embed")
    if no_memory is None or no_memory.shape[-1] != variant.d_model:
        return False
    if isinstance(variant.trunk, RepViTConfig):
        return _repvit_matches(state_dict, variant.trunk)
    return _hiera_matches(state_dict, variant.trunk)


def _repvit_matches(state_dict: Mapping[str, Tensor], trunk: RepViTConfig) -> bool:
    stem = state_dict.get("image_encoder.trunk.body.stem.conv2.c.weight")
    return stem is not None and stem.shape[0] == trunk.channels[0]


def _hiera_matches(state_dict: Mapping[str, Tensor], trunk: TrunkConfig) -> bool:
    patch = state_dict.get("image_encoder.trunk.patch_embed.proj.weight")
    depth = sum(
        key.startswith("image_encoder.trunk.blocks.") and key.endswith(".norm1.weight")
        for key in state_dict
    )
    return patch is not None and patch.shape[0] == trunk.embed_dim and depth == sum(trunk.stages)


def encoder_digest(state_dict: Mapping[str, Tensor]) -> str:
    """A digest of the weights that image embeddings depend on.

    Models that differ in other weights only have the same digest, and the same embeddings.

    Args:
        state_dict: of a model.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        if name.startswith(ENCODER_PREFIXES):
            values = state_dict[name].detach().cpu().float().contiguous().numpy()
            digest.update(f"{name} {values.shape}\n".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()[:32]
