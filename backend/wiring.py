"""From settings to parts: the only place that knows how they are put together.

No other file makes a ``LabelStudioClient``, so all of them trust the same certificates.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from backend.cluster.deploy import Cluster, Declaration, check_cluster
from backend.engine.building import CACHE_BYTES, ModelChoice, cache_bytes_for, variant_for
from backend.engine.embedding_disk import EmbeddingDisk
from backend.engine.embedding_tiers import EmbeddingTiers
from backend.engine.engine import Engine
from backend.engine.local import LocalEngine
from backend.engine.suspended import SuspendedMemory
from backend.finetune.finetune_jobs import FinetuneJobs
from backend.finetune.finetuning import Finetuning
from backend.finetune.registry import ModelRegistry
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.detector_client import DetectorClient
from backend.labelstudio.label_config import RecentConfigs
from backend.labelstudio.tags import LabelConfig
from backend.logs import configure
from backend.media.proxy import Proxy
from backend.media.resolver import MediaResolver
from backend.media.s3 import S3, Bucket, S3Settings, read_buckets
from backend.media.sources import Timeouts
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import PixelResolver
from backend.pixels.sandbox.image_decoding import ImageDecoder
from backend.predict.click import Clicks
from backend.predict.dispatch import Dispatcher
from backend.predict.events.protocol import VideoProtocol
from backend.predict.events.sessions import InteractiveJobs
from backend.predict.everything_command import EverythingCommand, EverythingFinder
from backend.predict.find import Finder
from backend.predict.find_command import FindCommand
from backend.predict.recent import RecentPrompts
from backend.predict.retrieve import NextTasks, Retrieval
from backend.predict.segment import Segmenter
from backend.settings import AUTO, Settings, SettingsError
from backend.tracking.database import (
    StoreError,
    check_file,
    lock_jobs,
    set_aside_damaged,
)
from backend.tracking.store import TrackStore
from backend.tracking.tracking import Tracking

READING_SECONDS = 120.0  # a page of tasks can hold tens of megabytes of masks


class Wiring:
    """Makes the parts that the settings describe; whoever asks for a part closes it.

    Attributes:
        metrics: what the engine and the service made here count.
        make_replica: names what makes the engine of a replica, see ``Replica``.
    """

    make_replica = f"{__name__}:replica_engine"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._opened = ExitStack()  # closes what media are fetched and decoded with

    @property
    def verify(self) -> bool | str:
        """What verifies TLS certificates, as ``requests`` and boto3 take it."""
        return True if self.settings.ca_bundle is None else str(self.settings.ca_bundle)

    def label_studio(self, timeout: float = 10.0) -> LabelStudioClient | None:
        """The Label Studio of the settings; None where they name none.

        Args:
            timeout: seconds to wait for an answer.

        Raises:
            LabelStudioError: its address or key cannot be used.
        """
        url, key = self.settings.label_studio_url, self.settings.label_studio_api_key
        if url is None:
            return None
        return LabelStudioClient(url, key, timeout=timeout, verify=self.verify)

    def connect(self) -> LabelStudioClient:
        """The Label Studio of the settings, for what reads whole projects.

        Raises:
            SettingsError: there is none in the settings.
            LabelStudioError: its address or key cannot be used.
        """
        client = self.label_studio(READING_SECONDS)
        if client is None:
            raise SettingsError(
                "No Label Studio is configured: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY."
            )
        return client

    @cached_property
    def _label_studio(self) -> LabelStudioClient | None:
        """The one that the service asks, whose session all its parts share."""
        return self.label_studio()

    def detector(self) -> DetectorClient | None:
        """The other ML backend that is asked where objects are; None where the settings name
        none."""
        settings = self.settings
        if settings.detector_url is None:
            return None
        user, password = settings.detector_user, settings.detector_pass
        return DetectorClient(settings.detector_url, user, password, verify=self.verify)

    def finder(self) -> Finder:
        """What asks the detector, where there is one."""
        settings = self.settings
        return Finder(
            self.detector(),
            self.pixels,
            self.metrics,
            labels=dict(settings.detector_labels),
            score=settings.detector_score,
            fetch_url=settings.detector_fetch_url,
        )

    def s3_settings(self) -> S3Settings:
        """Where the buckets are.

        Raises:
            SettingsError: the file that S3_BUCKETS names cannot be used.
        """
        settings = self.settings
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

    def s3(self) -> S3:
        """What talks to the buckets. Raises as ``s3_settings`` does."""
        return S3(self.s3_settings(), timeouts=Timeouts(), verify=self.verify)

    def media(self, label_studio: LabelStudioClient | None) -> MediaResolver:
        """The way to the media of tasks. Raises as ``s3_settings`` does.

        Args:
            label_studio: reads uploads and storages of Label Studio; None to read none of them.
        """
        settings = self.settings
        return MediaResolver(
            cache_directory=settings.cache_dir.expanduser() / "media",
            cache_bytes=settings.media_cache_bytes,
            label_studio=label_studio,
            local_root=settings.local_files_root,
            cache_age=settings.media_cache_days * 86400,
            s3=self.s3_settings(),
            max_bytes=settings.max_media_bytes,
            max_stream_bytes=settings.max_video_bytes,
            allowed_private_hosts=settings.allowed_private_hosts,
            timeouts=Timeouts(least=settings.media_min_kib_per_second * 1024),
            verify=self.verify,
            proxy=Proxy(settings.https_proxy, settings.no_proxy) if settings.https_proxy else None,
        )

    def decoder(self, warm: int = 2) -> ImageDecoder:
        """What decodes images and masks, in so many processes that are kept ready."""
        return ImageDecoder(max_pixels=self.settings.max_image_pixels, warm=warm)

    @cached_property
    def pixels(self) -> PixelResolver:
        """What turns recipes into pixels, for the engine and for the service, which closes it.
        Raises as ``media`` and ``label_studio`` do."""
        metrics = self.metrics
        opened = self._opened
        resolver = opened.enter_context(closing(self.media(self._label_studio)))
        decoder = opened.enter_context(closing(self.decoder()))
        pixels = opened.enter_context(closing(PixelResolver(resolver, metrics, decoder)))
        _count_media(metrics, resolver)
        metrics.gauge(
            "sam2_decoders_lost",
            "Decoding processes that hung or crashed",
            lambda: decoder.failures,
        )
        return pixels

    def tracks(self) -> TrackStore:
        """Tracking jobs and their masks."""
        return TrackStore(self._tracks_file)

    def check_tracks(self) -> None:
        """Look whether the tracks can be read, without changing them. Raises as ``check_file``
        does."""
        check_file(self._tracks_file)

    def check_alone(self) -> None:
        """Look whether this process could take up the jobs. Raises as ``lock_jobs`` does."""
        with lock_jobs(self._tracks_file):
            pass

    def check_cluster(self) -> None:
        """Look whether this machine could take part in the cluster of the settings, if there is
        one. Raises ``ClusterError``, ``SettingsError``."""
        if self.settings.cluster_address is not None:
            check_cluster(self.settings, self.settings.cluster_address)
            self.base_model()

    @property
    def _tracks_file(self) -> Path:
        return self.settings.state_dir.expanduser() / "tracks.sqlite3"

    def models(self) -> ModelRegistry:
        """The fine-tuned versions of the base model."""
        return ModelRegistry(self.settings.state_dir.expanduser() / "models", self.base_model())

    def base_model(self) -> ModelChoice:
        """The model that everything began with. Nothing is loaded."""
        settings = self.settings
        return ModelChoice(
            variant=self._variant,
            checkpoint=settings.checkpoint,
            device=settings.device,
            dtype=settings.dtype,
            image_size=settings.image_size,
            num_mask_memories=settings.num_maskmem,
            track_memory=settings.track_memory,
        )

    @cached_property
    def _variant(self) -> str:
        """Asked once: with the model on it, a device has less memory free."""
        settings = self.settings
        if settings.variant != AUTO:
            return settings.variant
        if settings.cluster_address is not None:
            raise SettingsError(
                "SAM2_VARIANT: auto is for one machine; name the model that all of the cluster load"
            )
        return variant_for(settings.device)

    @cached_property
    def _cache_bytes(self) -> int:
        """Of embeddings on the device; asked once, as ``_variant``."""
        settings = self.settings
        return settings.embedding_cache_bytes or cache_bytes_for(settings.device)

    def model(self) -> ModelChoice:
        """The model that answers: the fine-tuned version in use, if there is one. Nothing is
        loaded."""
        return self.models().choice(self.settings.model_version)

    def engine(self) -> Engine:
        """The engine; its model starts to load."""
        if self.settings.cluster_address is not None:
            return self._ray_engine(self.settings.cluster_address)
        return self.local_engine(self.model(), self.settings.speck_percent / 100)

    def local_engine(self, choice: ModelChoice, speck_share: float, **options: Any) -> LocalEngine:
        """The engine on this machine's device; its model starts to load. ``options`` are passed
        on."""
        return LocalEngine(
            choice,
            self.pixels,
            cache_bytes=self._cache_bytes,
            metrics=self.metrics,
            speck_share=speck_share,
            suspended=SuspendedMemory(self.settings.cache_dir.expanduser() / "suspended"),
            tiers=self._tiers(),
            **options,
        )

    def _tiers(self) -> EmbeddingTiers:
        """Where embeddings are kept below the device."""
        settings, disk = self.settings, None
        if settings.embedding_disk_bytes:
            disk = EmbeddingDisk(
                settings.cache_dir.expanduser() / "embeddings",
                settings.embedding_disk_bytes,
                settings.media_cache_days * 86400,
            )
        return EmbeddingTiers(settings.embedding_cache_bytes or CACHE_BYTES, disk)

    def _ray_engine(self, address: str) -> Engine:
        cluster = Cluster.of(self.settings, address)  # sets what Ray reads when it is imported
        from backend.cluster.ray_engine import RayEngine

        settings, choice = self.settings, self.model()
        declared = Declaration(self.make_replica, settings.speck_percent / 100, choice)
        return RayEngine(choice, cluster, declared, self.metrics)

    def service(self, engine: Engine) -> Dispatcher:
        """Everything that answers requests, over ``engine``, which it closes.

        The tracking jobs that a stopped process left unfinished are taken up.

        Raises:
            StoreError: the tracks cannot be used, or another process has taken up their jobs.
        """
        settings, metrics = self.settings, self.metrics
        self._opened.enter_context(lock_jobs(self._tracks_file))
        set_aside_damaged(self._tracks_file)
        videos = self.pixels.videos
        parse = RecentConfigs(settings.polygon_detail).parse
        tracking = self._tracking(engine, parse)
        segmenter = Segmenter(engine, metrics, zoom=settings.zoom_small_objects)
        budget = settings.click_budget_seconds
        protocol = VideoProtocol(engine, segmenter, videos, tracking, budget_seconds=budget)
        tracking.resume()
        finder = self.finder()
        find = FindCommand(finder, segmenter, tracking.videos, videos, budget_seconds=budget)
        recent, long = RecentPrompts(), settings.track_budget_seconds
        everything = EverythingCommand(EverythingFinder(segmenter), recent, budget_seconds=long)
        clicks = Clicks(
            segmenter, engine, recent, tracking, find, everything, budget_seconds=budget
        )
        retrieval = Retrieval(
            segmenter,
            tracking,
            model_version=lambda: engine.model_version,
            open_seconds=settings.open_budget_seconds,
            retrieve_seconds=settings.retrieve_budget_seconds,
            next_tasks=NextTasks(self._label_studio) if self._label_studio else None,
        )
        return Dispatcher(
            engine,
            clicks,
            retrieval,
            tracking,
            metrics,
            parse=parse,
            finder=finder,
            protocol=protocol,
            threads=settings.threads,
            media=self._opened,
        )

    def finetuning(self, engine: Engine) -> Finetuning:
        """What starts fine-tuning, and has the engine follow its results."""
        finetuning = Finetuning(
            FinetuneJobs(
                self.settings.state_dir.expanduser() / "finetune",
                check=lambda project: self.connect().get_project(project),
            ),
            self.models(),
            engine,
            self.settings.finetune_projects,
            pinned=self.settings.model_version is not None,
        )
        finetuning.resume()
        return finetuning

    def _tracking(self, engine: Engine, parse: Callable[[str], LabelConfig]) -> Tracking:
        settings = self.settings
        keep_days = settings.state_keep_days
        tracking = Tracking(
            TrackStore(self._tracks_file, patient=True),
            engine,
            self.pixels,
            self._label_studio,
            budget_seconds=settings.track_budget_seconds,
            workers=settings.track_jobs,
            stride=settings.track_stride,
            on_prompt=settings.track_on_prompt,
            kinds=[InteractiveJobs(self.pixels.videos)],
            parse=parse,
            keep_seconds=keep_days * 86_400 if keep_days else math.inf,
        )
        self.metrics.gauges(
            "sam2_state_bytes",
            "Tracks on the disk, and what of that is free in their file",
            "part",
            partial(_sizes, tracking.store),
        )
        self.metrics.gauges(
            "sam2_jobs", "Tracking jobs, by state", "state", partial(_states, tracking.store)
        )
        self.metrics.gauge(
            "sam2_jobs_suspended",
            "Tracking jobs under way that have given their place to another project's",
            lambda: tracking.jobs.suspended,
        )
        self.metrics.gauge(
            "sam2_deliveries_waiting",
            "Results of tracks that wait for another attempt to store them in Label Studio",
            lambda: tracking.deliveries.waiting,
        )
        return tracking


def replica_engine(choice: ModelChoice, *, speck_share: float) -> tuple[LocalEngine, Metrics]:
    """The engine of a replica in the cluster, with the folders, credentials and device that the
    settings of its own machine name."""
    settings = Settings.from_env(os.environ)
    configure(settings)
    wiring = Wiring(settings)
    return wiring.local_engine(replace(choice, device=settings.device), speck_share), wiring.metrics


def _states(store: TrackStore) -> dict[str, int]:
    try:
        return store.states()
    except StoreError:  # whoever asks for a track gets it; the other metrics are needed now
        return {}


def _sizes(store: TrackStore) -> dict[str, int]:
    try:
        return store.database.sizes
    except StoreError:  # likewise
        return {}


def _count_media(metrics: Metrics, resolver: MediaResolver) -> None:
    stats = resolver.stats
    names = ("hits", "revalidations", "fetches", "streams", "ranges", "bytes_fetched", "evictions")
    for name in names:
        text = f"Media cache since the start: {name.replace('_', ' ')}"
        metrics.counter(f"sam2_media_{name}", text, partial(getattr, stats, name))
    metrics.gauge("sam2_media_cache_bytes", "Media held on disk", lambda: resolver.stored_bytes)
