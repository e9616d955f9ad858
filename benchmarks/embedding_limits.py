"""How much faster an image embedding could still become on this machine, by a profile.

    python -m benchmarks.embedding_limits [--variants NAME ...] [--rounds 3] [--out FILE]

Every operator of one embedding is timed where it runs. Every matrix product is then repeated by
itself, with its operands as warm as they get and without anything that is fused to it: less
time than the sum of those is not possible with torch's kernels, even if all else took none. The
official package is timed in turns with ours, so that both limits can be told as "times faster".
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.embedding import DTYPES
from benchmarks.pairing import load, machine, take_turns
from benchmarks.reference import make_pair
from benchmarks.table import table
from sam2model.matrix_product import linear

LINEAR = "mkldnn::_linear_pointwise"
_GROUPS = {
    LINEAR: "matrix products",
    "aten::addmm": "matrix products",
    "aten::mm": "matrix products",
    "aten::mkldnn_convolution": "convolutions",
    "aten::bmm": "attention products",
    "aten::baddbmm": "attention products",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention (torch's kernel)",
    "aten::_softmax": "softmax",
    "aten::softmax": "softmax",
    "aten::native_layer_norm": "layer norm",
    "aten::copy_": "copies",
    "aten::add": "additions",
    "aten::add_": "additions",
}
HEAD = ("variant", "dtype", "what", "seconds", "share, %", "GFLOP", "GFLOP/s")
LIMITS = (
    "variant",
    "dtype",
    "sam2, s",
    "ours, s",
    "times faster",
    "products alone, s",
    "no more than x times faster",
    "large product, GFLOP/s",
    "load",
)


@dataclass(frozen=True)
class Product:
    """``[rows, inner] x [inner, columns]``."""

    rows: int
    inner: int
    columns: int

    @property
    def flop(self) -> float:
        return 2.0 * self.rows * self.inner * self.columns


@dataclass
class Group:
    """Operators of one kind in one embedding: seconds, and GFLOP where they multiply matrices."""

    seconds: float = 0.0
    gflop: float = 0.0


def profiled(run: Callable[[], object]) -> tuple[dict[str, Group], dict[Product, int]]:
    """The time of ``run`` by kind of operator, and the matrix products in it with their counts."""
    run()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
        run()
    groups: dict[str, Group] = defaultdict(Group)
    products: dict[Product, int] = defaultdict(int)
    for event in record.key_averages(group_by_input_shape=True):
        group = groups[_GROUPS.get(event.key, "everything else")]
        group.seconds += event.self_cpu_time_total * 1e-6
        product = _product(event.key, event.input_shapes)
        if product is not None:
            group.gflop += product.flop * event.count * 1e-9
            products[product] += event.count
    return dict(groups), dict(products)


def alone(product: Product, dtype: torch.dtype, repeats: int = 5) -> float:
    """Seconds of one product by itself: the best of some."""
    x = torch.randn(product.rows, product.inner, dtype=dtype)
    weight = torch.randn(product.columns, product.inner, dtype=dtype)
    best = math.inf
    for _ in range(repeats):
        begun = time.perf_counter()
        linear(x, weight)
        best = min(best, time.perf_counter() - begun)
    return best


def measure(
    variant: str, name: str, rounds: int, size: int | None = None
) -> tuple[list[list[str]], list[str]]:
    """The rows of the profile, and the row of the limits, of one variant in one dtype."""
    pair = make_pair(variant, size)
    size = pair.ours.image_size
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    dtype = DTYPES[name]
    runs: dict[str, Callable[[], Tensor]] = {
        "sam2": lambda: pair.official.forward_image(image)["backbone_fpn"][2],
        "ours": lambda: pair.ours.encode_image(image).embedding,
    }
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        timings, _ = take_turns(runs, rounds)
        groups, products = profiled(runs["ours"])
    theirs, ours = (timings[key].median_wall for key in ("sam2", "ours"))
    bare = sum(count * alone(product, dtype) for product, count in products.items())
    large = Product(4096, 1024, 4096)
    rate = large.flop / alone(large, dtype) * 1e-9
    limits = [variant, name, f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.2f}"]
    limits += [f"{bare:.2f}", f"{theirs / bare:.2f}", f"{rate:.0f}", load()]
    return list(_profile_rows(variant, name, groups)), limits


def _profile_rows(variant: str, name: str, groups: dict[str, Group]) -> Iterator[list[str]]:
    total = sum(group.seconds for group in groups.values())
    for what, group in sorted(groups.items(), key=lambda item: -item[1].seconds):
        rate = f"{group.gflop / group.seconds:.0f}" if group.gflop else ""
        share = 100 * group.seconds / total
        gflop = f"{group.gflop:.0f}" if group.gflop else ""
        yield [variant, name, what, f"{group.seconds:.3f}", f"{share:.0f}", gflop, rate]


def _product(key: str, shapes: Sequence[Sequence[int]]) -> Product | None:
    """What an operator multiplies; None for those that are no product with a weight."""
    if key == LINEAR:
        *rows, inner = shapes[0]
        return Product(math.prod(rows), inner, shapes[1][0])
    if key == "aten::mkldnn_convolution":
        # At most as fast as the product of its unfolded windows; its padding is ignored.
        batch, _, height, width = shapes[0]
        columns, inner, *kernel = shapes[1]
        side = math.prod(kernel)
        stride = _STRIDES.get(side, 1)
        return Product(batch * height * width // stride**2, inner * side, columns)
    if key in ("aten::addmm", "aten::mm"):
        first, second = shapes[-2:] if key == "aten::mm" else shapes[1:3]
        return Product(first[0], first[1], second[1])
    return None


# The only convolution with a stride is Hiera's patch embedding, 7 x 7 pixels.
_STRIDES = {49: 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    variants = ["sam2.1_hiera_tiny", "sam2.1_hiera_base_plus"]
    parser.add_argument("--variants", nargs="+", default=variants)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, help="side of the input, for a trial")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    profiles, limits = [], []
    with torch.inference_mode():
        for variant in arguments.variants:
            for name in DTYPES:
                parts, limit = measure(variant, name, arguments.rounds, arguments.size)
                profiles += parts
                limits.append(limit)
                print(*limit, flush=True)
    text = (
        "# What is left of the time of an image embedding\n\n"
        f"{machine()}. Printed by `python -m benchmarks.embedding_limits`, whose head says how the "
        "limit is found.\nThe outputs compared are those of "
        "[speed_embedding.md](speed_embedding.md), which has their errors.\n\n"
        f"{table(LIMITS, limits)}\n\n## One embedding of ours, by operator\n\n"
        f"{table(HEAD, profiles)}\n"
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
