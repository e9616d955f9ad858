"""Embeddings in host memory and on the disk: the same masks, bounded, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backend.engine import embedding_tiers
from backend.engine.building import ModelChoice, build_predictor
from backend.engine.embedding_disk import EmbeddingDisk, PackedEmbedding
from backend.engine.embedding_tiers import EmbeddingTiers, pack, unpack
from backend.engine.local import LocalEngine
from backend.engine.scheduler import Priority
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource
from demo.sample_photos import PHOTOS
from sam2model import ImageEmbedding, ImagePredictor
from tests.backend.fakes import AsGiven
from tests.waiting import PATIENCE

FILES = sorted(PHOTOS.glob("*.jpg"))
AGE = 86_400.0
LEAST_IOU = 0.999


@pytest.fixture(scope="module")
def predictor() -> ImagePredictor:
    return build_predictor(ModelChoice("demo"), yield_to=lambda: None)


@pytest.fixture
def disk(tmp_path: Path) -> EmbeddingDisk:
    return EmbeddingDisk(tmp_path / "embeddings", 1 << 30, AGE)


def photo(path: Path = FILES[0]) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def packed(value: int = 1, count: int = 1000) -> PackedEmbedding:
    part = np.full((1, 2, count), value, np.uint16)
    kinds = "float16", "bfloat16"
    return PackedEmbedding((part, part[:, :1]), ("float32", "bfloat16"), kinds, (40, 60))


def size_of(item: PackedEmbedding, folder: Path) -> int:
    disk = EmbeddingDisk(folder, 1 << 30, AGE)
    disk.store("one", item)
    return disk.used


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_gives_the_same_masks(
    predictor: ImagePredictor, path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.model, "compute_dtype", dtype)
    fresh = predictor.embed(photo(path))
    found = pack(fresh)
    assert found is not None
    again = unpack(found, predictor.model.device)
    assert again.original_size == fresh.original_size
    assert found.nbytes == fresh.nbytes // (2 if dtype == torch.float32 else 1)
    height, width = fresh.original_size
    for x in (0.3, 0.5, 0.7):
        for y in (0.4, 0.6):
            asked: dict[str, Any] = {"points": [[x * width, y * height]], "labels": [1]}
            one = predictor.predict(fresh, **asked)
            other = predictor.predict(again, **asked)
            union = (one.masks[0] | other.masks[0]).sum()
            assert (one.masks[0] & other.masks[0]).sum() >= LEAST_IOU * union


def test_numbers_are_kept_as_they_are_made() -> None:
    parts = [
        torch.tensor([[[[1.5, -2.25]]]], dtype=kind) for kind in (torch.bfloat16, torch.float32)
    ]
    features = SimpleNamespace(embedding=parts[0], high_res=(parts[1], parts[1]))
    item = pack(ImageEmbedding(features, (3, 4)))  # type: ignore[arg-type]
    assert item is not None
    back = unpack(item, torch.device("cpu")).features
    assert [each.dtype for each in (back.embedding, *back.high_res)] == [
        torch.bfloat16,
        torch.float32,
        torch.float32,
    ]
    assert back.embedding.tolist() == back.high_res[0].tolist() == [[[[1.5, -2.25]]]]
    huge = torch.tensor([1e9])
    features = SimpleNamespace(embedding=huge, high_res=(huge, huge))
    assert pack(ImageEmbedding(features, (3, 4))) is None  # type: ignore[arg-type]


class Counting:
    """A predictor that counts what it encodes."""

    def __init__(self, predictor: ImagePredictor) -> None:
        self._predictor = predictor
        self.model = predictor.model
        self.predict, self.predict_boxes = predictor.predict, predictor.predict_boxes
        self.embeds = 0

    def embed(self, pixels: np.ndarray) -> ImageEmbedding:
        self.embeds += 1
        return self._predictor.embed(pixels)


class Engines:
    """Processes that come and go, with one disk."""

    def __init__(self, predictor: ImagePredictor, folder: Path) -> None:
        self.counting = Counting(predictor)
        self.folder = folder
        self.metrics = Metrics()

    def start(self, cache_bytes: int = 1 << 30, host_bytes: int = 0) -> LocalEngine:
        disk = EmbeddingDisk(self.folder, 1 << 30, AGE)
        self.metrics = Metrics()
        return LocalEngine(
            ModelChoice("demo"),
            AsGiven(),  # type: ignore[arg-type]
            cache_bytes=cache_bytes,
            metrics=self.metrics,
            build=lambda choice: self.counting,  # type: ignore[arg-type, return-value]
            tiers=EmbeddingTiers(host_bytes, disk),
        )

    def lookups(self, outcome: str) -> float:
        found = self.metrics.registry.get_sample_value(
            "sam2_embedding_lookups_total", {"outcome": outcome}
        )
        return found or 0.0


@pytest.fixture
def engines(predictor: ImagePredictor, tmp_path: Path) -> Iterator[Engines]:
    return Engines(predictor, tmp_path / "embeddings")


def click(engine: LocalEngine, name: str = "a") -> Any:
    pixels = photo()
    prompt = ObjectPrompt("image", None, points=(PointPrompt(50, 50, True),))
    image: Any = ImageSource(name, lambda: pixels)
    [answer] = engine.answer(image, [prompt], Priority.CLICK, PATIENCE)
    return answer.mask.unpack()


def test_a_restart_costs_no_encoding(engines: Engines) -> None:
    engine = engines.start()
    before = click(engine)
    engine.close()
    assert engines.counting.embeds == 1
    engine = engines.start()
    after = click(engine)
    assert (engines.counting.embeds, engines.lookups("disk")) == (1, 1)
    assert (before & after).sum() >= LEAST_IOU * (before | after).sum()
    click(engine)
    assert engines.lookups("hit") == 1
    engine.close()


def test_what_is_damaged_is_thrown_away_and_made_anew(engines: Engines) -> None:
    engine = engines.start()
    click(engine)
    engine.close()
    [path] = engines.folder.glob("*.embedding")
    data = bytearray(path.read_bytes())
    for broken in (data[: len(data) // 2], b"", data[:-9] + b"\0" + data[-8:], b"x" + data[1:]):
        path.write_bytes(broken)
        disk = EmbeddingDisk(engines.folder, 1 << 30, AGE)
        engine = engines.start()
        before = engines.counting.embeds
        click(engine)
        engine.close()
        assert engines.counting.embeds == before + 1
        assert path.read_bytes() == data
        assert disk.used == len(data)


def test_what_leaves_a_device_stays_in_host_memory(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_tiers, "HOST_DEVICE", "another")
    engine = engines.start(cache_bytes=1 << 20, host_bytes=1 << 30)
    names = [str(number) for number in range(6)]
    for name in names:
        click(engine, name)
    engine._tiers.flush()
    engine._tiers.disk = None  # and from there alone
    encoded = engines.counting.embeds
    click(engine, names[0])
    assert (engines.counting.embeds, engines.lookups("host")) == (encoded, 1)
    assert 0 < engine._tiers.host_used <= 1 << 30
    engine.close()


def test_host_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_tiers, "HOST_DEVICE", "another")
    tensor = torch.zeros(1, 500)
    features = SimpleNamespace(embedding=tensor, high_res=(tensor, tensor))
    embedding = ImageEmbedding(features, (3, 4))  # type: ignore[arg-type]
    tiers = EmbeddingTiers(7000, None)
    for name in "abcb":
        tiers.take_over(name, embedding)
    assert tiers.host_used == 6000
    assert [tiers.find(name) is not None for name in "abc"] == [False, True, True]


def test_other_encoders_numbers_and_sizes_do_not_meet(engines: Engines) -> None:
    engine = engines.start()
    click(engine)
    engine.close()
    model = engines.counting.model
    engines.counting.model = SimpleNamespace(  # type: ignore[assignment]
        image_size=model.image_size,
        device=model.device,
        state_dict=model.state_dict,
        compute_dtype="another",
    )
    engine = engines.start()
    click(engine)
    engine.close()
    assert engines.counting.embeds == 2
    assert len(list(engines.folder.glob("*.embedding"))) == 2


def test_an_embedding_comes_back_as_it_was_written(disk: EmbeddingDisk) -> None:
    item = packed(7)
    disk.store("a", item)
    found = disk.load("a")
    assert found is not None
    assert (found.made_as, found.original_size) == (item.made_as, item.original_size)
    assert all((one == other).all() for one, other in zip(found.parts, item.parts, strict=True))
    assert disk.load("b") is None


def test_the_least_recently_used_leave_first(tmp_path: Path) -> None:
    size = size_of(packed(), tmp_path / "one")
    disk = EmbeddingDisk(tmp_path / "many", 4 * size, AGE)
    for number in range(4):
        disk.store(f"k{number}", packed())
        os.utime(disk._path(f"k{number}"), (time.time() - 100 + number,) * 2)
    assert disk.load("k0") is not None  # and was used now
    disk.store("k4", packed())
    assert [disk.load(f"k{number}") is not None for number in range(5)] == [
        *(True, False, True, True, True)
    ]
    disk.store("too large", packed(count=10_000))
    assert disk.load("too large") is None
    assert sum(path.stat().st_size for path in (tmp_path / "many").glob("*.embedding")) <= 4 * size


def test_what_nobody_used_for_long_leaves(tmp_path: Path) -> None:
    disk = EmbeddingDisk(tmp_path, 1 << 30, AGE)
    disk.store("old", packed())
    os.utime(disk._path("old"), (time.time() - AGE - 60,) * 2)
    left = tmp_path / f"{'0' * 40}.embedding.partial-1-1"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - AGE,) * 2)
    again = EmbeddingDisk(tmp_path, 1 << 30, AGE)
    again.store("new", packed())
    assert [again.load(name) is not None for name in ("old", "new")] == [False, True]
    assert not left.exists()


def test_a_disk_that_takes_nothing_costs_nothing_else(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    engines.folder.write_text("no folder")
    engine = engines.start()
    assert click(engine).any()
    assert click(engine, "b").any()
    engine.close()
    said = [each for each in caplog.records if "cannot be kept" in each.getMessage()]
    assert len(said) == 1


SHARER = """
import sys
from pathlib import Path
import numpy as np
from backend.engine.embedding_disk import EmbeddingDisk, PackedEmbedding

folder, capacity, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
disk = EmbeddingDisk(folder, capacity, 86400.0)
draw = np.random.default_rng(seed)
found = 0
for step in range(300):
    key = int(draw.integers(0, 40))
    if step % 3:
        item = disk.load(str(key))
        if item is not None:
            found += 1
            assert (item.parts[0] == key).all()
    else:
        part = np.full((1, 2, 1000), key, np.uint16)
        disk.store(str(key), PackedEmbedding((part,), ("float32",), ("float16",), (4, 6)))
assert disk.damaged == 0
print(found)
"""


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    part = np.zeros((1, 2, 1000), np.uint16)
    size = size_of(PackedEmbedding((part,), ("float32",), ("float16",), (4, 6)), tmp_path / "one")
    folder, capacity, count = tmp_path / "shared", 20 * size, 3
    command = [sys.executable, "-c", SHARER, str(folder), str(capacity)]
    running = [
        subprocess.Popen(
            [*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for seed in range(count)
    ]
    for each in running:
        out, error = each.communicate(timeout=PATIENCE)
        assert each.returncode == 0, error
        assert int(out) > 0
    last = EmbeddingDisk(folder, capacity, AGE)
    last.store("last", PackedEmbedding((part,), ("float32",), ("float16",), (4, 6)))
    used = sum(path.stat().st_size for path in folder.glob("*.embedding"))
    assert last.used == used <= capacity
    assert not list(folder.glob("*.partial-*"))
