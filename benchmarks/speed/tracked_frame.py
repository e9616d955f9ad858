"""Time of a tracked frame with a full memory, beside the official ``sam2`` package and others.

    python -m benchmarks.speed.tracked_frame [--objects 1 4 8] [--rounds 2] [--out FILE]
    python -m benchmarks.speed.tracked_frame --parts [--objects 4] [--dtypes bfloat16]

One step of tracking: the image encoder, then for every object memory attention over 7 spatial
memories and 16 pointers, mask decoder and memory encoder. The official package does the second part
object by object, as its ``SAM2VideoPredictor`` does. Memories are noise and weights random: time
does not depend on values. "differing" are the mask pixels that differ, of all.

EdgeTAM is compared with that of ``transformers``, object by object too, and with SAM 2.1 tiny, ours
and the official one, which have other weights and so no masks to compare.

``--parts`` tells what ours spends where.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.embedding import DTYPES, TINY, as_served
from benchmarks.support import edgetam_peer, timm_stand_in
from benchmarks.support.pairing import compared, load, machine, take_turns
from benchmarks.support.reference import Pair, make_pair
from benchmarks.support.table import earlier_rows, table
from sam2model.sam2 import (
    MAX_OBJECT_POINTERS,
    NUM_MASK_MEMORIES,
    SAM2,
    ObjectPointer,
    SpatialMemory,
)
from sam2model.variants import VARIANTS

_FRAME = 20
_LENGTH = 100  # of the video
SHOWN = (TINY, "sam2.1_hiera_base_plus", edgetam_peer.NAME)
HEAD = (
    "variant",
    "dtype",
    "objects",
    "peer",
    "ours, s",
    "peer, s",
    "times faster",
    "ours, CPU s",
    "peer, CPU s",
    "times less CPU",
    "differing",
    "load",
)
PARTS = ("embedding", "memory attention", "mask decoder", "memory encoder")


Runs = Mapping[str, Callable[[], Tensor]]  # by whose it is, ours first
Runners = Callable[[int], Runs]  # for a number of objects


class Frame:
    """One frame to be tracked, and what is remembered before it.

    Attributes:
        image: float32 ``[1, 3, S, S]``.
        memories: by frame, bfloat16 tokens ``[O, M, 64]``.
        pointers: by frame, float32 ``[O, C]``.
    """

    def __init__(self, model: SAM2, objects: int) -> None:
        self.model = model
        self.objects = objects
        self._generator = torch.Generator().manual_seed(0)
        self.image = self._noise(1, 3, model.image_size, model.image_size)
        # Frame 0 is prompted, as always; the frames before this one are tracked.
        remembered = [0, *range(_FRAME - MAX_OBJECT_POINTERS + 1, _FRAME)]
        num_tokens = model.memory_position.shape[1]
        self.memories = {
            t: self._noise(objects, num_tokens, 64).to(torch.bfloat16) for t in remembered
        }
        self.pointers = {t: self._noise(objects, model.variant.d_model) for t in remembered}

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def ours(self) -> Tensor:
        """All objects together; their masks ``[O, 1, S/4, S/4]``."""
        _, _, logits, _ = self.steps()
        return logits > 0

    def parts(self) -> list[float]:
        """The CPU seconds of each of ``PARTS``, of ours."""
        times = [time.process_time(), *(time.process_time() for _ in self.steps())]
        return [end - begin for begin, end in pairwise(times)]

    def steps(self) -> Iterator[Tensor]:
        """What each of ``PARTS`` gives, of ours."""
        model = self.model
        with as_served(model):
            features = model.encode_image(self.image)
            yield features.embedding
            conditioned = self.conditioned(features.embedding)
            yield conditioned
            found = model.segment_object(conditioned, features.high_res, multimask=True)
            yield found.logits
            score = found.object_score_logits
            yield model.encode_memory(features.embedding, found.high_res_logits, score)

    def conditioned(self, embedding: Tensor) -> Tensor:
        """Our memory attention: the frame's features as each object's memories change them.

        Args:
            embedding: ``[1, C, h, w]`` of the frame.

        Returns:
            ``[O, C, h, w]``.
        """
        near = range(_FRAME - NUM_MASK_MEMORIES + 1, _FRAME)
        memories = [SpatialMemory(0, self.memories[0])]
        memories += [SpatialMemory(_FRAME - t, self.memories[t]) for t in near]
        pointers = [ObjectPointer(_FRAME - t, vector) for t, vector in self.pointers.items()]
        return self.model.condition_on_memory(
            embedding, memories, pointers, MAX_OBJECT_POINTERS - 1
        )


class OfficialFrame(Frame):
    """The same for both implementations of a pair."""

    def __init__(self, pair: Pair, objects: int) -> None:
        super().__init__(pair.ours, objects)
        self._official = pair.official

    def official(self) -> Tensor:
        """All objects, one by one; their masks ``[O, 1, S/4, S/4]``."""
        model = self._official
        output = model.forward_image(self.image)
        _, features, positions, sizes = model._prepare_backbone_features(output)
        masks = []
        for i in range(self.objects):
            found = model.track_step(
                frame_idx=_FRAME,
                is_init_cond_frame=False,
                current_vision_feats=features,
                current_vision_pos_embeds=positions,
                feat_sizes=sizes,
                point_inputs=None,
                mask_inputs=None,
                output_dict=self._official_outputs(i),
                num_frames=_LENGTH,
            )
            masks.append(found["pred_masks"] > 0)
        return torch.cat(masks)

    def _official_outputs(self, i: int) -> dict[str, dict[int, Any]]:
        position = self._as_map(self.model.memory_position)
        outputs = {
            t: {
                "maskmem_features": self._as_map(tokens[i : i + 1]),
                "maskmem_pos_enc": [position],
                "obj_ptr": self.pointers[t][i : i + 1],
            }
            for t, tokens in self.memories.items()
        }
        first = outputs.pop(0)
        return {"cond_frame_outputs": {0: first}, "non_cond_frame_outputs": outputs}

    def _as_map(self, tokens: Tensor) -> Tensor:
        side = self.model.embedding_size
        return tokens.mT.unflatten(2, (side, side))


def rows(
    variant: str, counts: list[int], dtypes: list[str], rounds: int, size: int | None = None
) -> Iterator[list[str]]:
    """A row per dtype, number of objects and peer.

    Args:
        size: side of the square input in pixels; the variant's own where None.
    """
    size = VARIANTS[variant].image_size if size is None else size
    edgetam = variant == edgetam_peer.NAME
    runners = (
        _edgetam_runners(size) if edgetam else _runners(make_pair(variant, size), "ours", "sam2")
    )
    for name in dtypes:
        dtype = DTYPES[name]
        for count in counts:
            runs = runners(count)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                # The first number of objects warms up for all.
                timings, masks = take_turns(runs, rounds, warm_up=count == counts[0])
            for peer in list(runs)[1:]:
                differing = ""
                if peer in ("sam2", "transformers"):
                    differing = f"{float((masks['ours'] != masks[peer]).float().mean()):.1e}"
                figures = compared(timings, "ours", peer)
                yield [variant, name, str(count), peer, *figures, differing, load()]


def _runners(pair: Pair, ours: str, theirs: str) -> Runners:
    _show_all(pair.ours.sam_mask_decoder, pair.official.sam_mask_decoder)

    def runs(objects: int) -> Runs:
        frame = OfficialFrame(pair, objects)
        return {ours: frame.ours, theirs: frame.official}

    return runs


def _edgetam_runners(size: int) -> Runners:
    tiny = _runners(make_pair(TINY, size), f"our {TINY}", f"sam2 {TINY}")
    if not timm_stand_in.is_installed():
        model = SAM2(VARIANTS[edgetam_peer.NAME], size).eval()
        return lambda objects: {"ours": Frame(model, objects).ours, **tiny(objects)}
    pair = edgetam_peer.make_pair(size)
    _show_all(pair.ours.sam_mask_decoder, pair.peer.mask_decoder)

    def runs(objects: int) -> Runs:
        frame = Frame(pair.ours, objects)

        def peer() -> Tensor:
            return edgetam_peer.tracked_masks(
                pair, frame.image, frame.memories, frame.pointers, _FRAME, _LENGTH
            )

        return {"ours": frame.ours, "transformers": peer, **tiny(objects)}

    return runs


def _show_all(*decoders: Any) -> None:
    """Make every object present: absent ones all have the same mask."""
    for decoder in decoders:
        head = decoder.pred_obj_score_head
        last = getattr(head, "proj_out", None) or head.layers[-1]
        with torch.no_grad():
            last.bias += 1000


def part_rows(variants: list[str], counts: list[int], dtypes: list[str]) -> Iterator[list[str]]:
    """A row per variant, dtype and number of objects: the CPU seconds of the parts of ours."""
    for variant in variants:
        model = SAM2(VARIANTS[variant], VARIANTS[variant].image_size).eval()
        for name in dtypes:
            dtype = DTYPES[name]
            for count in counts:
                frame = Frame(model, count)
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    _, *timed = (frame.parts() for _ in range(4))
                medians = map(statistics.median, zip(*timed, strict=True))
                yield [variant, name, str(count), *(f"{each:.2f}" for each in medians)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=SHOWN)
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the other rows of --out")
    parser.add_argument("--parts", action="store_true", help="of ours alone, in CPU seconds")
    arguments = parser.parse_args()
    if arguments.parts:
        measured = list(part_rows(arguments.variants, arguments.objects, arguments.dtypes))
        print(table(("variant", "dtype", "objects", *PARTS), measured))
        return
    earlier = arguments.out if arguments.add else None
    measured = earlier_rows(earlier, HEAD, arguments.variants)
    with torch.inference_mode():
        for variant in arguments.variants:
            for row in rows(variant, arguments.objects, arguments.dtypes, arguments.rounds):
                print(*row, flush=True)
                measured.append(row)
                if arguments.out:  # as far as it has come
                    text = _document(measured, arguments.rounds)
                    arguments.out.write_text(text, encoding="utf-8")
    print(_document(measured, arguments.rounds))


def _document(measured: list[list[str]], rounds: int) -> str:
    return (
        "# The time of a tracked frame\n\n"
        f"At 1024 pixels, rounds: {rounds}. {machine()}. Where others use the machine (load above "
        "the number of\nthreads), CPU seconds say more than seconds. Printed by "
        "`python -m benchmarks.speed.tracked_frame`, whose head says what is\ncompared.\n\n"
        f"{table(HEAD, measured)}\n"
    )


if __name__ == "__main__":
    main()
