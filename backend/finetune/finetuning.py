"""Fine-tuning as the service sees it: who may start it, its progress, which version answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from backend.engine.building import ModelChoice
from backend.engine.engine import Engine, State
from backend.expected import ExpectedError
from backend.finetune.finetune_jobs import FinetuneJob, FinetuneJobs
from backend.finetune.registry import ModelRegistry
from backend.job_state import iso_time
from backend.settings import FinetuneProjects

logger = logging.getLogger(__name__)

START = "START_TRAINING"
"""The action of the webhook that Label Studio's button sends, and an annotation where "start
training on annotation submission" is set."""
_FOLLOW_SECONDS = 5.0
_INTERNAL = ("crashes", "under_way")


class NoSuchVersion(ExpectedError):
    """A version cannot be put into use."""


class Finetuning:
    """Starts jobs for the projects that may, and lets the engine follow the registry.

    Args:
        pinned: whether the operator chose a version, which then stays.
    """

    def __init__(
        self,
        jobs: FinetuneJobs,
        registry: ModelRegistry,
        engine: Engine,
        allowed: FinetuneProjects,
        *,
        pinned: bool,
    ) -> None:
        self.jobs = jobs
        self._registry = registry
        self._engine = engine
        self._allowed = allowed
        self._pinned = pinned
        self._refused: set[ModelChoice] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="model-version", daemon=True)
        self._thread.start()

    def webhook(self, body: object) -> str | None:
        """Act on a webhook of Label Studio; returns what is done, None where nothing is asked.

        Of the body only the number of the project is used; what is trained on is read from Label
        Studio with the service's own credentials.
        """
        if not isinstance(body, Mapping) or body.get("action") != START:
            return None
        named = body.get("project")  # an object with an ``id``, or the number itself
        project = named.get("id") if isinstance(named, Mapping) else named
        if type(project) is not int or not 0 < project < 10**9:
            return "the request names no project"
        if project not in self._allowed:
            logger.info("fine-tuning on project %d was asked for; it is off", project)
            return f"fine-tuning on project {project} is off: see FINETUNE_PROJECTS"
        return self.jobs.request(project)

    def versions(self) -> list[str]:
        """The version in use, then the others."""
        current = self._engine.model_version
        return [current, *(each for each in self._registry.versions() if each != current)]

    def notes(self) -> dict[str, Any]:
        """Which version answers, whether it stays, and what is remembered of each."""
        return {
            "current": self._engine.model_version,
            "pinned": self._pinned,
            "versions": self._registry.notes(),
        }

    def use(self, version: str) -> str:
        """Have a version answer from the next moments on; returns what happens, in a sentence.

        Raises:
            NoSuchVersion: there is none, or the operator has chosen one.
        """
        if self._pinned:
            raise NoSuchVersion(
                "SAM2_MODEL_VERSION says which version answers: unset it to choose another here"
            )
        if not self._registry.use(version):
            raise NoSuchVersion(f"there is no version {version[:100]}")
        logger.info("%s is to answer", version)
        return f"{version} answers from the next moments on"

    def shown(self, job: FinetuneJob) -> dict[str, Any]:
        """What a job looks like from outside."""
        progress = self.jobs.progress(job.project)
        defaults = {"stage": "", "pictures": 0, "step": 0, "steps": 0, "curve": [], "version": None}
        said = {name: progress.get(name, default) for name, default in defaults.items()}
        times = {"created": iso_time(job.created), "updated": iso_time(job.updated)}
        known = {name: value for name, value in asdict(job).items() if name not in _INTERNAL}
        return {**known, **said, **times}

    def follow(self) -> None:
        """Use the newest version, if it is not in use yet; where the service began with one that
        cannot be loaded, what it was made from."""
        state = self._engine.status().state
        if self._pinned or state is State.LOADING:
            return
        choice = self._registry.choice(None)
        current = self._engine.model_version
        if state is State.FAILED and choice.version == current and choice not in self._refused:
            self._refused.add(choice)
            choice = self._registry.base
            logger.error("%s cannot be loaded; %s is to answer", current, choice.version)
        if choice.version == current or choice in self._refused:
            return
        try:
            self._engine.replace(choice)
        except Exception:  # thread boundary: the weights in use stay
            self._refused.add(choice)
            logger.exception("%s cannot be used; the model stays as it is", choice.version)

    def resume(self) -> None:
        """Take up what a stopped service left behind, of projects that still may."""
        for job in self.jobs.unfinished():
            if job.project in self._allowed:
                self.jobs.request(job.project)

    def close(self) -> None:
        """Stop; a job under way goes on at the next start."""
        self._stopping.set()
        self.jobs.close()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopping.wait(_FOLLOW_SECONDS):
            self.follow()
