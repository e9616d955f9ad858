"""What a step of the run trains on, and at which learning rate: functions of the step."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of the run.

    Attributes:
        until: first step that is no longer in it (None: the rest of the run).
        image_size: side of images and frames, pixels.
        images: images per step and process.
        max_objects: objects asked for per image.
        plain: share of images and clips of separate, visible objects of fair size; of the
            others even a careful person could not say which object a click means.
        portraits: share of images of one large object.
        corrections: most corrective clicks on an image after the first prompt.
        clip_share: share of steps that train on clips.
        clips: clips per such step and process.
        clip_length: longest clip, frames.
    """

    until: int | None
    image_size: int
    images: int
    max_objects: int = 4
    plain: float = 0.0
    portraits: float = 0.0
    corrections: int = 3
    clip_share: float = 0.0
    clips: int = 1
    clip_length: int = 8


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The run as data.

    Attributes:
        stages: in order; the last one is open.
        peak_rate: learning rate after the warm-up, constant until the decay begins.
        warm_up: steps of linear increase.
        balanced: steps over which the balanced cross-entropy gives way to the focal loss.
        decoder_warm_up: steps on synthetic features before step 0.
        weight_decay: on matrices (biases, norms and embeddings have none).
        clip_norm: largest norm of the gradient.
        ema: decay of the moving average of the weights, reached gradually.
    """

    stages: tuple[Stage, ...]
    peak_rate: float = 4e-4
    warm_up: int = 300
    balanced: int = 2000
    decoder_warm_up: int = 700
    weight_decay: float = 0.05
    clip_norm: float = 2.0
    ema: float = 0.999

    def stage(self, step: int) -> Stage:
        """The stage a step is in."""
        for stage in self.stages:
            if stage.until is None or step < stage.until:
                return stage
        return self.stages[-1]

    def is_clip_step(self, step: int, seed: int) -> bool:
        """Whether a step trains on clips: the same answer in every process."""
        draw = np.random.default_rng([seed, step, 77]).random()
        return bool(draw < self.stage(step).clip_share)

    def first_clip_step(self) -> int | None:
        """First step of the first stage with clips, None if there is none."""
        begin = 0
        for stage in self.stages:
            if stage.clip_share > 0:
                return begin
            begin = stage.until or begin
        return None

    def learning_rate(self, step: int, decay: tuple[int, int] | None) -> float:
        """Warm-up, constant, then (where ``decay`` = (first step, steps) is set) cosine to 2 %."""
        rate = self.peak_rate * min(1.0, (step + 1) / self.warm_up)
        if decay is None or step < decay[0]:
            return rate
        progress = min(1.0, (step - decay[0]) / max(decay[1], 1))
        return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

    def balance(self, step: int) -> float:
        """Share of the focal term that the balanced cross-entropy replaces at a step."""
        return max(0.0, 1 - step / self.balanced) if self.balanced else 0.0

    def ema_decay(self, step: int) -> float:
        """Small at first, so that the average forgets the beginning."""
        return min(self.ema, (1 + step) / (10 + step))


DEMO = Schedule(
    stages=(
        Stage(until=1450, image_size=128, images=12),
        Stage(until=2600, image_size=128, images=12, plain=0.6, clip_share=0.15),
        Stage(until=4900, image_size=256, images=4, plain=0.6, clip_share=0.3),
        Stage(until=8130, image_size=256, images=4, plain=0.55, portraits=0.3, clip_share=0.2),
        # Twice the pictures a step: held-out IoU stood still until the rate fell, so what a
        # step of few pictures learns was mostly noise.
        Stage(
            until=None,
            image_size=256,
            images=8,
            plain=0.6,
            portraits=0.27,
            corrections=5,
            clip_share=0.15,
            clips=2,
        ),
    )
)
