"""``find``, typed into the text box: what the detector finds, as masks or as boxes on a video."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from backend.engine.engine import Answer, Outcome
from backend.engine.scheduler import Priority
from backend.expected import counted
from backend.labelstudio.commands import ParsedCommand, TypedText
from backend.labelstudio.detections import Detections
from backend.labelstudio.geometry import mask_to_box
from backend.labelstudio.json_values import Results, whole_number
from backend.labelstudio.keyframes import Keyframe
from backend.labelstudio.media_refs import MissingMedia, page_count
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.read_results import joined_labels, newest_results
from backend.labelstudio.tags import ImageTag, MediaTag, tags_on
from backend.labelstudio.timing import page_index, page_number
from backend.labelstudio.video_regions import VideoRegion, new_region, video_results
from backend.labelstudio.write_results import region_id
from backend.pixels.open_videos import OpenVideos
from backend.pixels.recipes import Frame, ImageRecipe, Picture, Video
from backend.predict.find import Finder
from backend.predict.segment import Segmenter
from backend.threads.caller import reply_by
from backend.tracking.video import video_tag
from backend.tracking.video_commands import VideoCommands

# Shares of the budget: until when the detector may look; the rest is for masks and the reply.
LOOK_BY = 0.75
MASKS_BY = 0.95

Reply = tuple[Results, str]


@dataclass(frozen=True)
class _Made:
    """What was found, and the model's answers to what is new of it, each with its region's id.

    Attributes:
        known: how many are there already.
    """

    found: Detections
    answers: Sequence[tuple[str, ObjectPrompt, Answer]]
    known: int


class FindCommand:
    """Carries out ``find``. The model's work goes behind clicks.

    Args:
        budget_seconds: longest wait of a reply.
    """

    def __init__(
        self,
        finder: Finder,
        segmenter: Segmenter,
        videos: VideoCommands,
        open_videos: OpenVideos,
        *,
        budget_seconds: float,
    ) -> None:
        self._finder = finder
        self._segmenter = segmenter
        self._videos = videos
        self._open_videos = open_videos
        self._budget = budget_seconds

    def on_picture(
        self, task: ProjectTask, parsed: ParsedCommand, typed: TypedText, fresh: Results
    ) -> Reply:
        """Masks on the picture or page at hand.

        Args:
            typed: where the command stands.
            fresh: what was sent to the editor in the last seconds.

        Raises:
            ExpectedError: why nothing can be found.
        """
        tag = task.config.image(typed.to_name)
        if tag is None:
            raise MissingMedia(f"the label config has no <Image name={typed.to_name}>")
        page = page_at_hand(task, tag, parsed.at, typed, fresh) if tag.is_sequence else None
        there = {*task.held, *(str(each.get("id")) for each in fresh)}
        made = self._look(task, tag, Picture.of(task, tag, page), parsed, there, page=page)
        regions: Results = []
        shown: list[ObjectPrompt] = []
        for name, prompt, answer in made.answers:
            results = self._segmenter.regions(prompt, answer, task.config, name)
            regions += results
            shown += [prompt] if results else []
        where = "" if page is None else f" on page {page_number(page)}"
        return regions, _told(made, shown, where, named=bool(parsed.names))

    def on_video(
        self, task: ProjectTask, parsed: ParsedCommand, name: str, regions: Sequence[VideoRegion]
    ) -> Reply:
        """Boxes on one frame, each a region that ``track`` carries on.

        Args:
            name: of the Video tag.
            regions: on it, which say how many frames there are. Where the command names no frame
                it is frame 1: the editor does not say which it shows.

        Raises:
            ExpectedError: why nothing can be found.
        """
        tag = video_tag(task.config, name)
        seconds = max(0.0, reply_by(LOOK_BY * self._budget) - time.monotonic())
        timeline = self._videos.clip(task, name, regions, seconds=seconds).timeline
        at = parsed.at or 1
        if at > timeline.frames_count:
            raise MissingMedia(f"there is no frame {at}: the frames are 1-{timeline.frames_count}")
        video = Video.of(task, tag)
        index = self._open_videos.index(video, time.monotonic() + seconds)
        frame = Frame(video, index.content_key, timeline.file_frame(at))
        made = self._look(task, tag, frame, parsed, task.held, frame=at)
        control = tags_on(task.config.video_rectangles, name)[0].name
        results: Results = []
        shown: list[ObjectPrompt] = []
        for key, prompt, answer in made.answers:
            box = mask_to_box(answer.mask.unpack())
            if box is None:
                continue
            keyframes, count = (Keyframe(at, box),), timeline.frames_count
            region = new_region(key, prompt.labels, control, name, keyframes, count)
            rate, score = timeline.framerate, answer.score
            results += video_results(region, keyframes, task.config, framerate=rate, score=score)
            shown.append(prompt)
        told = _told(made, shown, f" on frame {at}", named=bool(parsed.names))
        return results, f"{told}; wait 5 seconds, then track" if shown else told

    def _look(
        self,
        task: ProjectTask,
        tag: MediaTag,
        image: ImageRecipe,
        parsed: ParsedCommand,
        there: Container[str],
        *,
        page: int | None = None,
        frame: int | None = None,
    ) -> _Made:
        """Ask the detector, and the model about what is not ``there`` yet."""
        look_by, masks_by = reply_by(LOOK_BY * self._budget), reply_by(MASKS_BY * self._budget)
        wanted = self._finder.wanted(dict(parsed.names))
        found = self._finder.find(task, tag, image, wanted, look_by, page=page)
        new = []
        for prompt in found.prompts:
            drawn = (frame, prompt.labels, prompt.points, prompt.box, prompt.shape)
            key = region_id(prompt, anchor=repr(drawn), owner=task.owner or "")
            if key not in there:
                new.append((key, prompt))
        prompts = [prompt for _, prompt in new]
        outcomes: list[Outcome] = []
        if prompts:
            outcomes = self._segmenter.answer_on(image, prompts, Priority.TRACK, masks_by)
        answers = [
            (key, prompt, outcome)
            for (key, prompt), outcome in zip(new, outcomes, strict=True)
            if isinstance(outcome, Answer)
        ]
        return _Made(found, answers, known=len(found.found) - len(new))


def page_at_hand(
    task: ProjectTask, tag: ImageTag, at: int | None, typed: TypedText, fresh: Results
) -> int:
    """The page that is looked at: the one that was named (``at``), else that of the text box, where
    each page has its own; else that of the newest region, as the editor does not say what it shows.
    """
    count = page_count(task.data, tag)
    if at is not None:
        page = page_index(at)
    elif typed.item_index is not None:
        page = typed.item_index
    else:
        saved = [*newest_results(task.task, "drafts", "annotations"), *fresh]
        pages = [whole_number(each.get("item_index")) for each in saved]
        known = [page for page in pages if page is not None and page < count]
        page = known[-1] if known else 0
    if not 0 <= page < count:
        raise MissingMedia(f"there is no page {page_number(page)}: the pages are 1-{count}")
    return page


def _told(made: _Made, shown: Sequence[ObjectPrompt], where: str, *, named: bool) -> str:
    """What is said of an answer; ``named``: somebody said what to look for."""
    found, known = made.found, made.known
    left = len(found.found) - known - len(shown)
    parts = [f"found {_counted(shown)}{where}"] if shown else []
    if known:
        parts.append(f"{counted(known, 'is', 'are')} there already")
    if left:
        parts.append(f"{left} had no time or no mask: find again for more")
    if not found.found and not found.notes:
        parts.append(f"the detector finds nothing{where}")
        if not named:
            parts.append("some need to be told what to look for, as in find person, dog")
    return "; ".join([*parts, *found.notes])


def _counted(prompts: Iterable[ObjectPrompt]) -> str:
    """How many there are of each label: "2 Person, 1 Dog"."""
    count = Counter(joined_labels(each.labels) for each in prompts)
    return ", ".join(f"{number} {label}" for label, number in count.most_common())
