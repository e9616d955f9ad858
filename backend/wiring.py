"""The gunicorn entry: builds the application from the environment, inside the worker."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any

from flask import Flask

from backend.engine.compiling import end_while_compiling
from backend.engine.local import LocalEngine, ModelChoice
from backend.finetune.finetune_jobs import FinetuneJobs
from backend.finetune.finetuning import Finetuning
from backend.finetune.registry import ModelRegistry
from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.logs import configure
from backend.media.resolver import MediaResolver
from backend.media.s3_clients import Bucket, S3Settings, read_buckets
from backend.metrics import Metrics
from backend.pixels.recipes import TaskPictures
from backend.pixels.sandbox.image_decoding import ImageDecoder
from backend.predict.click import Clicks
from backend.predict.dispatch import Dispatcher
from backend.predict.events.protocol import VideoProtocol
from backend.predict.recent import RecentPrompts
from backend.predict.retrieve import Retrieval
from backend.predict.segment import Segmenter
from backend.settings import Settings, SettingsError
from backend.tracking.store import StoreError, TrackStore
from backend.tracking.tracking import Tracking, TrackSettings
from backend.web.app import create_app

logger = logging.getLogger(__name__)


def application() -> Flask:
    """What gunicorn calls (``backend.wsgi:application()``)."""
    settings = Settings.from_env(os.environ)
    configure(settings.log_level, settings.log_format, settings.secrets())
    if settings.auth_token is not None and settings.basic_auth_user is None:
        logger.warning(
            "Label Studio is shut out: it can send a user name and a password but no token; "
            "set BASIC_AUTH_USER and BASIC_AUTH_PASS too"
        )
    metrics = Metrics()
    service = build_service(settings, metrics)
    atexit.register(_end, service)
    _drain_on_signal(service)
    return create_app(settings, service, metrics)


def _end(service: Dispatcher) -> None:
    service.close()
    end_while_compiling(0)


def _drain_on_signal(service: Dispatcher) -> None:
    """Begin to stop when the server is told to, and not when its last request has ended: those
    that wait for the model would make it wait for them."""
    if threading.current_thread() is not threading.main_thread():
        return  # somebody else's server
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        server = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, server: Any = server) -> None:
            # In a thread, because a handler may interrupt one that holds a lock.
            threading.Thread(target=service.drain, name="drain", daemon=True).start()
            if callable(server):
                server(number, frame)

        signal.signal(number, stop)


def build_service(settings: Settings, metrics: Metrics, *, resume: bool = True) -> Dispatcher:
    """Wire the parts together; the model starts to load.

    Args:
        resume: serve editors: take up the tracking jobs that a stopped process left unfinished,
            and those of the video protocol.
    """
    engine = LocalEngine(
        model_choice(settings),
        cache_bytes=settings.embedding_cache_bytes,
        metrics=metrics,
        speck_share=settings.speck_percent / 100,
    )
    label_studio = None
    if settings.label_studio_url is not None:
        label_studio = LabelStudioClient(
            settings.label_studio_url, settings.label_studio_api_key, verify=ca_bundle(settings)
        )
    media = ExitStack()
    resolver = build_resolver(settings, label_studio, metrics)
    media.callback(resolver.close)
    decoder = ImageDecoder(max_pixels=settings.max_image_pixels)
    media.callback(decoder.close)
    metrics.gauge(
        "sam2_decoders_lost", "Decoding processes that hung or crashed", lambda: decoder.failures
    )
    images = TaskPictures(resolver, metrics, decoder.load)
    media.callback(images.close)
    tracking = Tracking(
        TrackStore(settings.state_dir.expanduser() / "tracks.sqlite3"),
        engine,
        images,
        label_studio,
        TrackSettings(
            settings.track_budget_seconds,
            settings.track_jobs,
            settings.track_on_prompt,
            settings.track_stride,
        ),
    )
    metrics.gauges("sam2_jobs", "Tracking jobs, by state", "state", partial(_states, tracking))
    metrics.gauge(
        "sam2_deliveries_waiting",
        "Results of tracks that wait for another attempt to store them in Label Studio",
        lambda: tracking.deliveries.waiting,
    )
    protocol = None
    if resume:
        budget = settings.click_budget_seconds
        protocol = VideoProtocol(engine, images, tracking, budget_seconds=budget)
        tracking.resume()
    segmenter = Segmenter(engine, images, metrics, zoom=settings.zoom_small_objects)
    clicks = Clicks(
        segmenter, engine, RecentPrompts(), tracking, budget_seconds=settings.click_budget_seconds
    )
    retrieval = Retrieval(
        segmenter,
        tracking.videos,
        model_version=lambda: engine.model_version,
        open_seconds=settings.open_budget_seconds,
        retrieve_seconds=settings.retrieve_budget_seconds,
    )
    return Dispatcher(
        engine,
        clicks,
        retrieval,
        tracking,
        metrics,
        protocol=protocol,
        finetuning=build_finetuning(settings, engine, label_studio) if resume else None,
        threads=settings.threads,
        media=media,
    )


def _states(tracking: Tracking) -> dict[str, int]:
    try:
        return tracking.store.states()
    except StoreError:  # told to whoever asks for a track; the other metrics are needed now
        return {}


def build_finetuning(
    settings: Settings, engine: LocalEngine, label_studio: LabelStudioClient | None
) -> Finetuning:
    """What starts fine-tuning, and has the engine follow its results."""

    def check(project: int) -> None:
        if label_studio is None:
            raise LabelStudioError(
                "Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY: annotations are read from there."
            )
        label_studio.get_project(project)

    jobs = FinetuneJobs(settings.state_dir.expanduser() / "finetune", check=check)
    finetuning = Finetuning(
        jobs,
        model_registry(settings),
        engine,
        settings.finetune_projects,
        pinned=settings.model_version is not None,
    )
    finetuning.resume()
    return finetuning


def model_choice(settings: Settings) -> ModelChoice:
    """The model that answers under these settings: the fine-tuned version in use, if there is one.

    Nothing is loaded.
    """
    return model_registry(settings).choice(settings.model_version)


def model_registry(settings: Settings) -> ModelRegistry:
    """The fine-tuned versions of the base model."""
    return ModelRegistry(settings.state_dir.expanduser() / "models", base_choice(settings))


def base_choice(settings: Settings) -> ModelChoice:
    """The model that everything began with."""
    return ModelChoice(
        variant=settings.variant,
        checkpoint=settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        image_size=settings.image_size,
        num_mask_memories=settings.num_maskmem,
        compile_cache=settings.cache_dir.expanduser() / "compiled" if settings.compile else None,
    )


def ca_bundle(settings: Settings) -> bool | str:
    """What verifies TLS certificates, as ``requests`` and boto3 take it."""
    return True if settings.ca_bundle is None else str(settings.ca_bundle)


def s3_settings(settings: Settings) -> S3Settings:
    """Where the buckets are.

    Raises:
        SettingsError: the file that S3_BUCKETS names cannot be used.
    """
    default = Bucket(
        endpoint=settings.s3_endpoint_url,
        region=settings.s3_region,
        anonymous=settings.s3_anonymous,
        path_style=settings.s3_path_style,
        requester_pays=settings.s3_requester_pays,
    )
    try:
        buckets = read_buckets(settings.s3_buckets, default) if settings.s3_buckets else {}
    except ValueError as error:
        raise SettingsError(f"S3_BUCKETS: {error}") from None
    return S3Settings(default, buckets)


def build_resolver(
    settings: Settings, label_studio: LabelStudioClient | None, metrics: Metrics
) -> MediaResolver:
    """The way to the media, with its counters exported."""
    resolver = MediaResolver(
        cache_directory=settings.cache_dir.expanduser() / "media",
        cache_bytes=settings.media_cache_bytes,
        label_studio=label_studio,
        local_root=settings.local_files_root,
        cache_age=settings.media_cache_days * 86400,
        s3=s3_settings(settings),
        max_bytes=settings.max_media_bytes,
        max_stream_bytes=settings.max_video_bytes,
        allowed_private_hosts=settings.allowed_private_hosts,
        verify=ca_bundle(settings),
    )
    stats = resolver.stats
    names = ("hits", "revalidations", "fetches", "streams", "ranges", "bytes_fetched", "evictions")
    for name in names:
        text = f"Media cache since the start: {name.replace('_', ' ')}"
        metrics.counter(f"sam2_media_{name}", text, partial(getattr, stats, name))
    metrics.gauge("sam2_media_cache_bytes", "Media held on disk", lambda: resolver.stored_bytes)
    return resolver
