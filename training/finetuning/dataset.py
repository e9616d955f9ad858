"""What a fine-tuning trains on, on disk: embeddings computed once, masks, and the split.

A dataset is a folder. Embeddings are files of their own, named by what they are made from, so
that a preparation that was killed goes on and the next one starts with them; ``dataset.json`` is
written last and makes the folder complete. From then on nothing but the folder is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.expected import ExpectedError, counted
from backend.files import replace_text, replacing
from sam2model.preprocessing import preprocess
from sam2model.sam2 import SAM2, ImageFeatures

HELD_OUT_SHARE = 0.2
MIN_HELD_OUT = 3
MIN_TASKS = 8
MAX_EXAMPLES = 2000
MAX_CLIP = 8
_MAX_CLIP_OBJECTS = 3
_CPU = torch.device("cpu")
_MANIFEST = "dataset.json"
_MASKS = "masks.npz"


class TooFewAnnotations(ExpectedError):
    """There is not enough to learn from and to test on; ``str()`` says what there is."""


@dataclass(frozen=True)
class AnnotatedObject:
    """One accepted mask.

    Attributes:
        name: of the object, the same on every page of a sequence.
        mask: bool ``[H, W]``, at the size of its page or another.
        box: the annotator's own box around it, x0, y0, x1, y1 as shares of the sides (0 to 1).
    """

    name: str
    mask: np.ndarray
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class AnnotatedPage:
    """A picture, or a page of a frame sequence, with what was accepted on it.

    Attributes:
        task: of Label Studio.
        page: number in its sequence, from 0.
        is_sequence: whether the task has several.
        content: names the pixels; letters and digits.
        pixels: uint8 RGB ``[H, W, 3]``.
    """

    task: int
    page: int
    is_sequence: bool
    content: str
    pixels: np.ndarray
    objects: Sequence[AnnotatedObject]


@dataclass(frozen=True)
class Example:
    """A page as it is trained on, at the network's size S.

    Attributes:
        content: names the pixels.
        names: of the objects.
        masks: bool ``[N, S, S]``, N at least 1, none empty.
        boxes: float32 ``[N, 4]`` in pixels of S x S, the annotator's own; NaN where there is none.
    """

    task: int
    page: int
    is_sequence: bool
    content: str
    names: tuple[str, ...]
    masks: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Clip:
    """Pages of one sequence, one after the other, that all show the same objects.

    A page on which an object has no mask ends its clip: whether the object is absent there or was
    not marked, nobody knows.

    Attributes:
        pages: T examples.
        masks: bool ``[O, T, S, S]``.
    """

    pages: Sequence[Example]
    masks: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A prepared folder.

    Attributes:
        views: in how many ways a picture is seen: 1 as it is, 8 turned and mirrored.
        held_out: whose tasks are never trained on.
        digest: names everything that training depends on.
    """

    folder: Path
    views: int
    train: Sequence[Example]
    held_out: Sequence[Example]
    digest: str

    def features(self, model: SAM2, examples: Sequence[tuple[Example, int]]) -> ImageFeatures:
        """Features of examples, each in one of its views, float32, batched in that order.

        They come from the disk, or from the encoder where that is trained too.
        """
        if not (self.folder / "features").exists():
            images = []
            for each, view in examples:
                pixels = np.load(self.folder / "pixels" / f"{each.content}.npy")
                images.append(_turned(preprocess(pixels, model.image_size, _CPU), view))
            return model.encode_image(torch.cat(images))
        loaded = [
            load_file(self.folder / "features" / f"{each.content}-{view}.safetensors")
            for each, view in examples
        ]
        embedding, stride_4, stride_8 = (
            torch.cat([parts[name] for parts in loaded]).float()
            for name in ("embedding", "stride_4", "stride_8")
        )
        return ImageFeatures(embedding, (stride_4, stride_8))


def clips_of(examples: Sequence[Example]) -> list[Clip]:
    """The clips of at least two pages among examples, at most ``MAX_CLIP`` pages each."""
    pages = sorted((e for e in examples if e.is_sequence), key=lambda e: (e.task, e.page))
    clips: list[Clip] = []
    run: list[Example] = []
    for example in pages:
        if run and not (
            _follows(run[-1], example) and len(run) < MAX_CLIP and _common([*run, example])
        ):
            clips += _clip(run)
            run = []
        run.append(example)
    return clips + _clip(run)


def _follows(one: Example, other: Example) -> bool:
    return one.task == other.task and one.page + 1 == other.page


def _common(pages: Sequence[Example]) -> list[str]:
    """Objects that all pages show."""
    every = [set(page.names) for page in pages]
    return [name for name in pages[0].names if all(name in names for names in every)]


def _clip(pages: Sequence[Example]) -> list[Clip]:
    if len(pages) < 2:
        return []
    names = _common(pages)[:_MAX_CLIP_OBJECTS]
    masks = [[page.masks[page.names.index(name)] for page in pages] for name in names]
    return [Clip(list(pages), np.array(masks))]


def prepare(
    folder: Path,
    pages: Iterable[AnnotatedPage],
    model: SAM2,
    *,
    views: int,
    keep_pixels: bool,
    progress: Callable[[int], None] = lambda count: None,
) -> Dataset:
    """Make or complete the dataset in ``folder``.

    Args:
        pages: read once, one at a time; their pixels are not kept in memory.
        model: whose image encoder is asked, in evaluation mode.
        keep_pixels: keep pictures instead of embeddings, to train the encoder too.
        progress: called with the number of pages done.

    Raises:
        TooFewAnnotations: fewer than ``MIN_TASKS`` tasks with masks.
    """
    kind = "pixels" if keep_pixels else "features"
    (folder / kind).mkdir(parents=True, exist_ok=True)
    examples: list[Example] = []
    for page in pages:
        if len(examples) == MAX_EXAMPLES:
            break
        example = _example(page, model.image_size)
        if example is None:
            continue
        if keep_pixels:
            _keep_pixels(folder / kind, page, model.image_size)
        else:
            _keep_features(folder / kind, page, model, views)
        examples.append(example)
        progress(len(examples))
    held_out = held_out_tasks({each.task: each.content for each in reversed(examples)})
    _forget_others(folder / kind, {each.content for each in examples})
    _write(folder, examples, held_out, views)
    return load(folder)


def load(folder: Path) -> Dataset:
    """The dataset that ``prepare`` completed.

    Raises:
        FileNotFoundError: it did not.
    """
    text = (folder / _MANIFEST).read_text(encoding="utf-8")
    manifest = json.loads(text)
    with np.load(folder / _MASKS) as arrays:
        examples = [
            _read_example(entry, arrays, index) for index, entry in enumerate(manifest["examples"])
        ]
    held_out = set(manifest["held_out"])
    return Dataset(
        folder,
        int(manifest["views"]),
        [e for e in examples if e.task not in held_out],
        [e for e in examples if e.task in held_out],
        hashlib.sha256(text.encode()).hexdigest()[:32],
    )


def is_complete(folder: Path) -> bool:
    """Whether there is a dataset to ``load``."""
    return (folder / _MANIFEST).exists()


def reopen(folder: Path) -> None:
    """Have the dataset prepared anew; embeddings of pictures that come again are used again."""
    (folder / _MANIFEST).unlink(missing_ok=True)


def held_out_tasks(contents: Mapping[int, str]) -> set[int]:
    """The tasks that are kept for testing: a fifth of them, at least ``MIN_HELD_OUT``.

    Which ones follows from their pictures: tasks with the same picture are on the same side, and a
    task that is trained on does not become a test when others come.

    Args:
        contents: by task, the name of its (first) picture.

    Raises:
        TooFewAnnotations: fewer than ``MIN_TASKS`` tasks.
    """
    if len(contents) < MIN_TASKS:
        raise TooFewAnnotations(
            f"{counted(len(contents), 'task has', 'tasks have')} accepted masks; fine-tuning needs "
            f"{MIN_TASKS}, of which {MIN_HELD_OUT} are kept for testing"
        )
    draws = {content: _draw(content) for content in set(contents.values())}
    lowest = sorted(draws, key=draws.__getitem__)
    chosen = {content for content, draw in draws.items() if draw < HELD_OUT_SHARE}
    chosen |= set(lowest[:MIN_HELD_OUT])
    held_out = {task for task, content in contents.items() if content in chosen}
    if len(held_out) == len(contents):
        raise TooFewAnnotations("the tasks show too few different pictures")
    return held_out


def _draw(content: str) -> float:
    return int(hashlib.sha256(f"split {content}".encode()).hexdigest()[:12], 16) / 16**12


def _example(page: AnnotatedPage, size: int) -> Example | None:
    """A page at the network's size; None where nothing is left of its masks."""
    kept = []
    for each in page.objects:
        mask = _resized_mask(each.mask, size)
        if mask.any():
            box = np.full(4, np.nan) if each.box is None else np.array(each.box) * size
            kept.append((each.name, mask, box.astype(np.float32)))
    if not kept:
        return None
    names, masks, boxes = zip(*kept, strict=True)
    return Example(
        page.task,
        page.page,
        page.is_sequence,
        page.content,
        names,
        np.stack(masks),
        np.stack(boxes),
    )


def _resized_mask(mask: np.ndarray, size: int) -> np.ndarray:
    if mask.shape == (size, size):
        return mask
    return cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) > 0.5


def _keep_features(folder: Path, page: AnnotatedPage, model: SAM2, views: int) -> None:
    missing = [v for v in range(views) if not (folder / f"{page.content}-{v}.safetensors").exists()]
    if not missing:
        return
    pixels = preprocess(page.pixels, model.image_size, _CPU)
    for view in missing:
        with torch.inference_mode():
            features = model.encode_image(_turned(pixels, view))
        tensors = {
            "embedding": features.embedding,
            "stride_4": features.high_res[0],
            "stride_8": features.high_res[1],
        }
        path = folder / f"{page.content}-{view}.safetensors"
        shrunk = {name: tensor.bfloat16().contiguous() for name, tensor in tensors.items()}
        with replacing(path) as partial:
            save_file(shrunk, partial)


def _keep_pixels(folder: Path, page: AnnotatedPage, size: int) -> None:
    path = folder / f"{page.content}.npy"
    if path.exists():
        return
    small = cv2.resize(page.pixels, (size, size), interpolation=cv2.INTER_AREA)
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, small)


def _forget_others(folder: Path, contents: set[str]) -> None:
    """Delete the files of pictures that are no longer annotated, and what a kill cut short."""
    for path in folder.iterdir():
        if path.stem.split("-")[0] not in contents or path.suffix.startswith(".partial"):
            path.unlink()


def turned_masks(masks: np.ndarray, view: int) -> np.ndarray:
    """Masks ``[..., S, S]`` as a view shows them."""
    return np.ascontiguousarray(_turned(torch.from_numpy(masks), view).numpy())


def turned_boxes(boxes: np.ndarray, view: int, size: int) -> np.ndarray:
    """Boxes ``[N, 4]`` as a view shows them."""
    found = boxes[:, [1, 0, 3, 2]] if view & 4 else boxes.copy()
    if view & 1:
        found[:, [0, 2]] = size - found[:, [2, 0]]
    if view & 2:
        found[:, [1, 3]] = size - found[:, [3, 1]]
    return found


def _turned(images: Tensor, view: int) -> Tensor:
    """``[..., S, S]`` in one of the eight ways in which a square can lie."""
    if view & 4:
        images = images.mT
    return images.flip(((-1,) if view & 1 else ()) + ((-2,) if view & 2 else ()))


def _write(folder: Path, examples: Sequence[Example], held_out: set[int], views: int) -> None:
    arrays: dict[str, np.ndarray] = {}
    entries = []
    for index, each in enumerate(examples):
        packed = np.packbits(each.masks, axis=None)
        arrays[f"masks-{index}"], arrays[f"boxes-{index}"] = packed, each.boxes
        digest = hashlib.sha256(packed.tobytes() + each.boxes.tobytes()).hexdigest()[:32]
        entry = {name: getattr(each, name) for name in ("task", "page", "is_sequence", "content")}
        entry |= {"names": each.names, "shape": each.masks.shape, "masks": digest}
        entries.append(entry)
    with replacing(folder / _MASKS) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    manifest = {"views": views, "held_out": sorted(held_out), "examples": entries}
    replace_text(folder / _MANIFEST, json.dumps(manifest))


def _read_example(
    entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: int
) -> Example:
    shape = tuple(entry["shape"])
    bits = np.unpackbits(arrays[f"masks-{index}"], count=int(np.prod(shape)))
    return Example(
        int(entry["task"]),
        int(entry["page"]),
        bool(entry["is_sequence"]),
        str(entry["content"]),
        tuple(entry["names"]),
        bits.astype(bool).reshape(shape),
        arrays[f"boxes-{index}"],
    )
