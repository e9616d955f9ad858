"""The gunicorn entry: builds the application from the environment, inside the worker."""

from __future__ import annotations

import atexit
import logging
import os
from functools import partial

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
from backend.tracking.service import Tracking, TrackSettings
from backend.tracking.store import TrackStore


def application() -> Flask:
    """What gunicorn calls (``backend.wsgi:application()``)."""
    settings = Settings.from_env(os.environ)
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("urllib3", "botocore", "boto3", "s3transfer"):  # at DEBUG they log signatures
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
    metrics = Metrics()
    service = build_service(settings, metrics)
    atexit.register(service.close)
    return create_app(settings, service, metrics)


def build_service(settings: Settings, metrics: Metrics, *, resume: bool = True) -> Service:
    """Wire the parts together; the model starts to load.

    Args:
        resume: take up the tracking jobs that a stopped process left unfinished.
    """
    engine = LocalEngine(
        model_choice(settings),
        cache_bytes=settings.embedding_cache_bytes,
        metrics=metrics,
        speck_share=settings.speck_percent / 100,
    )
    label_studio = None
    if settings.label_studio_url is not None:
        label_studio = LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key)
    resolver = build_resolver(settings, label_studio, metrics)
    images = TaskImages(resolver, max_pixels=settings.max_image_pixels, metrics=metrics)
    tracking = Tracking(
        TrackStore(settings.state_dir.expanduser() / "tracks.sqlite3"),
        engine,
        images,
        label_studio,
        TrackSettings(settings.track_budget_seconds, settings.track_jobs),
    )
    if resume:
        tracking.jobs.resume()
    answers = Answers(engine, images, metrics)
    interactive = Interactive(
        answers, engine, PromptMemory(), tracking, budget_seconds=settings.click_budget_seconds
    )
    batch = Batch(
        answers,
        tracking.videos,
        model_version=engine.model_version,
        open_seconds=settings.open_budget_seconds,
        retrieve_seconds=settings.retrieve_budget_seconds,
    )
    return Service(engine, interactive, batch, tracking, metrics)


def model_choice(settings: Settings) -> ModelChoice:
    """The model that the settings ask for; nothing is loaded."""
    return ModelChoice(
        variant=settings.variant,
        checkpoint=settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        image_size=settings.image_size,
    )


def build_resolver(
    settings: Settings, label_studio: LabelStudioClient | None, metrics: Metrics
) -> MediaResolver:
    """The way to the media, with its counters exported."""
    resolver = MediaResolver(
        cache_directory=settings.cache_dir.expanduser() / "media",
        cache_bytes=settings.media_cache_bytes,
        label_studio=label_studio,
        local_root=settings.local_files_root,
        s3_endpoint=settings.s3_endpoint_url,
        s3_region=settings.s3_region,
        s3_anonymous=settings.s3_anonymous,
        max_bytes=settings.max_media_bytes,
        allowed_private_hosts=settings.allowed_private_hosts,
    )
    stats = resolver.stats
    for name in ("hits", "revalidations", "fetches", "bytes_fetched", "evictions"):
        text = f"Media cache since the start: {name.replace('_', ' ')}"
        metrics.gauge(f"sam2_media_{name}", text, partial(getattr, stats, name))
    metrics.gauge("sam2_media_cache_bytes", "Media held on disk", lambda: resolver.stored_bytes)
    return resolver
