"""Time of a tracked frame with a full memory, beside the official ``sam2`` package.

    python -m benchmarks.speed.tracked_frame [--objects 1 4 8] [--rounds 2] [--out FILE]

One step of tracking: the image encoder, then for every object memory attention over 7 spatial
memories and 16 pointers, mask decoder and memory encoder. The official package does the second part
object by object, as its ``SAM2VideoPredictor`` does. Memories are noise and weights random: time
does not depend on values. "differing" are the mask pixels that differ, of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.embedding import DTYPES
from benchmarks.support.pairing import COMPARED, compared, load, machine, take_turns
from benchmarks.support.reference import Pair, make_pair
from benchmarks.support.table import earlier_rows, table
from sam2model.mask_decoder import to_tokens
from sam2model.sam2 import MAX_OBJECT_POINTERS, NUM_MASK_MEMORIES, ObjectPointer, SpatialMemory

_FRAME = 20
SHOWN = ("sam2.1_hiera_tiny", "sam2.1_hiera_base_plus")
HEAD = ("variant", "dtype", "objects", *COMPARED, "differing", "load")


class Frame:
    """One frame to be tracked, and what both implementations remember before it."""

    def __init__(self, pair: Pair, objects: int) -> None:
        self._pair = pair
        self._objects = objects
        self._generator = torch.Generator().manual_seed(0)
        model = pair.ours
        side, dim = model.embedding_size, model.variant.d_model
        self.image = self._noise(1, 3, model.image_size, model.image_size)
        # Frame 0 is prompted, as always; the frames before this one are tracked.
        remembered = [0, *range(_FRAME - MAX_OBJECT_POINTERS + 1, _FRAME)]
        self._memories = {
            t: self._noise(objects, 64, side, side).to(torch.bfloat16) for t in remembered
        }
        self._pointers = {t: self._noise(objects, dim) for t in remembered}

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def ours(self) -> Tensor:
        """All objects together; their masks ``[O, 1, S/4, S/4]``."""
        model = self._pair.ours
        features = model.encode_image(self.image)
        conditioned = self.conditioned(features.embedding)
        found = model.segment_object(conditioned, features.high_res, multimask=True)
        model.encode_memory(features.embedding, found.high_res_logits, found.object_score_logits)
        return found.logits > 0

    def conditioned(self, embedding: Tensor) -> Tensor:
        """Our memory attention: the frame's features as each object's memories change them.

        Args:
            embedding: ``[1, C, h, w]`` of the frame.

        Returns:
            ``[O, C, h, w]``.
        """
        near = range(_FRAME - NUM_MASK_MEMORIES + 1, _FRAME)
        memories = [SpatialMemory(0, to_tokens(self._memories[0]))]
        memories += [SpatialMemory(_FRAME - t, to_tokens(self._memories[t])) for t in near]
        pointers = [ObjectPointer(_FRAME - t, vector) for t, vector in self._pointers.items()]
        return self._pair.ours.condition_on_memory(
            embedding, memories, pointers, MAX_OBJECT_POINTERS - 1
        )

    def official(self) -> Tensor:
        """The same, object by object."""
        model = self._pair.official
        output = model.forward_image(self.image)
        _, features, positions, sizes = model._prepare_backbone_features(output)
        masks = []
        for i in range(self._objects):
            found = model.track_step(
                frame_idx=_FRAME,
                is_init_cond_frame=False,
                current_vision_feats=features,
                current_vision_pos_embeds=positions,
                feat_sizes=sizes,
                point_inputs=None,
                mask_inputs=None,
                output_dict=self._official_outputs(i),
                num_frames=100,
            )
            masks.append(found["pred_masks"] > 0)
        return torch.cat(masks)

    def official_conditioned(self) -> Tensor:
        """The official memory attention, object by object, ``[O, C, h, w]``."""
        model = self._pair.official
        output = model.forward_image(self.image)
        _, features, positions, sizes = model._prepare_backbone_features(output)
        return torch.cat(
            [
                model._prepare_memory_conditioned_features(
                    frame_idx=_FRAME,
                    is_init_cond_frame=False,
                    current_vision_feats=features[-1:],
                    current_vision_pos_embeds=positions[-1:],
                    feat_sizes=sizes[-1:],
                    output_dict=self._official_outputs(i),
                    num_frames=100,
                )
                for i in range(self._objects)
            ]
        )

    def _official_outputs(self, i: int) -> dict[str, dict[int, Any]]:
        outputs = {
            t: {
                "maskmem_features": memory[i : i + 1],
                "maskmem_pos_enc": [self._position],
                "obj_ptr": self._pointers[t][i : i + 1],
            }
            for t, memory in self._memories.items()
        }
        first = outputs.pop(0)
        return {"cond_frame_outputs": {0: first}, "non_cond_frame_outputs": outputs}

    @property
    def _position(self) -> Tensor:
        side = self._pair.ours.embedding_size
        return self._pair.ours.memory_position.mT.unflatten(2, (side, side))


def rows(variant: str, counts: list[int], dtypes: list[str], rounds: int) -> Iterator[list[str]]:
    """A row per dtype and number of objects."""
    pair = make_pair(variant)
    # Every object is present: absent ones all have the same mask.
    for model in (pair.official, pair.ours):
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 1000
    for name in dtypes:
        dtype = DTYPES[name]
        for count in counts:
            frame = Frame(pair, count)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                runs = {"ours": frame.ours, "sam2": frame.official}
                # The first number of objects warms up for all.
                timings, masks = take_turns(runs, rounds, warm_up=count == counts[0])
            differing = float((masks["ours"] != masks["sam2"]).float().mean())
            yield [
                variant,
                name,
                str(count),
                *compared(timings, "ours", "sam2"),
                f"{differing:.1e}",
                load(),
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=SHOWN)
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the other rows of --out")
    arguments = parser.parse_args()
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
