"""The service under ``label-studio-ml`` 2.x.

The real package is not on PyPI in version 2 (1.0.9 there pins Flask 1.1), so a stand-in plays
the parts of ``label_studio_ml`` that serve a model: a new object for every request, values kept
by project, ``setup`` in the constructor (``label_studio_ml/model.py``), and the routes'
handling of ``predict`` (``label_studio_ml/api.py``).
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

from backend import __version__
from tests.backend.conftest import CONFIG, click

ROOT = Path(__file__).parents[2]


class StandInBase:
    """``LabelStudioMLBase`` as far as a served model sees it."""

    kept: dict = {}  # noqa: RUF012 - the real one is shared by all models too

    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        if not self.model_version:
            self.set("model_version", "0.0.1")
        self.setup()

    def setup(self):
        raise NotImplementedError

    def get(self, key):
        return self.kept.get((self.project_id, key))

    def set(self, key, value):
        self.kept[self.project_id, key] = value

    @property
    def label_config(self):
        return self.get("label_config")

    @property
    def model_version(self):
        return self.get("model_version")


@pytest.fixture
def backend_class(bench, monkeypatch):
    package = types.ModuleType("label_studio_ml")
    model = types.ModuleType("label_studio_ml.model")
    model.LabelStudioMLBase = StandInBase
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", model)
    monkeypatch.delitem(sys.modules, "backend.label_studio_ml", raising=False)
    monkeypatch.setattr(StandInBase, "kept", {})
    module = importlib.import_module("backend.label_studio_ml")
    monkeypatch.setattr(module, "shared", lambda: (bench.service, bench.finetuning))
    yield module.SAM2Backend
    sys.modules.pop("backend.label_studio_ml", None)


def served(backend_class, context):
    """What ``label_studio_ml/api.py`` does with /predict."""
    tasks = [{"id": 7, "data": {"image": "/data/upload/1/a.png"}}]
    model = backend_class(project_id="5", label_config=CONFIG)
    return model.predict(tasks, context=context, login=None, password=None)


def test_a_click_gives_a_mask(backend_class):
    [prediction] = served(backend_class, {"result": [click(50, 50)]})
    assert prediction["result"][0]["type"] == "brushlabels"


@pytest.mark.parametrize("context", [None, {}])
def test_opening_a_task_stores_nothing(backend_class, context):
    assert served(backend_class, context) == [[]]


def test_it_names_its_model(backend_class):
    assert backend_class(project_id="5", label_config=CONFIG).model_version == f"demo@{__version__}"


def test_training_events_are_handed_on(backend_class, bench):
    asked = []

    def webhook(body):
        asked.append(body)
        return "fine-tuning on project 5 begins"

    model = backend_class(project_id="5", label_config=CONFIG)
    assert model.fit("START_TRAINING", {"project": {"id": 5}})["trained"] is False  # it is off
    bench.finetuning.webhook = webhook
    answer = model.fit("START_TRAINING", {"project": {"id": 5}, "more": "ignored"})
    assert asked == [{"action": "START_TRAINING", "project": {"id": 5}}]
    assert answer["reason"] == "fine-tuning on project 5 begins"


def test_the_served_folder_finds_it_without_shadowing_the_package(tmp_path):
    """``_wsgi.py`` as gunicorn loads it, in a process of its own, with a stand-in package."""
    package = tmp_path / "label_studio_ml"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text("class LabelStudioMLBase: pass\n", encoding="utf-8")
    (package / "api.py").write_text(
        "def init_app(model_class, **kwargs):\n    return model_class.__name__\n", encoding="utf-8"
    )
    folder = ROOT / "examples" / "label_studio_ml"
    done = subprocess.run(
        [sys.executable, "-c", "from _wsgi import app; print(app)"],
        cwd=folder,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout.strip() == "SAM2Backend", done.stderr
