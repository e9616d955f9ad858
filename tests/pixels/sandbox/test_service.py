"""The service and its tools decode in other processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import backend
from backend.engine.local import LocalEngine
from backend.media.cache import MediaFile
from backend.media.errors import MediaError
from backend.media.stream import MediaStream
from backend.pixels.open_videos import read_index
from backend.pixels.recipes import Picture
from backend.pixels.sandbox.process import DecodingProcess
from backend.settings import Settings
from backend.wiring import Wiring
from tests.backend.fakes import FakePredictor
from tests.waiting import PATIENCE


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of decoding processes that were asked to open something."""
    kinds: list[str] = []
    real = DecodingProcess.open

    def counting(self: DecodingProcess, *args: Any, **options: Any) -> None:
        kinds.append(self._process.args[4])  # type: ignore[index]
        real(self, *args, **options)

    monkeypatch.setattr(DecodingProcess, "open", counting)
    return kinds


def test_pictures_of_tasks(
    asked: list[str], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = partial(LocalEngine, build=lambda choice: FakePredictor())
    monkeypatch.setattr("backend.wiring.LocalEngine", engine)
    settings = Settings(
        cache_dir=tmp_path / "cache", state_dir=tmp_path / "state", local_files_root=photo.parent
    )
    wiring = Wiring(settings)
    service = wiring.service(wiring.engine())
    try:
        picture = Picture(f"/data/local-files/?d={photo.name}", 1)
        deadline = time.monotonic() + PATIENCE
        source = wiring.pixels.find(picture, deadline)
        assert source.load().shape == (300, 400, 3)
        assert b"sam2_decoders_lost 0.0" in wiring.metrics.exposition()
    finally:
        service.close()
    assert asked == ["images"]
    with pytest.raises(MediaError, match="stopping"):  # the decoders ended with the service
        source.load()


def test_tables_of_videos(asked: list[str], clip: Callable[[str], Path]) -> None:
    path = clip("25.mp4")
    with MediaStream.of_file(MediaFile(path, "key", path.stat().st_size)) as file:
        index = read_index(file)
    assert (len(index.table), round(index.duration)) == (75, 3)
    assert asked == ["videos"]


WITHOUT_DECODERS = """
import importlib, pkgutil, sys
import backend

decoding = ("containers", "decoder", "images", "mp4_index", "serve_images", "serve_videos")
for module in pkgutil.walk_packages(backend.__path__, "backend."):
    room, _, name = module.name.rpartition(".")
    in_worker = room.startswith("backend.pixels") and name in decoding
    if not in_worker and name not in ("__main__", "label_studio_ml"):
        importlib.import_module(module.name)
print(*{"av", "PIL"} & sys.modules.keys())
"""


def test_the_service_loads_no_decoder() -> None:
    """Neither FFmpeg nor Pillow is there to be called; only what the decoding processes run, which
    nothing else imports, brings them."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DECODERS],
        capture_output=True,
        text=True,
        cwd=Path(backend.__file__).parents[1],
        check=False,
    )
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr
