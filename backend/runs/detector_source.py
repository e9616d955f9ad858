"""A detector as the source of a run's prompts: on pictures its boxes become masks, on sequences and
videos it is asked on every n-th page and frame for what is not tracked yet."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from backend.engine.engine import Answer
from backend.engine.scheduler import Priority
from backend.labelstudio.commands import Word, parse_command
from backend.labelstudio.detections import Detections, Wanted
from backend.labelstudio.detector_client import DetectorError
from backend.labelstudio.geometry import Box, box_iou, box_to_percent
from backend.labelstudio.json_values import Result, Results
from backend.labelstudio.keyframes import Keyframe
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.tags import MediaTag, tags_on
from backend.labelstudio.timing import page_index
from backend.labelstudio.video_regions import new_region, video_results
from backend.pixels.recipes import Frame, ImageRecipe, Picture, Video
from backend.predict.dispatch import Dispatcher
from backend.predict.find import Finder, NoDetector
from backend.runs.prompt_sources import (
    Place,
    Prompts,
    SourceLate,
    SourceOptions,
    SourceUnavailable,
)
from backend.runs.run_request import RunError
from backend.tracking.store import Sighting
from backend.tracking.video import video_tag

DETECTOR = "detector"
EVERY = 10  # pages and frames
ASK_SECONDS = 100.0  # as long as Label Studio itself waits for a backend
TRACKED_IOU = 0.5  # of boxes: what overlaps a tracked object so much is that object


class DetectorSource:
    """See ``PromptSource``.

    Raises:
        RunError: there is no detector, or what is to be found cannot be read.
    """

    def __init__(self, service: Dispatcher, options: SourceOptions) -> None:
        try:
            service.finder.check()
        except NoDetector as error:
            raise RunError(str(error)) from error
        self._service, self._cap = service, options.cap
        self._wanted = _wanted(service.finder, options)
        self.every: int | None = options.every or EVERY

    def begin(self, task: ProjectTask, until: float) -> Prompts:
        """See ``PromptSource``: masks of what is found on single pictures."""
        finished: Results = []
        notes: list[str] = []
        for tag in task.config.images:
            if tag.is_sequence:
                continue
            found = self._ask(task, tag, Picture.of(task, tag), until)
            notes += found.notes
            made = self._service.retrieval.predict(task, found.prompts[: self._cap], until)
            if made.errors:
                raise made.errors[0]
            finished += made.prediction["result"] if made.prediction else []
        nothing = "" if finished or not notes else f"nothing with a label ({'; '.join(notes)})"
        return Prompts(finished=finished, nothing=nothing)

    def look(
        self, task: ProjectTask, place: Place, seen: Sequence[Sighting], until: float
    ) -> Prompts:
        """See ``PromptSource``: boxes around what is found and overlaps nothing that is tracked."""
        tag = task.config.image(place.tag)
        if tag is not None:
            page = page_index(place.number)
            return self._new(task, tag, Picture.of(task, tag, page), place, seen, until, page=page)
        video = video_tag(task.config, place.tag)
        recipe = Video.of(task, video)
        videos = self._service.tracking.pixels.videos
        index = videos.index(recipe, until)
        clip = self._service.tracking.videos.clip(task, video.name, [], seconds=ASK_SECONDS)
        frame = Frame(recipe, index.content_key, clip.timeline.file_frame(place.number))
        found = self._new(task, video, frame, place, seen, until)
        marks = [
            self._on_video(task, mark, place, clip.timeline.frames_count, clip.timeline.framerate)
            for mark in found.marks
        ]
        return replace(found, marks=marks)

    def _ask(
        self,
        task: ProjectTask,
        tag: MediaTag,
        image: ImageRecipe,
        until: float,
        page: int | None = None,
    ) -> Detections:
        deadline = min(until, time.monotonic() + ASK_SECONDS)
        try:
            return self._service.finder.find(task, tag, image, self._wanted, deadline, page=page)
        except DetectorError as error:
            if error.late and self._is_there():
                raise SourceLate(str(error)) from error
            if error.passing:
                raise SourceUnavailable(str(error)) from error
            raise

    def _is_there(self) -> bool:
        """Whether the detector answers when it is asked for nothing much."""
        try:
            self._service.finder.check().check()
        except DetectorError:
            return False
        return True

    def _new(
        self,
        task: ProjectTask,
        tag: MediaTag,
        image: ImageRecipe,
        place: Place,
        seen: Sequence[Sighting],
        until: float,
        page: int | None = None,
    ) -> Prompts:
        """Boxes around what is found and is not tracked, as marks on a picture."""
        found = self._ask(task, tag, image, until, page)
        tracked = [
            _corners(box_to_percent(each.box, each.width, each.height)) for each in seen if each.box
        ]
        room = None if self._cap is None else max(0, self._cap - len(tracked))
        marks: Results = []
        for prompt, box in self._boxes(image, found.prompts, until):
            if all(box_iou(_corners(box), each) < TRACKED_IOU for each in tracked):
                marks.append(_mark(task, prompt, box, place))
        return Prompts(marks[:room])

    def _boxes(
        self, image: ImageRecipe, prompts: Sequence[ObjectPrompt], until: float
    ) -> Iterator[tuple[ObjectPrompt, Box]]:
        """Each find with the upright box around it: its own, or that of the model's mask."""
        others = [each for each in prompts if each.box is None or each.box.rotation]
        answers = {}
        if others:
            timeout = until - time.monotonic()
            outcomes = self._service.engine.answer(image, others, Priority.RUN, timeout)
            answers = {id(each): made for each, made in zip(others, outcomes, strict=True)}
        for prompt in prompts:
            answer = answers.get(id(prompt))
            if prompt.box is not None and answer is None:
                yield prompt, prompt.box
            elif isinstance(answer, Answer) and (bounds := answer.mask.box) is not None:
                yield prompt, box_to_percent(bounds, answer.mask.width, answer.mask.height)

    def _on_video(
        self, task: ProjectTask, mark: Result, place: Place, frames_count: int, framerate: float
    ) -> Result:
        """A mark as the region of a video that begins on the frame of ``place``."""
        value = mark["value"]
        box = Box(*(value[side] for side in ("x", "y", "width", "height")))
        controls = tags_on(task.config.video_rectangles, place.tag)
        if not controls:
            raise MissingMedia(f"the label config has no VideoRectangle for {place.tag}")
        labels = tuple(value.get("rectanglelabels", ()))
        keyframes = (Keyframe(place.number, box),)
        region = new_region(
            mark["id"], labels, controls[0].name, place.tag, keyframes, frames_count
        )
        [made] = video_results(region, keyframes, task.config, framerate=framerate)
        return made


def _wanted(finder: Finder, options: SourceOptions) -> Wanted:
    """What a run looks for: its text is that of the command ``find``."""
    parsed = parse_command(f"find {options.text or ''}")
    if parsed.word is not Word.FIND or parsed.at is not None:
        raise RunError(
            "text must be names of at most five words, separated by commas, such as "
            "person, red car, pigeon=Bird"
        )
    return replace(finder.wanted(dict(parsed.names)), label=options.label)


def _mark(task: ProjectTask, prompt: ObjectPrompt, box: Box, place: Place) -> Result:
    drawn = (task.task_id, place.tag, place.number, prompt.labels, box)
    value = {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "rotation": 0}
    mark: Result = {
        "id": hashlib.sha256(repr(drawn).encode()).hexdigest()[:10],
        "type": "rectanglelabels",
        "from_name": "",
        "to_name": place.tag,
        "original_width": prompt.original_width,
        "original_height": prompt.original_height,
        "image_rotation": 0,
        "value": {**value, "rectanglelabels": list(prompt.labels)} if prompt.labels else value,
    }
    return mark if prompt.item_index is None else {**mark, "item_index": prompt.item_index}


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x, box.y, box.x + box.width, box.y + box.height
