"""The gunicorn entry: builds the application from the environment, inside the worker."""

from __future__ import annotations

import atexit
import logging
import os

from flask import Flask

from backend.answers import Answers
from backend.app import create_app
from backend.batch import Batch
from backend.engine.local import LocalEngine, ModelChoice
from backend.interactive import Interactive
from backend.labelstudio.client import LabelStudioClient
from backend.media.resolver import MediaResolver
from backend.memory import PromptMemory
from backend.metrics import Metrics
from backend.service import Service
from backend.settings import Settings
from backend.task_images import TaskImages


def application() -> Flask:
    """What gunicorn calls (``backend.wsgi:application()``)."""
    settings = Settings.from_env(os.environ)
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    metrics = Metrics()
    service = build_service(settings, metrics)
    atexit.register(service.close)
    return create_app(settings, service, metrics)


def build_service(settings: Settings, metrics: Metrics) -> Service:
    """Wire the parts together; the model starts to load."""
    choice = ModelChoice(
        variant=settings.variant,
        checkpoint=settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        image_size=settings.image_size,
    )
    engine = LocalEngine(choice, cache_bytes=settings.embedding_cache_bytes, metrics=metrics)
    images = TaskImages(
        build_resolver(settings, metrics), max_pixels=settings.max_image_pixels, metrics=metrics
    )
    answers = Answers(engine, images, metrics)
    interactive = Interactive(
        answers, engine, PromptMemory(), budget_seconds=settings.click_budget_seconds
    )
    batch = Batch(
        answers,
        model_version=engine.model_version,
        open_seconds=settings.open_budget_seconds,
        retrieve_seconds=settings.retrieve_budget_seconds,
    )
    return Service(engine, interactive, batch, metrics)
