"""From a prompt to the model's mask: the one place that asks the engine for masks of pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from backend.engine.engine import Answer, Engine, Everything, Outcome, TrackedPage
from backend.engine.scheduler import Priority
from backend.labelstudio.geometry import Box
from backend.labelstudio.json_values import Results
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.write_results import region_results
from backend.metrics import Metrics
from backend.pixels.recipes import Frame, ImageRecipe, Picture

logger = logging.getLogger(__name__)


class Segmenter:
    """Runs prompts on the pictures of tasks and on frames.

    Args:
        zoom: segment small objects of large pictures in a window around them.
    """

    def __init__(self, engine: Engine, metrics: Metrics, *, zoom: bool = True) -> None:
        self._engine = engine
        self._metrics = metrics
        self._zoom = zoom

    def encode(self, task: ProjectTask, prompt: ObjectPrompt, deadline: float) -> None:
        """Encode the picture that ``prompt`` is on before anybody asks for its masks.

        Args:
            deadline: on ``time.monotonic``.

        Raises:
            MissingMedia, MediaError, EngineError, Busy: see ``Picture.of`` and ``Engine.embed``.
        """
        timeout = deadline - time.monotonic()
        self._engine.embed(_picture(task, prompt), Priority.PREFETCH, timeout)

    def answer(
        self,
        task: ProjectTask,
        prompts: Sequence[ObjectPrompt],
        priority: Priority,
        deadline: float,
    ) -> list[Outcome]:
        """What becomes of each of ``prompts``, which all belong to one picture of ``task``, with a
        closer look at small objects.

        Raises:
            MissingMedia, MediaError, EngineError, Busy: as ``encode``.
        """
        answers = self.answer_on(_picture(task, prompts[0]), prompts, priority, deadline)
        for prompt, answer in zip(prompts, answers, strict=True):
            if isinstance(answer, Answer):
                _warn_of_other_size(task, prompt, answer)
                break
        return answers

    def answer_on(
        self,
        image: ImageRecipe,
        prompts: Sequence[ObjectPrompt],
        priority: Priority,
        deadline: float,
    ) -> list[Outcome]:
        """The same for prompts on a picture, a page or a frame that is given."""
        timeout = deadline - time.monotonic()
        return self._engine.answer(image, prompts, priority, timeout, zoom=self._zoom)

    def everything(
        self,
        image: ImageRecipe,
        priority: Priority,
        deadline: float,
        *,
        within: Box | None = None,
        taken: Sequence[ObjectPrompt] = (),
        most: int,
    ) -> Everything:
        """All objects of a picture or a page, see ``Engine.everything``."""
        timeout = deadline - time.monotonic()
        return self._engine.everything(
            image, priority, timeout, within=within, taken=taken, most=most
        )

    def answer_frame(self, frame: Frame, prompt: ObjectPrompt, deadline: float) -> Answer:
        """The mask for a prompt on a frame of a video; raises as ``answer_click`` does."""
        timeout = deadline - time.monotonic()
        return _only(self._engine.answer(frame, [prompt], Priority.CLICK, timeout))

    def answer_click(self, task: ProjectTask, prompt: ObjectPrompt, deadline: float) -> Answer:
        """The mask for a click or a box of an annotator, as good as the model makes it: with a
        closer look at a small object, and as a correction of the answer before the last click.

        Raises:
            UnusableShape: a drawn mask cannot be decoded.
            MissingMedia, MediaError, EngineError, Busy: as ``encode``.
        """
        picture, timeout = _picture(task, prompt), deadline - time.monotonic()
        answer = _only(
            self._engine.answer(
                picture, [prompt], Priority.CLICK, timeout, zoom=self._zoom, refine=True
            )
        )
        _warn_of_other_size(task, prompt, answer)
        return answer

    def correct(
        self, task: ProjectTask, prompt: ObjectPrompt, seen: TrackedPage, deadline: float
    ) -> Answer:
        """The mask of a tracked object on a page, improved by the clicks of ``prompt``; raises as
        ``answer`` does."""
        picture, timeout = _picture(task, prompt), deadline - time.monotonic()
        return self._engine.correct(picture, prompt, seen, timeout)

    def regions(
        self, prompt: ObjectPrompt, answer: Answer, config: LabelConfig, region_id: str
    ) -> Results:
        """``answer`` as Label Studio results; none for an empty mask.

        Raises:
            LabelMismatch: no answer control of the image has the prompt's label.
        """
        with self._metrics.stage("answer"):
            mask = answer.mask.unpack()
            return region_results(
                prompt, mask, score=answer.score, config=config, region_id=region_id
            )


def _only(outcomes: list[Outcome]) -> Answer:
    [outcome] = outcomes
    if isinstance(outcome, Answer):
        return outcome
    raise outcome


def _picture(task: ProjectTask, prompt: ObjectPrompt) -> Picture:
    """The picture that ``prompt`` was made on."""
    tag = task.config.image(prompt.image)
    if tag is None:
        raise MissingMedia(f"the label config has no <Image name={prompt.image}>")
    return Picture.of(task, tag, prompt.item_index)


def _warn_of_other_size(task: ProjectTask, prompt: ObjectPrompt, answer: Answer) -> None:
    """The editor saw another size than the file has: masks are rescaled to what it saw."""
    seen = (prompt.original_width, prompt.original_height)
    size = (answer.mask.width, answer.mask.height)
    if None not in seen and seen != size:
        logger.warning(
            "task %s: the editor shows %sx%s pixels, the file has %dx%d; masks are rescaled",
            task.task_id,
            *seen,
            *size,
        )
