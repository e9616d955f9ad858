"""``everything Label``, typed into the text box: masks of all objects of a picture, a page or a
box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.engine.engine import Everything
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError, counted, cut
from backend.labelstudio.commands import ParsedCommand, TypedText
from backend.labelstudio.detections import labels_on
from backend.labelstudio.geometry import Box
from backend.labelstudio.json_values import Results
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, prompts_from_context
from backend.labelstudio.read_results import newest_results
from backend.labelstudio.tags import ImageTag, Label, LabelConfig
from backend.labelstudio.timing import page_number
from backend.labelstudio.write_results import region_id
from backend.pixels.recipes import Picture
from backend.predict.find_command import page_at_hand
from backend.predict.recent import LastBox, RecentPrompts
from backend.predict.segment import Segmenter
from backend.threads.caller import reply_by

MOST_REGIONS = 100  # in one reply: each costs the editor time
SEARCH_BY = 0.9  # share of the budget; the rest is for writing the reply
MANY_LABELS = 12  # in one sentence


class NoSuchLabel(ExpectedError):
    """What is found would have no label."""


@dataclass(frozen=True)
class SearchedPlace:
    """Where everything is looked for.

    Attributes:
        page: from 0; None on a single picture.
        within: a box there; None for all of it.
    """

    tag: ImageTag
    page: int | None
    within: Box | None = None


class EverythingFinder:
    """Finds all objects of pictures and makes regions of them."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def find(
        self,
        task: ProjectTask,
        place: SearchedPlace,
        labels: tuple[str, ...],
        there: Results,
        priority: Priority,
        deadline: float,
        *,
        most: int,
    ) -> tuple[Results, Everything]:
        """The regions of what is found, each with an id that its mask gives it.

        Args:
            labels: what they get, see ``label_for``.
            there: regions; objects that they cover are left out.
            deadline: on ``time.monotonic``.

        Raises:
            LabelMismatch: no answer tag has the label.
            MissingMedia, MediaError, EngineError, Busy, UnusableShape: see ``Engine.everything``.
        """
        tag, page = place.tag, place.page
        taken = [
            prompt
            for prompt in prompts_from_context({"result": there}, task.config).objects
            if (prompt.image, prompt.item_index) == (tag.name, page)
        ]
        picture = Picture.of(task, tag, page)
        everything = self._segmenter.everything(
            picture, priority, deadline, within=place.within, taken=taken, most=most
        )
        regions: Results = []
        for answer in everything.answers:
            prompt = ObjectPrompt(tag.name, page, labels)
            anchor = repr(("everything", labels, answer.mask.box, answer.mask.area))
            key = region_id(prompt, anchor=anchor, owner=task.owner or "")
            regions += self._segmenter.regions(prompt, answer, task.config, key)
        return regions, everything


class EverythingCommand:
    """Carries out ``everything``; the model's work goes behind clicks.

    Args:
        budget_seconds: longest wait of a reply.
    """

    def __init__(
        self, finder: EverythingFinder, recent: RecentPrompts, *, budget_seconds: float
    ) -> None:
        self._finder = finder
        self._recent = recent
        self._budget = budget_seconds

    def on_picture(
        self, task: ProjectTask, parsed: ParsedCommand, typed: TypedText
    ) -> tuple[Results, str]:
        """Masks on the picture or page at hand, and what is said of them.

        Args:
            typed: where the command stands.

        Raises:
            ExpectedError: why nothing can be found.
        """
        tag = task.config.image(typed.to_name)
        if tag is None:
            raise MissingMedia(f"the label config has no <Image name={typed.to_name}>")
        wanted = parsed.names[0][0] if parsed.names else None
        labels = label_for(wanted, task.config, tag)
        fresh = self._recent.fresh(task)
        page = page_at_hand(task, tag, parsed.at, typed, fresh) if tag.is_sequence else None
        box = self._box(task, tag, page, parsed)
        held = _saved(task)
        ids = {str(each.get("id")) for each in held}
        there = [*held, *(each for each in fresh if str(each.get("id")) not in ids)]
        of_box = [each for each in there if box and str(each.get("id")) in box.ids]
        others = [each for each in there if each not in of_box]
        regions, everything = self._finder.find(
            task,
            SearchedPlace(tag, page, box.box if box else None),
            labels,
            others,
            Priority.TRACK,
            reply_by(SEARCH_BY * self._budget),
            most=MOST_REGIONS,
        )
        self._recent.remember_sent(task, regions)
        if regions:  # the mask of the box itself was never wanted
            regions = [*regions, *({**each, "dynamic": True} for each in of_box)]
        where = f" on page {page_number(page)}" if page is not None else ""
        where += " in the box" if box else ""
        return regions, told(everything, labels, where)

    def _box(
        self, task: ProjectTask, tag: ImageTag, page: int | None, parsed: ParsedCommand
    ) -> LastBox | None:
        """The box that is meant: the last one of the last minute. One whose mask was accepted is an
        object of its own, and meant only where the command says so."""
        box = self._recent.last_box(task, tag.name, page)
        if box is None and parsed.in_box:
            raise MissingMedia(
                "no box was drawn in the last minute: drag one with the smart rectangle, then type "
                "everything again"
            )
        return box if box is not None and (parsed.in_box or not box.accepted) else None


def label_for(wanted: str | None, config: LabelConfig, tag: ImageTag) -> tuple[str, ...]:
    """The labels of what is found on ``tag``: the one that was named, in any case, or the only one
    there is; none where answers there have no labels.

    Raises:
        NoSuchLabel: there is none such, or there are several to choose from.
    """
    labels = labels_on(config, tag)
    if wanted is None:
        if len(labels) <= 1:
            return tuple(label.name for label in labels)
        raise NoSuchLabel(f"which label? Type everything {labels[0].name}; {_listed(labels)}")
    for label in labels:
        if wanted.casefold() in (name.casefold() for name in label.names):
            return (label.name,)
    holders = [holder for _, holder in config.label_holders(tag.name)]
    if any(holder.dynamic_labels for holder in holders):
        return (wanted,)
    named = cut(wanted, 40)
    if not labels:
        raise NoSuchLabel(f"there is no label {named}: the label config has none; type everything")
    raise NoSuchLabel(f"there is no label {named}; {_listed(labels)}")


def told(everything: Everything, labels: tuple[str, ...], where: str) -> str:
    """What is said of what was found."""
    count, more = len(everything.answers), everything.more
    found = f"{count} {labels[0]}" if labels else counted(count, "object")
    again = f"everything {labels[0]}" if labels else "everything"
    parts = [f"found {found}{where}" if count else f"found nothing{where}"]
    if not count and everything.looked == 1:
        parts = [f"found nothing{where} that is not labelled already"]
    if more:
        left = f"{counted(more, 'is', 'are')} left out"
        parts.append(f"{left}: accept these, wait 5 seconds, then type {again} for the next")
    elif everything.looked < 1:
        share = f"only {everything.looked:.0%} was looked through in the time"
        parts.append(f"{share}: type {again} again to go on")
    return "; ".join(parts)


def _listed(labels: Sequence[Label]) -> str:
    names = [label.name for label in labels]
    shown = ", ".join(names[:MANY_LABELS])
    more = len(names) - MANY_LABELS
    return f"the labels are {shown}" + (f" and {more} more" if more > 0 else "")


def _saved(task: ProjectTask) -> Results:
    """What the annotation at hand holds, as far as the request says it."""
    kind = "drafts" if "drafts" in task.task else "annotations"
    return newest_results(task.task, kind, even_empty=True)
