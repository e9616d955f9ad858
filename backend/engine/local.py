"""The engine on this machine's device: one model, one inference thread, one cache."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from backend.engine.building import (
    LoadedModel,
    ModelChoice,
    build_predictor,
    build_video_tracker,
    device_of,
    loaded,
    unused_card,
)
from backend.engine.device_memory import DeviceMemory, MemoryRetry, count_memory
from backend.engine.embedding_disk import DiskRoom, PackedEmbedding
from backend.engine.embedding_tiers import (
    EmbeddingCache,
    EmbeddingTiers,
    count_embeddings,
    packed_bytes,
    unpack,
)
from backend.engine.engine import (
    MOST_OBJECTS,
    Answer,
    Everything,
    Frames,
    NotReady,
    Outcome,
    State,
    Status,
    TrackedPage,
    Vitals,
)
from backend.engine.everything import Searches, Wanted
from backend.engine.interpolation import StridedTracker
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt, UnusableShape, pixel_prompt
from backend.engine.queued_tracker import QueuedTracker
from backend.engine.scheduler import (
    InferenceThread,
    Job,
    Priority,
    failure_of,
    wait_for_job,
)
from backend.engine.segmenting import Segment, batch_size, batches, segment_batch
from backend.engine.suspended import SuspendedMemory
from backend.engine.zoom import is_large, window_for
from backend.labelstudio.geometry import Box
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.labelstudio.read_results import DecodeMask
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource, PixelResolver
from backend.pixels.recipes import FramesRecipe, ImageRecipe
from backend.recent_values import Recent
from backend.threads.caller import caller, keep_caller
from backend.threads.fair_queue import Busy

if TYPE_CHECKING:
    from sam2model import ImageEmbedding, ImagePredictor, KnownMask, ObjectMemory, VideoTracker

logger = logging.getLogger(__name__)
T = TypeVar("T")

KEPT_LOGITS = 128  # of 256 KiB at 1024 px
LOGITS_SECONDS = 600.0
NO_TIME = "the model had no time to answer yet; try again in a moment"
RECALL_SECONDS = 3.0  # how long a correction may take before it leaves pages out of its memory


@dataclass(frozen=True)
class _Request:
    """What holds for all steps of a request: the weights too, whatever replaces them meanwhile.

    Attributes:
        deadline: on ``time.monotonic``.
        zoom, refine: see ``Engine.answer``.
    """

    model: LoadedModel
    priority: Priority
    deadline: float
    zoom: bool = False
    refine: bool = False


@dataclass
class _Encode:
    """The encoding of an image: how urgent it is, and its job once the image is decoded."""

    priority: Priority
    job: Job[None] | None = None


class LocalEngine:
    """See ``Engine``. The model is loaded in the background, on the inference thread.

    torch is imported there too, so that the web server answers health checks meanwhile.
    """

    def __init__(
        self,
        choice: ModelChoice,
        pixels: PixelResolver,
        *,
        cache_bytes: int,
        metrics: Metrics,
        speck_share: float = 0.0,
        build: Callable[[ModelChoice], ImagePredictor] | None = None,
        build_tracker: Callable[[ImagePredictor, Frames], VideoTracker] | None = None,
        suspended: SuspendedMemory | None = None,
        tiers: EmbeddingTiers | None = None,
    ) -> None:
        self.model_version = choice.version
        self.family = choice.family or choice.version
        self._choice = choice
        self._pixels = pixels
        self._metrics = metrics
        self._speck_share = speck_share
        self._tiers = tiers or EmbeddingTiers(0, None)
        self._cache = EmbeddingCache(cache_bytes, self._tiers.take_over)
        self._suspended = suspended or SuspendedMemory(Path(tempfile.gettempdir()))
        self._logits: Recent[np.ndarray] = Recent(entries=KEPT_LOGITS, seconds=LOGITS_SECONDS)
        self._searches = Searches(speck_share)
        self._with_memory = MemoryRetry(self._cache.clear, metrics)
        self._held = DeviceMemory()
        self._embedding_bytes = 0  # of one on the disk, once it is known
        self._encodes_lock = threading.Lock()
        self._encodes: dict[str, _Encode] = {}
        self._thread = InferenceThread(on_start=self._waited)
        yield_to = self._thread.yield_point
        self._build = build or partial(build_predictor, yield_to=yield_to)
        self._build_tracker = build_tracker or partial(build_video_tracker, choice, yield_to)
        self._started = time.monotonic()
        self._unused_card: str | None = None
        self._loading = self._thread.submit(self._load, Priority.CLICK).future
        self._export()

    def status(self) -> Status:
        """See ``Engine``."""
        if not self._loading.done():
            seconds = time.monotonic() - self._started
            return Status(State.LOADING, f"the model has been loading for {seconds:.0f} s")
        error = None if self._loading.cancelled() else self._loading.exception()
        if self._loading.cancelled() or error is not None:
            return Status(State.FAILED, f"the model could not be loaded: {_one_line(error)}")
        amiss = "" if self._unused_card is None else f", on the CPU: {self._unused_card}"
        return Status(State.READY, f"{self.model_version} is ready{amiss}")

    @property
    def busy_seconds(self) -> float:
        """See ``Engine``."""
        return self._thread.busy_seconds

    @property
    def replicas(self) -> Sequence[Vitals]:
        """See ``Engine``."""
        return ()

    @property
    def waiting(self) -> int:
        """Calls that wait for the model."""
        return self._thread.waiting

    def wait_ready(self, timeout: float) -> None:
        """See ``Engine``."""
        self._model(timeout)

    def embed(self, image: ImageRecipe, priority: Priority, timeout: float) -> None:
        """See ``Engine``."""
        deadline = time.monotonic() + timeout
        found = self._pixels.find(image, deadline)
        model = self._model(deadline - time.monotonic())
        self._embed(found, _Request(model, priority, deadline))

    def disk_room(self, timeout: float) -> DiskRoom:
        """See ``Engine``."""
        disk = self._tiers.disk
        if disk is None:
            return DiskRoom(0, 0, 0)
        predictor = self._model(timeout).predictor
        if not self._embedding_bytes:
            future = self._submit(partial(packed_bytes, predictor), Priority.RUN).future
            self._embedding_bytes = wait_for_job(future, time.monotonic() + timeout)
        return DiskRoom(self._embedding_bytes, disk.capacity, disk.used)

    def answer(
        self,
        image: ImageRecipe,
        prompts: Sequence[ObjectPrompt],
        priority: Priority,
        timeout: float,
        *,
        zoom: bool = False,
        refine: bool = False,
    ) -> list[Outcome]:
        """See ``Engine``."""
        deadline = time.monotonic() + timeout
        found = self._pixels.find(image, deadline)
        model = self._model(deadline - time.monotonic())
        request = _Request(model, priority, deadline, zoom, refine)
        whole = self._embed(found, request)
        height, width = whole.original_size
        pixels = partial(pixel_prompt, width=width, height=height, decode=self._masks(request))
        answers: dict[int, Outcome] = {}
        late = Busy(NO_TIME)

        def usable() -> Iterator[tuple[int, PixelPrompt]]:
            for number, prompt in enumerate(prompts):
                if time.monotonic() > deadline:
                    raise late
                try:
                    yield number, pixels(prompt)
                except UnusableShape as error:
                    answers[number] = error

        # Prompts are made, and masks packed, batch by batch: a mask is as large as the picture.
        closely = refine or (zoom and is_large(width, height, model.side))
        if closely and len(prompts) > 1:  # else decoded anew for each window
            found = dataclasses.replace(found, load=cache(found.load))
        try:
            for batch in batches(usable(), 1 if closely else batch_size(width, height)):
                numbers, asked = zip(*batch, strict=True)
                if closely:
                    pair = prompts[numbers[0]], asked[0]
                    masks = [self._segment_closely(found, whole, *pair, request)]
                else:
                    masks = self._segment(whole, asked, request)
                packed = [Answer(PackedMask.pack(each.mask), each.score) for each in masks]
                answers |= zip(numbers, packed, strict=True)
                del masks
        except Busy as error:
            late = error
        return [answers.get(number, late) for number in range(len(prompts))]

    def everything(
        self,
        image: ImageRecipe,
        priority: Priority,
        timeout: float,
        *,
        within: Box | None = None,
        taken: Sequence[ObjectPrompt] = (),
        most: int = MOST_OBJECTS,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Everything:
        """See ``Engine``."""
        deadline = time.monotonic() + timeout
        found = self._pixels.find(image, deadline)
        request = _Request(self._model(deadline - time.monotonic()), priority, deadline)

        def run(call: Callable[[], T], stopped: Callable[[], bool]) -> T:
            def timed() -> T:
                with self._metrics.stage("everything"):
                    return self._with_memory(call)

            future = self._submit(timed, priority, stopped).future
            try:
                return wait_for_job(future, deadline)
            except Busy:
                future.cancel()  # nobody waits for it any more; what runs ends by ``stopped``
                raise

        wanted = Wanted(within, taken, most, self._masks(request), deadline, stopped)
        embed = partial(self._embed, request=request)
        return self._searches.find(request.model.predictor, found, wanted, embed, run)

    def _masks(self, request: _Request) -> DecodeMask:
        return self._pixels.masks(max(request.deadline - time.monotonic(), 0.0))

    def correct(
        self, image: ImageRecipe, prompt: ObjectPrompt, seen: TrackedPage, timeout: float
    ) -> Answer:
        """See ``Engine``."""
        start = time.monotonic()
        deadline = start + timeout
        found = self._pixels.find(image, deadline)
        request = _Request(self._model(deadline - start), Priority.CLICK, deadline)
        embedding = self._embed(found, request)
        height, width = embedding.original_size
        pixels = dataclasses.replace(
            pixel_prompt(prompt, width, height, self._masks(request)),
            mask=seen.mask.unpack(),
            logits=self._logits.get((found.key, seen.mask)),  # of a recent correction
            memory=self._recall(seen, request, start + RECALL_SECONDS),
        )
        [segment] = self._segment(embedding, [pixels], request)
        answer = Answer(PackedMask.pack(segment.mask), segment.score)
        self._logits.put((found.key, answer.mask), segment.logits)
        return answer

    def _recall(self, seen: TrackedPage, request: _Request, until: float) -> ObjectMemory | None:
        """What is known of an object on the pages that are encoded by ``until``, but for the most
        important one, which is waited for; None where there is nothing."""
        from sam2model import KnownMask, ObjectMemory  # brings torch

        known: dict[int, KnownMask] = {}
        for each in seen.others:
            if known and time.monotonic() > until:
                break
            embedding = self._embed(self._pixels.find(each.image, request.deadline), request)
            # Whatever comes first stands for what a human marked: nothing is tracked without.
            prompted = each.prompted or not known
            known[each.page] = KnownMask(embedding.features, each.mask.unpack(), prompted)
        if not known:
            return None
        return ObjectMemory(seen.page, seen.pages, known, reverse=seen.reverse)

    def open_tracker(
        self, frames: FramesRecipe, chosen: Sequence[int] | None = None
    ) -> StridedTracker:
        """See ``Engine``."""
        model = self._model(0.0)
        priority = Priority.RUN if caller().run else Priority.TRACK

        def run(call: Callable[[], T], stopped: Callable[[], bool] = lambda: False) -> Future[T]:
            def timed() -> T:
                with self._metrics.stage("track"):  # and the clicks that go first meanwhile
                    return self._with_memory(call)

            return self._submit(timed, priority, stopped).future

        queued = partial(
            QueuedTracker,
            lambda given: self._held.counted(self._build_tracker(model.predictor, given)),
            run=run,
            weights=model.version,
            reading=partial(self._metrics.stage, "frame"),
            tracked=self._metrics.frames_tracked.inc,
            speck_share=self._speck_share,
            keep=self._suspended.keep,
        )
        opened = self._pixels.frames(frames)
        try:
            return StridedTracker(queued, opened, chosen or range(len(opened)))
        except BaseException:
            opened.close()
            raise

    def replace(self, choice: ModelChoice) -> None:
        """See ``Engine``."""
        logger.info("loading %s beside %s", choice.version, self.model_version)
        # In a thread that ends. As long as a second thread lives that has used torch, libgomp takes
        # the cores for overcommitted and lets the helpers of the inference thread sleep between
        # their loops: with a small network a frame takes half as long again (docs/performance.md).
        with ThreadPoolExecutor(1, "loading") as passing:
            loading = passing.submit(lambda: loaded(self._build(choice), choice.version))
        loading.result()
        self._loading, self._choice, self.model_version = loading, choice, choice.version
        self._searches.forget()
        logger.info("%s answers from now on", choice.version)

    def drain(self) -> None:
        """See ``Engine``."""
        self._thread.cancel_waiting()

    def close(self) -> None:
        """See ``Engine``."""
        self._thread.stop(timeout=10.0)
        self._tiers.close()

    def _load(self) -> LoadedModel:
        logger.info("loading %s", self.model_version)
        try:
            start = time.monotonic()
            with self._metrics.stage("load"):
                model = loaded(self._build(self._choice), self._choice.version)
            self._metrics.load_seconds.set(time.monotonic() - start)
            self._metrics.device = device_of(model.predictor)
            self._unused_card = unused_card(self._choice)
        except Exception:
            logger.exception("the model could not be loaded")
            raise
        if self._unused_card is not None:
            logger.warning("the model runs on the CPU: %s", self._unused_card)
        logger.info(
            "%s is ready after %.1f s", self.model_version, time.monotonic() - self._started
        )
        return model

    def _model(self, timeout: float) -> LoadedModel:
        try:
            return self._loading.result(timeout)
        except Exception:  # noqa: BLE001 - loading, or logged by _load; here it becomes the answer
            detail = self.status().detail
        raise NotReady(detail)

    def _waited(self, priority: Priority, seconds: float) -> None:
        self._metrics.queue_wait_seconds.labels(priority.name.lower()).observe(seconds)

    def _export(self) -> None:
        cache, thread, metrics = self._cache, self._thread, self._metrics
        metrics.gauges(
            "sam2_queue_depth",
            "Jobs waiting for the model, by priority",
            "priority",
            lambda: {each.name.lower(): thread.depth(each) for each in Priority},
        )
        metrics.gauge(
            "sam2_model_busy_seconds",
            "How long the model has been at the call it runs now",
            lambda: thread.busy_seconds,
        )
        count_embeddings(metrics, cache, self._tiers)
        metrics.gauges(
            "sam2_suspended_bytes",
            "What tracks remember that wait for their turn, by where it is kept",
            "where",
            lambda: self._suspended.held,
        )
        metrics.gauge(
            "sam2_model_ready",
            "1 when the model answers",
            lambda: float(self.status().state is State.READY),
        )
        count_memory(metrics, self._memory)

    def _memory(self) -> dict[str, float]:
        if self.status().state is not State.READY:
            return {}
        return self._held.by_owner(self._model(0.0).predictor.model, self._cache.nbytes)

    def _submit(
        self,
        call: Callable[[], T],
        priority: Priority,
        stopped: Callable[[], bool] = lambda: False,
        followed: bool = False,
    ) -> Job[T]:
        owner = caller().owner
        return self._thread.submit(
            keep_caller(call), priority, owner, stopped=stopped, followed=followed
        )

    def _segment_closely(
        self,
        image: ImageSource,
        whole: ImageEmbedding,
        prompt: ObjectPrompt,
        pixels: PixelPrompt,
        request: _Request,
    ) -> Segment:
        """The mask of one prompt, in a window of the image where its object is small."""

        def look() -> np.ndarray:
            [segment] = self._segment(whole, [pixels], request, followed=True)
            return segment.logits[0]

        height, width = whole.original_size
        side = request.model.side
        window = window_for(pixels, look, width, height, side) if request.zoom else None
        if window is not None:
            part = window.source(image)
            try:
                inside = self._embed(part, request)
            except Busy:
                logger.warning("no time to look closer at %s; the whole image answers", part.key)
            else:
                found = self._correct(part, inside, prompt, window.prompt(pixels), request)
                return window.segment(found, width, height)
        return self._correct(image, whole, prompt, pixels, request)

    def _correct(
        self,
        image: ImageSource,
        embedding: ImageEmbedding,
        prompt: ObjectPrompt,
        pixels: PixelPrompt,
        request: _Request,
    ) -> Segment:
        """The mask of one prompt; where asked for, its last point corrects the answer to those
        before it."""
        if request.refine and prompt.points:
            person, before = caller().person, prompt.points[:-1]
            earlier = self._logits.get(_answer_key(person, image, prompt, before))
            if earlier is None:  # answered before a draft said who asks
                earlier = self._logits.get(_answer_key("", image, prompt, before))
            pixels = dataclasses.replace(pixels, logits=earlier)
        [segment] = self._segment(embedding, [pixels], request)
        if request.refine and prompt.shape is None:
            key = _answer_key(caller().person, image, prompt, prompt.points)
            self._logits.put(key, segment.logits)
        return segment

    def _segment(
        self,
        image: ImageEmbedding,
        prompts: Sequence[PixelPrompt],
        request: _Request,
        *,
        followed: bool = False,
    ) -> list[Segment]:
        """One mask for each prompt of a batch, in order; more urgent work goes before it."""
        predictor = request.model.predictor
        call = partial(segment_batch, predictor, image, prompts, self._speck_share)

        def run() -> list[Segment]:
            with self._metrics.stage("prompt"):
                return self._with_memory(call)

        future = self._submit(run, request.priority, followed=followed).future
        try:
            return wait_for_job(future, request.deadline)
        except Busy:
            future.cancel()  # nobody waits for it any more
            raise

    def _embed(self, image: ImageSource, request: _Request) -> ImageEmbedding:
        image = dataclasses.replace(image, key=f"{request.model.encoder} {image.key}")
        future, outcome = self._cache.claim(image.key)
        if outcome == "miss":
            outcome = self._make(image, request)
        elif outcome == "joined":
            self._hurry(image.key, request.priority)
        self._metrics.embedding_lookups.labels(outcome).inc()
        return wait_for_job(future, request.deadline, "encode the image")

    def _hurry(self, key: str, priority: Priority) -> None:
        """A more urgent request joined the encode of ``key``."""
        with self._encodes_lock:
            encode = self._encodes.get(key)
            if encode is not None:
                encode.priority = min(encode.priority, priority)
                if encode.job is not None:
                    self._thread.promote(encode.job, priority)

    def _make(self, image: ImageSource, request: _Request) -> str:
        """Have an embedding moved up from another tier, or made: the picture is decoded in the
        calling thread, then the network is queued. Says which; the result goes to the cache."""
        encode = _Encode(request.priority)
        with self._encodes_lock:
            self._encodes[image.key] = encode
        try:
            found = self._tiers.find(image.key)
            run = self._encoding(image, request) if found is None else self._moving(image, *found)
            with self._encodes_lock:
                encode.job = job = self._submit(run, encode.priority, followed=True)
        except BaseException as error:
            self._encoded(image.key, error)
            raise
        job.future.add_done_callback(lambda future: self._encoded(image.key, failure_of(future)))
        return "miss" if found is None else found[0]

    def _encoding(self, image: ImageSource, request: _Request) -> Callable[[], None]:
        predictor = request.model.predictor
        with self._metrics.stage("decode"):
            pixels = image.load()

        def run() -> None:
            with self._metrics.stage("encode"):
                embedding = self._with_memory(lambda: predictor.embed(pixels))
            self._cache.fulfil(image.key, embedding)
            self._tiers.keep(image.key, embedding)

        return run

    def _moving(self, image: ImageSource, tier: str, packed: PackedEmbedding) -> Callable[[], None]:
        device = self._model(0.0).predictor.model.device

        def run() -> None:
            with self._metrics.stage(f"from_{tier}"):
                embedding = self._with_memory(lambda: unpack(packed, device))
            self._cache.fulfil(image.key, embedding)

        return run

    def _encoded(self, key: str, error: BaseException | None) -> None:
        with self._encodes_lock:
            self._encodes.pop(key, None)
        if error is not None:
            self._cache.fail(key, error)


def _answer_key(
    person: str, image: ImageSource, prompt: ObjectPrompt, points: Sequence[PointPrompt]
) -> Hashable:
    """Names the answer to somebody's ``points`` and the box of ``prompt`` on an image."""
    return caller().project, person, image.key, prompt.box, tuple(points)


def _one_line(error: BaseException | None) -> str:
    text = " ".join(str(error).split()) if error is not None else "it was stopped"
    return text[:300] or type(error).__name__
