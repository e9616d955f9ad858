"""Time of an image embedding, beside the official ``sam2`` package and ``transformers``.

    python -m benchmarks.speed.embedding [--variants NAME ...] [--rounds 3] [--out FILE]

All encode the same image with the same random weights, in turns. Errors are those of the features
of stride 16 against the official ones in float32, as a fraction of their root mean square; in
bfloat16 the peer's own error stands beside ours. ``transformers`` is an optional peer; without it
its rows say so.

EdgeTAM is compared with that of ``transformers``, whose trunk is ``timm``'s, and with SAM 2.1 tiny,
ours and the official one, which have other weights and so no errors to compare.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.support import edgetam_peer, timm_stand_in, transformers_peer
from benchmarks.support.pairing import compared, load, machine, take_turns
from benchmarks.support.reference import Pair, draw_weights, make_pair
from benchmarks.support.table import earlier_rows, table
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HEAD = (
    "variant",
    "dtype",
    "peer",
    "ours, s",
    "peer, s",
    "times faster",
    "ours, CPU s",
    "peer, CPU s",
    "times less CPU",
    "error, ours",
    "error, peer",
    "load",
)


Encode = Callable[[Tensor], Tensor]
TINY = "sam2.1_hiera_tiny"  # what EdgeTAM is compared with


def rows(
    variant: str, rounds: int, *, size: int | None = None, transformers: bool | None = None
) -> Iterator[list[str]]:
    """A row per dtype and peer.

    Args:
        size: side of the square input in pixels; the variant's own where None.
        transformers: whether it is a peer; whether it is installed where None.
    """
    size = VARIANTS[variant].image_size if size is None else size
    if variant == edgetam_peer.NAME:
        encoders, official = _edgetam_encoders(size, transformers)
    else:
        encoders, official = _encoders(variant, size, transformers)
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    same_weights = {"ours", "sam2", "transformers"}
    expected = encoders[official](image)
    for name, dtype in DTYPES.items():
        runs = {each: lambda encode=encode: encode(image) for each, encode in encoders.items()}
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            timings, features = take_turns(runs, rounds)
        for peer in dict.fromkeys([*list(encoders)[1:], "transformers"]):
            if peer not in runs:
                yield [variant, name, peer, "not installed", *([""] * (len(HEAD) - 4))]
                continue
            errors = [relative_rms(features[which], expected) for which in ("ours", peer)]
            if peer not in same_weights:
                errors[1] = ""
            yield [variant, name, peer, *compared(timings, "ours", peer), *errors, load()]


def _encoders(variant: str, size: int, transformers: bool | None) -> tuple[dict[str, Encode], str]:
    """Who encodes an image, ours first; and whose features count as right."""
    pair = make_pair(variant, size)
    encoders: dict[str, Encode] = {"ours": _ours(pair.ours), "sam2": _official(pair)}
    if transformers_peer.is_installed() if transformers is None else transformers:
        weights = pair.official.state_dict()
        encoders["transformers"] = transformers_peer.build_encoder(variant, size, weights)
    return encoders, "sam2"


def _edgetam_encoders(size: int, transformers: bool | None) -> tuple[dict[str, Encode], str]:
    """The same for EdgeTAM."""
    tiny = make_pair(TINY, size)
    others = {f"our {TINY}": _ours(tiny.ours), f"sam2 {TINY}": _official(tiny)}
    if not (timm_stand_in.is_installed() if transformers is None else transformers):
        model = SAM2(VARIANTS[edgetam_peer.NAME], size).eval()
        model.load_state_dict(draw_weights(model.state_dict(), seed=0))
        return {"ours": _ours(model), **others}, "ours"
    pair = edgetam_peer.make_pair(size)
    torch.nn.init.zeros_(pair.peer.no_memory_embedding)  # part of the embedding there

    def peer(image: Tensor) -> Tensor:
        features: Tensor = pair.peer.get_image_embeddings(image)[-1]
        return features

    return {"ours": _ours(pair.ours), "transformers": peer, **others}, "transformers"


def _ours(model: SAM2) -> Encode:
    def encode(image: Tensor) -> Tensor:
        with as_served(model):
            return model.encode_image(image).embedding

    return encode


@contextmanager
def as_served(model: SAM2) -> Iterator[None]:
    """A context in which ours computes as it does for the service, without autocast, in the number
    format of the autocast around it."""
    half = torch.is_autocast_enabled("cpu")
    model.compute_dtype = torch.get_autocast_dtype("cpu") if half else torch.float32
    with torch.autocast("cpu", enabled=False), model.inference():
        yield


def _official(pair: Pair) -> Encode:
    def encode(image: Tensor) -> Tensor:
        features: Tensor = pair.official.forward_image(image)["backbone_fpn"][2]
        return features

    return encode


def relative_rms(features: Tensor, expected: Tensor) -> str:
    """The difference, as a fraction of the root mean square of what is expected."""
    difference = (features.float() - expected).square().mean().sqrt()
    return f"{float(difference / expected.square().mean().sqrt()):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    variants = [TINY, "sam2.1_hiera_base_plus", edgetam_peer.NAME]
    parser.add_argument("--variants", nargs="+", default=variants)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the other rows of --out")
    arguments = parser.parse_args()
    earlier = arguments.out if arguments.add else None
    measured = earlier_rows(earlier, HEAD, arguments.variants)
    with torch.inference_mode():
        for variant in arguments.variants:
            for row in rows(variant, arguments.rounds):
                print(*row, flush=True)
                measured.append(row)
    text = (
        "# The time of an image embedding\n\n"
        f"Medians at 1024 pixels, rounds: {arguments.rounds}. {machine()}. Where others use the "
        "machine (load above\nthe number of threads), CPU seconds say more than seconds. Printed "
        "by `python -m benchmarks.speed.embedding`, whose head says\nwhat is compared.\n\n"
        f"{table(HEAD, measured)}\n"
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
