"""The engine on a cluster: what is asked of it goes to a replica, which has the model.

This process has none, and no pixels pass through it. It finds the cluster, says what is to run
there, and looks after it in a thread of its own; while there is no cluster, everything here says
so, and goes on when it is back.
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException, RequestCancelledError

from backend.cluster.deploy import APPLICATION, Cluster, Declaration
from backend.cluster.replica import MARKER, Failure
from backend.cluster.router import (
    ask_all,
    at_replica,
    by_media,
    declare,
    handle_of_replicas,
    in_order,
    message_of_deployment,
    names_of_replicas,
)
from backend.engine.embedding_disk import DiskRoom
from backend.engine.engine import (
    Answer,
    EngineError,
    Everything,
    ModelChoice,
    Moved,
    NotReady,
    Outcome,
    State,
    Status,
    TrackedObject,
    TrackedPage,
    Vitals,
)
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError, counted
from backend.labelstudio.prompts import ObjectPrompt
from backend.metrics import Metrics
from backend.pixels.recipes import Frame, FramesRecipe, ImageRecipe
from backend.threads.caller import caller
from backend.threads.fair_queue import Busy

logger = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_SECONDS = 1.0  # between two looks at the cluster
ANSWER_SECONDS = 5.0  # in which a replica says how it is
LOST_AFTER = 2  # looks at which the head did not answer
REPLACE_SECONDS = 1800.0
POLL_SECONDS = 0.1  # at which a wait looks whether it is still wanted
NO_TIME = "the model had no time to answer yet; try again in a moment"
STOPPING = "the service is being restarted; try again in a moment"


@dataclass(frozen=True)
class _Link:
    """A cluster as it was found; with another one everything begins anew."""

    handle: Any
    lost: threading.Event


class RayEngine:
    """See ``Engine``.

    Args:
        choice: the model.
        declared: what is to run in the cluster, but for the number of replicas and GPUs, which
            follow the machines that are there.
    """

    def __init__(
        self, choice: ModelChoice, cluster: Cluster, declared: Declaration, metrics: Metrics
    ) -> None:
        self.model_version = choice.version
        self.family = choice.family or choice.version
        self.name = uuid.uuid4().hex[:12]
        self._cluster, self._declared = cluster, declared
        self._choice = choice
        self._link: _Link | None = None
        self._vitals: Sequence[Vitals] = ()
        self._silent: frozenset[str] = frozenset()  # replicas that give no answer
        self._trouble = "the cluster is being looked for"
        self._failed = ""
        self._missed = 0
        self._under_way = 0
        self._trackers: set[RayTracker] = set()  # of this process: open ones, and those that open
        self._changed = threading.Condition()
        self._draining = threading.Event()
        self._stopping = threading.Event()
        self._started = time.monotonic()
        metrics.others(self._expositions)
        self._thread = threading.Thread(target=self._look_after, name="cluster", daemon=True)
        self._thread.start()

    # --- how it is

    def status(self) -> Status:
        """See ``Engine``: ready where any replica is."""
        vitals, trouble = self._vitals, self._trouble
        ready = sum(each.state is State.READY for each in vitals)
        if not trouble and ready:
            wanted = max(self._declared.replicas, len(vitals))
            text = f"{self.model_version} is ready on {ready} of {counted(wanted, 'replica')}"
            return Status(State.READY, text)
        if not trouble and self._failed:
            return Status(State.FAILED, self._failed)
        seconds = time.monotonic() - self._started
        return Status(
            State.LOADING,
            trouble or f"the cluster has been loading the model for {seconds:.0f} s",
        )

    @property
    def replicas(self) -> Sequence[Vitals]:
        """See ``Engine``."""
        return self._vitals

    @property
    def busy_seconds(self) -> float:
        """See ``Engine``; what hangs is noticed in the cluster, and started anew there."""
        return 0.0

    def wait_ready(self, timeout: float) -> None:
        """See ``Engine``."""
        self._ready(time.monotonic() + timeout)

    # --- what is asked

    def embed(self, image: ImageRecipe, priority: Priority, timeout: float) -> None:
        """See ``Engine``."""
        self._ask(_media_key(image), timeout, "embed", image, priority)

    def disk_room(self, timeout: float) -> DiskRoom:
        """See ``Engine``; that of one machine, which is what a picture has."""
        found: DiskRoom = self._ask("disk", timeout, "disk_room")
        return found

    def answer(
        self,
        image: ImageRecipe,
        prompts: Sequence[ObjectPrompt],
        priority: Priority,
        timeout: float,
        **options: bool,
    ) -> list[Outcome]:
        """See ``Engine``."""
        asked = image, tuple(prompts), priority
        found: list[Outcome] = self._ask(_media_key(image), timeout, "answer", *asked, **options)
        return found

    def correct(
        self, image: ImageRecipe, prompt: ObjectPrompt, seen: TrackedPage, timeout: float
    ) -> Answer:
        """See ``Engine``."""
        found: Answer = self._ask(_media_key(image), timeout, "correct", image, prompt, seen)
        return found

    def everything(
        self, image: ImageRecipe, priority: Priority, timeout: float, **options: Any
    ) -> Everything:
        """See ``Engine``."""
        asked = "everything", image, priority
        found: Everything = self._ask(
            _media_key(image), timeout, *asked, key=uuid.uuid4().hex, **options
        )
        return found

    def open_tracker(self, frames: FramesRecipe, chosen: Sequence[int] | None = None) -> RayTracker:
        """See ``Engine``."""
        try:
            link = self._ready(time.monotonic())
        except NotReady as error:  # it was a moment ago
            raise Moved from error
        asked = None if chosen is None else tuple(chosen)
        return RayTracker(self, link, frames, asked)

    def replace(self, choice: ModelChoice) -> None:
        """Have all replicas load other weights of the same family while they answer.

        Raises:
            EngineError: a replica could not load them; all have the present ones again.
        """
        before, self._choice = self._choice, choice
        until = time.monotonic() + REPLACE_SECONDS
        while not self._stopping.is_set():
            vitals = self._vitals
            if any(each.refused == choice.version for each in vitals):
                self._choice = before
                raise EngineError(f"a replica could not load {choice.version}; its log says why")
            if vitals and all(each.version == choice.version for each in vitals):
                self.model_version = choice.version
                logger.info("%s answers from now on", choice.version)
                return
            if time.monotonic() > until:
                raise EngineError(f"{choice.version} was not loaded everywhere in time")
            self._stopping.wait(LOOK_SECONDS)

    def drain(self) -> None:
        """See ``Engine``."""
        # Ray takes a SIGTERM for a failure: before Python's handler runs, its own has set an alarm
        # that aborts the process after three seconds, however much is still to be ended in order.
        signal.alarm(0)
        self._draining.set()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """See ``Engine``; what this service started of the cluster ends with it."""
        self.drain()
        self._stopping.set()
        self._thread.join(60.0)

    # --- calls

    def _ask(
        self, medium: str, timeout: float, method: str, *arguments: Any, **options: Any
    ) -> Any:
        """One answer of the replica that has the medium, or had it have to be; of another one
        where that goes away meanwhile, as long as there is time."""
        deadline = time.monotonic() + timeout
        while True:
            link = self._ready(deadline)
            silent = self._silent
            left = deadline - time.monotonic()
            options["timeout"] = max(left - min(0.25, left / 10), 0.0)  # it has to come back
            asked = by_media(medium, silent), "ask", caller(), method, *arguments
            try:
                return self.call(link, *asked, until=deadline, silent=silent, **options)
            except Moved as error:
                logger.warning("a replica has gone away; asking another one")
                if deadline - time.monotonic() < 2 * POLL_SECONDS:
                    raise Busy(NO_TIME) from error
            time.sleep(POLL_SECONDS)

    def call(
        self,
        link: _Link,
        place: str,
        method: str,
        *arguments: Any,
        until: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
        key: str = "",
        silent: Set[str] | None = None,
        **options: Any,
    ) -> Any:
        """One call of a replica.

        Args:
            place: which replica, see ``router``; where that is gone another one, which says so
                where a tracker is meant.
            stopped: asked now and then; where it says so, ``key`` is halted, see ``Replica.halt``.
            silent: replicas that gave no answer when the call was made; another one becoming so
                ends the call, which can be made anew. None where it cannot.

        Raises:
            Moved: the replica went away.
            Busy: there is no answer by ``until``, or the service is being stopped.
            ExpectedError: what the replica says.
        """
        halted = False
        options = {**options, "key": key} if key else options
        with self.counted(link):
            response = link.handle.options(method_name=method, session_id=place).remote(
                *arguments, **options
            )
            while True:
                left = POLL_SECONDS if until is None else until - time.monotonic()
                try:
                    answer = response.result(timeout_s=max(min(left, POLL_SECONDS), 0.0))
                    break
                except TimeoutError:
                    pass
                except Exception as error:
                    raise moved(error) from error
                if self._draining.is_set():
                    response.cancel()
                    raise Busy(STOPPING)
                if link.lost.is_set() or (silent is not None and self._silent - silent):
                    response.cancel()
                    raise Moved
                if until is not None and time.monotonic() > until:
                    response.cancel()
                    self._ready(until)
                    raise Busy(NO_TIME)
                if not halted and stopped():
                    halted = True
                    ask_all(link.handle, "halt", key, seconds=ANSWER_SECONDS)
        return opened(answer)

    def stream(self, link: _Link, tracker: RayTracker, *arguments: Any) -> Any:
        """The stream that keeps a tracker open, see ``Replica.track``: on the replica that has the
        fewest of them, if that is alive. It counts there until :meth:`forget`."""
        with self._changed:
            own = Counter(each.replica for each in self._trackers)

            def has(each: Vitals) -> tuple[int, int, float]:  # a look may be a second old
                trackers = max(each.trackers, own[each.name])
                return trackers, each.waiting, random.random()  # noqa: S311 - of equals

            names = [each.name for each in sorted(self._vitals, key=has)]
            tracker.replica = names[0] if names else ""
            self._trackers.add(tracker)
        return link.handle.options(
            method_name="track", session_id=in_order(names), stream=True
        ).remote(*arguments)

    def forget(self, tracker: RayTracker) -> None:
        """It is closed, or was not opened."""
        with self._changed:
            self._trackers.discard(tracker)

    @contextlib.contextmanager
    def counted(self, link: _Link) -> Iterator[None]:
        """Ray must not be left while somebody waits in it."""
        with self._changed:
            if link.lost.is_set():
                raise Moved
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _ready(self, deadline: float) -> _Link:
        """The way to the replicas, as soon as one is ready.

        Raises:
            NotReady: none is by ``deadline``, or the model cannot be loaded.
            Busy: the service is being stopped.
        """
        with self._changed:
            while True:
                if self._draining.is_set():
                    raise Busy(STOPPING)
                status = self.status()
                if self._link is not None and status.state is State.READY:
                    return self._link
                left = deadline - time.monotonic()
                if left <= 0 or status.state is State.FAILED:
                    raise NotReady(status.detail)
                self._changed.wait(min(left, 1.0))

    # --- the cluster

    def _look_after(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._link is None:
                    self._find()
                self._look()
            except ExpectedError as error:
                self._tell(str(error))
            except Exception as error:  # thread boundary: the cluster is looked for again
                logger.exception("the cluster cannot be looked after")
                self._tell(f"the cluster cannot be used: {type(error).__name__}; the log says more")
            self._stopping.wait(LOOK_SECONDS)
        self._lose()
        self._cluster.close()

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            logger.warning("%s", trouble)
        with self._changed:
            self._trouble = trouble
            self._changed.notify_all()

    def _find(self) -> None:
        self._cluster.connect()
        self._missed = 0
        self._declared = replace(self._declared, replicas=0)
        self._link = _Link(None, threading.Event())

    def _look(self) -> None:
        """One look at the cluster: whether its head answers, what it has, how the replicas are."""
        link = self._link
        if link is None:
            return
        if not self._cluster.is_alive():
            self._missed += 1
            if self._missed >= LOST_AFTER:
                self._tell(f"the head of the cluster at {self._cluster.head} does not answer")
                self._lose()
            return
        self._missed = 0
        shares, gpus = self._cluster.shares()
        declared = replace(
            self._declared, choice=self._choice, replicas=gpus or shares, gpus=gpus > 0
        )
        if not declared.replicas:
            self._vitals = ()
            self._tell("no machine of the cluster offers a replica yet: see make join")
            return
        if declared != self._declared:
            declare(declared.as_data())
            self._declared = declared
        if link.handle is None:
            link = self._link = _Link(handle_of_replicas(APPLICATION), link.lost)
        vitals: Sequence[Vitals] = ()
        failed = ""
        if link.handle is not None:
            vitals = ask_all(link.handle, "vitals", self.name, seconds=ANSWER_SECONDS)
        if not vitals:
            failed = self._why_none()
        known = {each.name for each in self._vitals} | self._silent
        answered = {each.name for each in vitals}
        with self._changed:
            # Those that Serve has given up are not waited for any more.
            self._silent = names_of_replicas(link.handle) & (known - answered)
            self._vitals, self._failed = vitals, failed
        self._tell("")

    def _why_none(self) -> str:
        """Why no replica starts, where its model is the reason."""
        message = message_of_deployment(APPLICATION)
        _, marker, reason = message.rpartition(MARKER)
        return " ".join(reason.split("\n")[0].split()) if marker else ""

    def _lose(self) -> None:
        """Leave the cluster, when nobody waits in it any more."""
        link, self._link, self._vitals = self._link, None, ()
        if link is None:
            return
        link.lost.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, 10.0)
        self._cluster.disconnect()

    def _expositions(self) -> Iterable[Metric]:
        """What all replicas count, with their names."""
        link = self._link
        if link is None or link.handle is None:
            return
        try:
            with self.counted(link):
                found = ask_all(link.handle, "exposition", seconds=ANSWER_SECONDS)
        except Moved:
            return
        for name, text in found:
            for family in text_string_to_metric_families(text.decode()):
                for number, sample in enumerate(family.samples):
                    labels = {**sample.labels, "replica": name}
                    family.samples[number] = sample._replace(labels=labels)
                yield family


class RayTracker:
    """See ``Tracker``: a tracker of a replica, for as long as this one is open.

    Attributes:
        replica: its name; until it is open, of the one that was asked first.
    """

    replica: str

    def __init__(
        self, engine: RayEngine, link: _Link, frames: FramesRecipe, chosen: Sequence[int] | None
    ) -> None:
        self._engine, self._link = engine, link
        with contextlib.ExitStack() as failing:
            failing.callback(engine.forget, self)
            self._stream = engine.stream(link, self, caller(), engine.name, frames, chosen)
            try:
                with engine.counted(link):
                    self._key, self.weights = opened(next(self._stream))
            except ExpectedError:
                raise
            except Exception as error:
                raise moved(error) from error
            failing.pop_all()
        self.replica = self._key.partition("/")[0]

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> TrackedObject:
        """See ``Tracker``."""
        mask = None if prompt.mask is None else PackedMask.pack(prompt.mask)
        sent = replace(prompt, mask=None)
        found: TrackedObject = self._call("prompt", frame, object_id, sent, mask)
        return found

    def step(
        self, start: int, count: int, *, reverse: bool, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, list[TrackedObject]]]:
        """See ``Tracker``."""
        steps: tuple[int, int, bool] | None = start, count, reverse
        while True:
            found = self._call("advance", steps, stopped=stopped)
            if found is None:
                return
            steps = None
            yield found

    def suspend(self) -> None:
        """See ``Tracker``."""
        self._call("suspend")

    def close(self) -> None:
        """See ``Tracker``."""
        self._engine.forget(self)
        self._stream.cancel()

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._engine.call(
            self._link, at_replica(self.replica), method, *arguments, key=self._key, **options
        )


def _media_key(image: ImageRecipe) -> str:
    """Frames of a video go to one replica, which has it open."""
    medium = image.video if isinstance(image, Frame) else image
    return f"{medium.task_id} {medium.address}"


def opened(answer: Any) -> Any:
    """What a replica answered. Raises what it was told to."""
    if isinstance(answer, Failure):
        raise answer.error
    return answer


def moved(error: Exception) -> Exception:
    """What a call that Ray ended means to whoever made it; a defect in the replica stays one."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, ExpectedError) else error
    if isinstance(error, RayActorError):
        return Moved(died=True)
    if isinstance(error, RayError | RayServeException | RequestCancelledError):
        return Moved()
    return error
