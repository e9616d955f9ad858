"""Versions of a model on disk: published whole or not at all, found again, chosen by name."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from backend.engine.building import ModelChoice
from backend.finetune.registry import ModelRegistry

BASE = ModelChoice("demo")


def publish(registry: ModelRegistry, project: int = 5, content: bytes = b"weights") -> str:
    return registry.publish(project, lambda path: path.write_bytes(content), {"gain": 0.1}).version


def test_without_versions_the_base_answers(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, BASE)
    assert registry.choice(None) == registry.choice("base") == BASE
    assert registry.versions() == ["demo"]


def test_the_newest_version_is_in_use_and_the_base_can_be_had(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, BASE)
    assert publish(registry) == "demo-ft1-p5"
    assert publish(registry, 7, b"others") == "demo-ft2-p7"
    again = ModelRegistry(tmp_path, BASE)  # a restart
    assert again.versions() == ["demo-ft2-p7", "demo-ft1-p5", "demo"]
    chosen = again.choice(None)
    assert chosen.version == "demo-ft2-p7"
    assert chosen.family == "demo"
    assert chosen.checkpoint is not None and chosen.checkpoint.read_bytes() == b"others"
    first = again.choice("demo-ft1-p5")
    assert first.checkpoint is not None and first.checkpoint.read_bytes() == b"weights"
    assert again.choice("base") == again.choice("demo") == BASE
    assert json.loads(first.checkpoint.with_suffix(".json").read_text())["gain"] == 0.1


def test_names_hold_the_operators_own_weights_and_size(tmp_path: Path) -> None:
    base = ModelChoice("demo", Path("/models/mine.pt"), image_size=512)
    registry = ModelRegistry(tmp_path, base)
    assert publish(registry) == "demo-mine-ft1-p5-512px"
    chosen = registry.choice("demo-mine-ft1-p5-512px")
    assert chosen.checkpoint is not None and chosen.checkpoint.exists()
    assert ModelRegistry(tmp_path, BASE).versions() == ["demo"]  # another base has others


def test_a_version_that_does_not_exist_has_no_weights(tmp_path: Path) -> None:
    chosen = ModelRegistry(tmp_path, BASE).choice("demo-ft9-p1")
    assert chosen.checkpoint is not None and not chosen.checkpoint.exists()


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, BASE)
    publish(registry)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError):
        registry.publish(5, fail, {})
    assert registry.versions() == ["demo-ft1-p5", "demo"]
    assert not list(tmp_path.rglob("partial*"))


def test_weights_without_notes_are_no_version(tmp_path: Path) -> None:
    """A kill between the two files: the number is not used again, and nothing refers to it."""
    registry = ModelRegistry(tmp_path, BASE)
    publish(registry)
    (tmp_path / "demo" / "ft2-p5.safetensors").write_bytes(b"killed here")
    assert registry.versions() == ["demo-ft1-p5", "demo"]
    assert registry.choice(None).version == "demo-ft1-p5"
    assert publish(registry) == "demo-ft3-p5"


def test_writers_at_the_same_time_get_names_of_their_own(tmp_path: Path) -> None:
    registries = [ModelRegistry(tmp_path, BASE) for _ in range(8)]
    names: list[str] = []
    together = threading.Barrier(8)

    def one(number: int) -> None:
        together.wait()
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(str(number).encode())
        (tmp_path / "demo").mkdir(exist_ok=True)
        names.append(registries[number]._take_name(path, 5))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(names)) == 8


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\0", b"ft9-p5\n", b"../../elsewhere\n"])
def test_where_it_cannot_be_told_which_is_in_use_the_newest_is(
    tmp_path: Path, damage: bytes
) -> None:
    registry = ModelRegistry(tmp_path, BASE)
    publish(registry)
    publish(registry)
    (tmp_path / "demo" / "current").write_bytes(damage)
    assert registry.choice(None).version == "demo-ft2-p5"
    [aside] = (tmp_path / "demo").glob("current.damaged-*")
    assert aside.read_bytes() == damage
    assert registry.choice(None).version == "demo-ft2-p5"


def test_a_damaged_name_where_there_are_no_versions_gives_the_base(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "current").write_bytes(b"\xff")
    assert ModelRegistry(tmp_path, BASE).choice(None) == BASE
