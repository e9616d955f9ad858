"""Encodes the frames around the one on screen before they are clicked on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from backend.engine.engine import Engine, EngineError
from backend.engine.scheduler import Priority
from backend.pixels.video_limits import VideoError
from backend.predict.events.open_videos import Clips, OpenClip
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy

logger = logging.getLogger(__name__)

ENCODE_SECONDS = 60.0  # longest wait for one frame; clicks and tracks go before it
KEPT = 512  # frames of a video remembered as encoded


class Prewarmer:
    """One thread for all videos, a frame of each in turn, at the lowest priority."""

    def __init__(self, engine: Engine, clips: Clips) -> None:
        self._engine = engine
        self._clips = clips
        self._lock = threading.Lock()
        self._pool = FairPool(1, "prewarm")

    def ask(self, clip: OpenClip, frames: Sequence[int]) -> tuple[list[int], list[int]]:
        """Have ``frames`` encoded, in this order; frames asked for earlier and no longer wanted
        are left out.

        Returns:
            Those encoded already, and those that will be.
        """
        cached = [frame for frame in frames if frame in clip.encoded]
        pending = [frame for frame in frames if frame not in clip.encoded]
        with self._lock:
            clip.waiting = list(pending)
            begins = bool(pending) and not clip.draining
            clip.draining = clip.draining or begins
        if begins:
            self._next(clip)
        return cached, pending

    def close(self) -> None:
        """Stop after the frame under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, clip: OpenClip) -> None:
        try:
            self._pool.submit(self._step, clip)
        except Busy:  # or the service is stopping
            clip.draining = False

    def _step(self, clip: OpenClip) -> None:
        """One frame; the next one queues behind those of other videos."""
        with self._lock:
            frame = clip.waiting.pop(0) if clip.waiting else None
            if frame is None or not self._clips.hold(clip):
                clip.draining = False
                return
        try:
            self._encode(clip, frame)
        except (Busy, EngineError, VideoError) as error:
            logger.info("frames are not encoded ahead: %s", error)
            self._give_up(clip)
        except Exception:  # thread boundary: the click will say what is wrong
            logger.exception("frames are not encoded ahead")
            self._give_up(clip)
        finally:
            self._clips.let_go(clip)
        self._next(clip)

    def _give_up(self, clip: OpenClip) -> None:
        with self._lock:
            clip.waiting = []

    def _encode(self, clip: OpenClip, frame: int) -> None:
        self._engine.embed(clip.source(frame), Priority.PREFETCH, ENCODE_SECONDS)
        remember(clip, frame)


def remember(clip: OpenClip, frame: int) -> None:
    """Note that a frame has been encoded."""
    clip.encoded.pop(frame, None)
    clip.encoded[frame] = None
    while len(clip.encoded) > KEPT:
        clip.encoded.pop(next(iter(clip.encoded)))
