"""The same service under ``label-studio-ml`` 2.x, for those who deploy with its tools.

``label-studio-ml`` makes a new model object for every request
(``label_studio_ml/api.py``), so everything that lasts lives in one service per process,
made when the first object is. Nothing else in the project imports this module.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.finetune.finetuning import Finetuning
from backend.labelstudio.model_names import shown_version
from backend.predict.dispatch import Dispatcher
from backend.settings import Settings
from backend.wiring import Wiring


@cache
def shared() -> tuple[Dispatcher, Finetuning]:
    """What this process answers and fine-tunes with; made after gunicorn's fork, because made on
    first use."""
    wiring = Wiring(Settings.from_env(os.environ))
    engine = wiring.engine()
    return wiring.service(engine), wiring.finetuning(engine)


class SAM2Backend(LabelStudioMLBase):
    """SAM 2 as a ``LabelStudioMLBase`` model."""

    def setup(self) -> None:
        """Tell Label Studio which model answers."""
        service, _ = shared()
        self.set("model_version", shown_version(service.engine.model_version))

    def predict(
        self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """One prediction (or an empty list) per task, in order; see ``Dispatcher.predict``."""
        body = {
            "tasks": tasks,
            "project": self.project_id,
            "label_config": self.label_config,
            "params": {"context": context},
        }
        service, _ = shared()
        return list(service.predict(body)["results"])

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Label Studio's annotation and training events; START_TRAINING may begin a fine-tuning,
        which goes on in the background."""
        _, finetuning = shared()
        done = finetuning.webhook({"action": event, "project": data.get("project")})
        return {"event": event, "trained": False, "reason": done or "nothing to train for"}
