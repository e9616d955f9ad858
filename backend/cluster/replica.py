"""A replica: a ``LocalEngine`` in a process of the cluster, which answers calls from afar.

What comes in and goes out is small and can be pickled: recipes, prompts, packed masks.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from ray import serve
from ray.util import get_node_ip_address

from backend.cluster.deploy import CALLS, choice_from_data
from backend.engine.engine import ModelChoice, Moved, NotReady, TrackedObject, Tracker, Vitals
from backend.engine.local import LocalEngine
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.expected import ExpectedError
from backend.metrics import Metrics
from backend.pixels.recipes import FramesRecipe
from backend.threads.caller import Caller, serving

logger = logging.getLogger(__name__)

MARKER = "the model of a replica: "
"""Begins the reason for which a replica did not start, in what Serve tells about it."""
STUCK_SECONDS = 600.0  # no single run of the model takes so long
LOAD_SECONDS = 1800.0
FORGOTTEN_SECONDS = 60.0  # trackers of a front that has not been heard of for so long are closed
ASKED = frozenset({"answer", "embed", "correct", "disk_room", "everything"})
"""The methods of ``Engine`` that are one call and one answer."""

Frame = tuple[int, list[TrackedObject]]


class Make(Protocol):
    """Makes the engine of a replica, and what counts for it."""

    def __call__(
        self, choice: ModelChoice, *, speck_share: float
    ) -> tuple[LocalEngine, Metrics]: ...


@dataclass(frozen=True)
class Failure:
    """An answer that is an error: of those that are expected, nothing but the cause travels."""

    error: ExpectedError


class Replica:
    """What Ray Serve runs, once for each device.

    Args:
        make: names the function that makes the engine of a ``ModelChoice`` and the share of specks,
            as ``module:function``; it gives what counts too.
        speck_share: see ``LocalEngine``.
    """

    def __init__(self, make: str, speck_share: float) -> None:
        module, _, name = make.partition(":")
        make_engine: Make = getattr(importlib.import_module(module), name)
        self._make = partial(make_engine, speck_share=speck_share)
        self._engine: LocalEngine | None = None
        self._metrics = Metrics()
        self._refused = ""
        self._pool = ThreadPoolExecutor(CALLS, "call")
        self._loading = ThreadPoolExecutor(1, "loading")
        self._sessions: dict[str, _Session] = {}
        self._halts: dict[str, threading.Event] = {}  # of what was asked, by its key
        self._heard: dict[str, float] = {}  # fronts, and when they were heard of
        context = serve.get_replica_context()
        self._name, self._node = context.replica_id.unique_id, get_node_ip_address()

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve's: load what is declared, or begin to replace the present model by it: Serve
        gives no calls to a replica that has not returned from here.

        Raises:
            NotReady: the first one cannot be loaded; the replica does not start.
        """
        choice = choice_from_data(config["choice"])
        if self._engine is None:
            await self._work(partial(self._load, choice))
        else:
            self._loading.submit(self._replace, choice)

    def _load(self, choice: ModelChoice) -> None:
        self._engine, self._metrics = self._make(choice)
        try:
            self._engine.wait_ready(LOAD_SECONDS)
        except NotReady as error:
            raise NotReady(f"{MARKER}{error}") from None

    def _replace(self, choice: ModelChoice) -> None:
        self._refused = ""
        if choice.version == self.engine.model_version:
            return
        try:
            self.engine.replace(choice)
        except Exception:  # thread boundary: the model in use stays, and whoever asks is told
            self._refused = choice.version
            logger.exception("%s cannot be loaded; the model stays as it is", choice.version)

    def check_health(self) -> None:
        """Serve's, now and then: it starts the replica anew where this raises."""
        if self._engine is not None and self._engine.busy_seconds > STUCK_SECONDS:
            raise RuntimeError(f"the model has not answered for {STUCK_SECONDS:.0f} s")

    async def ask(self, who: Caller, method: str, *args: Any, key: str = "", **options: Any) -> Any:
        """One of ``ASKED`` of the engine; a ``Failure`` where it raises what is expected.

        Args:
            key: by which it can be halted, if it can be.
        """
        if method not in ASKED:
            raise ValueError(method)
        if key:
            self._halts[key] = threading.Event()
            options["stopped"] = self._halts[key].is_set
        try:
            return await self._answer(who, partial(getattr(self.engine, method), *args, **options))
        finally:
            self._halts.pop(key, None)

    async def track(
        self, who: Caller, front: str, frames: FramesRecipe, chosen: Sequence[int] | None
    ) -> AsyncIterator[tuple[str, str] | Failure]:
        """Open a tracker, and keep it for as long as this stream is read: its name and weights come
        first, and nothing after them."""
        opened = await self._answer(who, partial(self.engine.open_tracker, frames, chosen))
        if isinstance(opened, Failure):
            yield opened
            return
        session = _Session(opened, who, front)
        self._heard[front] = time.monotonic()
        key = f"{self._name}/{id(session)}"
        self._sessions[key] = session
        try:
            yield key, opened.weights
            await session.ended.wait()
        finally:
            self._sessions.pop(key, None)
            session.close()

    async def prompt(
        self, frame: int, object_id: str, prompt: PixelPrompt, mask: PackedMask | None, *, key: str
    ) -> Any:
        """See ``Tracker.prompt``; the mask of a prompt comes packed."""
        if mask is not None:
            prompt = replace(prompt, mask=mask.unpack())
        return await self._tracked(key, lambda each: each.prompt(frame, object_id, prompt))

    async def advance(self, steps: tuple[int, int, bool] | None, *, key: str) -> Any:
        """The next frame of ``Tracker.step``, None at the end.

        Args:
            steps: start, count and reverse, to begin with them.
        """
        return await self._tracked(key, lambda each: each.advance(steps))

    async def suspend(self, *, key: str) -> Any:
        """See ``Tracker.suspend``."""
        return await self._tracked(key, lambda each: each.suspend())

    async def halt(self, key: str) -> None:
        """Give up the frame under way and the steps of a tracker, or end what was asked."""
        if key in self._halts:
            self._halts[key].set()
        if key in self._sessions:
            self._sessions[key].halt()

    async def _tracked(self, key: str, call: Callable[[_Session], Future[Any]]) -> Any:
        session = self._sessions.get(key)
        if session is None:
            # Serve sends a call again where a replica ended before it said that it has taken it.
            elsewhere = key.partition("/")[0] != self._name
            return Failure(Moved(died=elsewhere))
        try:
            return await asyncio.wrap_future(call(session))
        except ExpectedError as error:
            return Failure(error)

    async def vitals(self, front: str) -> Vitals:
        """How the replica is; ``front``, which asks, goes on living with its trackers."""
        now = time.monotonic()
        self._heard[front] = now
        for name in [each for each, at in self._heard.items() if now - at > FORGOTTEN_SECONDS]:
            del self._heard[name]
        for session in self._sessions.values():
            if session.front not in self._heard:
                session.ended.set()
        status, engine = self.engine.status(), self.engine
        return Vitals(
            self._name,
            self._node,
            status.state,
            status.detail,
            engine.model_version,
            self._refused,
            engine.waiting,
            len(self._sessions),
            self._metrics.device,
        )

    async def exposition(self) -> tuple[str, bytes]:
        """The name of the replica, and what it counts, for Prometheus."""
        return self._name, self._metrics.exposition()

    @property
    def engine(self) -> LocalEngine:
        if self._engine is None:
            raise NotReady("the model is being loaded")
        return self._engine

    async def _answer(self, who: Caller, call: Callable[[], Any]) -> Any:
        def run() -> Any:
            with _serving(who):
                return call()

        try:
            return await self._work(run)
        except ExpectedError as error:
            return Failure(error)

    async def _work(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


class _Session:
    """A tracker and the thread that it is used by.

    One frame is computed ahead while the last one travels; with it the model has something to do
    between two calls.
    """

    def __init__(self, tracker: Tracker, who: Caller, front: str) -> None:
        self.front = front
        self.ended = asyncio.Event()
        self._tracker, self._who = tracker, who
        self._thread = ThreadPoolExecutor(1, "tracker")
        self._steps: Iterator[Frame] = iter(())
        self._stopped = threading.Event()
        self._ahead: Future[Frame | None] | None = None

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> Future[TrackedObject]:
        return self._submit(partial(self._tracker.prompt, frame, object_id, prompt))

    def advance(self, steps: tuple[int, int, bool] | None) -> Future[Frame | None]:
        if steps is not None:
            start, count, reverse = steps
            self.halt()
            stopped = self._stopped = threading.Event()
            self._steps = self._tracker.step(start, count, reverse=reverse, stopped=stopped.is_set)
            self._ahead = None
        due = self._ahead or self._submit(partial(next, self._steps, None))
        self._ahead = self._submit(partial(next, self._steps, None))
        return due

    def suspend(self) -> Future[None]:
        return self._submit(self._tracker.suspend)

    def halt(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self.halt()
        self._submit(self._tracker.close)
        self._thread.shutdown(wait=False)

    def _submit(self, call: Callable[[], Any]) -> Future[Any]:
        def run() -> Any:
            with _serving(self._who):
                return call()

        return self._thread.submit(run)


def _serving(who: Caller) -> AbstractContextManager[Caller]:
    """Work for whoever the call is for."""
    return serving(request_id=who.request_id, project=who.project, person=who.person, job=who.job)


def application(arguments: Mapping[str, Any]) -> Any:
    """What Serve builds, in the cluster, of the declaration."""
    return serve.deployment(name="Replica")(Replica).bind(**arguments)
