"""The recorded requests of a real Label Studio (tests/captures/README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.prompts import ContextPrompts, prompts_from_context
from backend.labelstudio.tags import LabelConfig

FOLDER = Path(__file__).parents[1] / "captures"


@cache
def load(name: str):
    """A capture by its name without ``.json``; treat it as read-only."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Request:
    """One /predict request, parsed."""

    body: dict
    config: LabelConfig

    @property
    def context(self):
        return self.body["params"].get("context")

    @property
    def task(self) -> dict:
        return self.body["tasks"][0]

    @property
    def prompts(self) -> ContextPrompts:
        return prompts_from_context(self.context, self.config)


def requests(name: str) -> list[Request]:
    """Every /predict body of a capture."""
    return [Request(body, parse_label_config(body["label_config"])) for body in bodies(load(name))]


def request(name: str) -> Request:
    """The only /predict body of a capture."""
    [found] = requests(name)
    return found


def bodies(node) -> Iterator[dict]:
    """Every /predict body below a JSON value."""
    if isinstance(node, dict):
        if {"tasks", "label_config", "params"} <= node.keys():
            yield node
        for value in node.values():
            yield from bodies(value)
    elif isinstance(node, list):
        for value in node:
            yield from bodies(value)


def setups(node) -> Iterator[dict]:
    """Every /setup body below a JSON value."""
    if isinstance(node, dict):
        if {"schema", "access_token"} <= node.keys():
            yield node
        for value in node.values():
            yield from setups(value)
    elif isinstance(node, list):
        for value in node:
            yield from setups(value)


def results(node) -> Iterator[dict]:
    """Every result item below a JSON value: contexts, drafts, annotations, predictions."""
    if isinstance(node, dict):
        if {"value", "from_name", "to_name"} <= node.keys():
            yield node
        for value in node.values():
            yield from results(value)
    elif isinstance(node, list):
        for value in node:
            yield from results(value)
