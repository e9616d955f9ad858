"""The steps of the demo: printed by ``make demo``, shown by Label Studio before labelling, written
into the docs and the backend's overview by ``docs/generate.py``, and carried out by
``tests/e2e/test_e2e_guide.py``, key by key.

Each step says what to do with the mouse, and in brackets the key that does the same. What is shown
here works on the first task that is opened and on every later one: Label Studio remembers switches
and tool, in other projects too, so steps marked ``once`` are left out then. It matters for the key
``M``, which goes on to the next smart tool where one was active when the task was opened.
"""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from enum import StrEnum

from demo.projects import PHOTO_PROJECT, SEQUENCE_PROJECT, VIDEO_PROJECT, DemoProject


class Do(StrEnum):
    """What a step does."""

    SWITCH = "switch"
    LEAVE_SWITCHES = "leave the switches"
    SMART_TOOL = "smart tool"
    LABEL = "label"
    CLICK = "click"
    BOX = "box"
    UNSELECT = "unselect"
    ACCEPT = "accept"
    SAVED = "saved"
    SAY = "say"
    SUBMIT = "submit"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        text: the sentence; ``{what}`` and ``{key}`` stand in it where the step has them.
        what: the switch, label, object or command it is about.
        key: the key that does the same as the mouse.
        once: only on the first task: it is remembered for the others, of all projects.
    """

    do: Do
    text: str
    what: str = ""
    key: str = ""
    once: bool = False

    def __str__(self) -> str:
        said = self.text.format(what=self.what, key=self.key)
        return f"Once: {said}" if self.once else said


@dataclass(frozen=True)
class Walk:
    """The steps in one of the demo's projects.

    Attributes:
        more: what else can be done, sentence by sentence.
    """

    title: str
    project: DemoProject
    steps: tuple[Step, ...]
    more: tuple[str, ...]


_AUTO_ANNOTATION = Step(
    Do.SWITCH, 'below the picture, switch "{what}" on.', "Auto-Annotation", "Space", once=True
)
_AUTO_ACCEPT = Step(
    Do.SWITCH,
    'beside it, switch "{what}" on.',
    "Auto-Accept Suggestions",
    "Space",
    once=True,
)
_SMART_TOOL = Step(
    Do.SMART_TOOL,
    "choose the smart tool, the last one beside the picture ({key}): it is blue then, with three "
    "pink dots on it. It stays chosen, and {key} would go on to boxes.",
    key="M",
    once=True,
)
_SAVED = Step(Do.SAVED, "Wait until it is saved: 6 seconds.")
_SUBMIT = Step(Do.SUBMIT, 'Press "Submit".', key="Space")


def _label(what: str, key: str, where: str = "") -> Step:
    return Step(Do.LABEL, f'Choose the label "{{what}}"{where} ({{key}}).', what, key)


HOW = (
    "With the keyboard: Tab goes to a switch, a button or the text box, Space presses it. While a "
    "switch has the focus, the browser swallows all other keys, after a click on it too: press Tab "
    'until "Submit" has it, or click on the picture. What follows "Once:" is remembered, in the '
    "other projects too: leave it out where it is so already."
)

PHOTOS = Walk(
    "PHOTOS",
    PHOTO_PROJECT,
    (
        _AUTO_ANNOTATION,
        Step(Do.LEAVE_SWITCHES, "click on the picture (or Tab to Submit).", once=True),
        _SMART_TOOL,
        _label("Flower", "1", " in the row Point"),
        Step(Do.CLICK, "Click on the {what}: a mask appears.", "flower"),
        Step(Do.ACCEPT, "Accept it with the tick below the picture."),
        _SUBMIT,
    ),
    (
        "To correct a mask before it is accepted: the label again, then click on what it misses, "
        "or Alt+click on what it should not cover.",
        "For boxes: rest with the mouse on the smart tool, choose the rectangle, then a label of "
        "the row Box, and drag.",
        "Many at once: in the list select the last three tasks, on which a detector has drawn "
        'boxes, then open "3 Tasks" above the list and choose Retrieve Predictions: the boxes '
        "become masks.",
    ),
)

SEQUENCE = Walk(
    "FRAME SEQUENCE",
    SEQUENCE_PROJECT,
    (
        _AUTO_ANNOTATION,
        _AUTO_ACCEPT,
        Step(Do.LEAVE_SWITCHES, "click on the picture (or Tab to Submit).", once=True),
        _SMART_TOOL,
        _label("Flower", "1", " in the row Point"),
        Step(Do.CLICK, "Click on the {what}: it gets a mask on this page.", "bud"),
        _SAVED,
        Step(
            Do.SAY,
            "Type {what} into the text box above and press Enter: after some seconds the bud has a "
            "mask on all pages, and beside the text box stands which are done.",
            "track",
        ),
        _SUBMIT,
    ),
    (
        "While it tracks, a small wheel turns below the picture. What takes longer than 20 seconds "
        "goes on in the background: type status for more.",
        "To correct a page: choose the label and click on what its mask misses, or Ctrl+Alt+click "
        "on what it should not cover (Cmd+Alt on a Mac), wait, and track again.",
    ),
)

VIDEO = Walk(
    "VIDEO",
    VIDEO_PROJECT,
    (
        _AUTO_ANNOTATION,
        Step(Do.LEAVE_SWITCHES, "click beside the video (or Tab to Submit).", once=True),
        _label("Flower", "1"),
        Step(Do.BOX, "Drag a box around the {what}.", "bud"),
        Step(
            Do.UNSELECT,
            "Press {key}: the label of a selected box would be given to all.",
            key="Escape",
        ),
        _label("Animal", "2"),
        Step(Do.BOX, "Drag a box around the {what}.", "bee"),
        Step(Do.UNSELECT, "Press {key}.", key="Escape"),
        _SAVED,
        Step(
            Do.SAY,
            "Type {what} into the text box above and press Enter: the boxes follow both.",
            "track",
        ),
        _SUBMIT,
    ),
    ("A click on a box shows its own text box, beside the labels, which tracks that one alone.",),
)

WALKS = (PHOTOS, SEQUENCE, VIDEO)


def as_text(walk: Walk) -> str:
    """The steps for a terminal of 78 columns, numbered."""
    lines = [
        textwrap.fill(str(step), 76, initial_indent=f"  {number:>2}. ", subsequent_indent=" " * 6)
        for number, step in enumerate(walk.steps, 1)
    ]
    lines += [
        textwrap.fill(each, 76, initial_indent="      ", subsequent_indent=" " * 6)
        for each in walk.more
    ]
    return "\n".join(lines)


def as_html(walk: Walk) -> str:
    """The steps for Label Studio's instructions, and for the backend's own page."""
    steps = "".join(f"\n  <li>{html.escape(str(step))}</li>" for step in walk.steps)
    return f"<ol>{steps}\n</ol>"


def as_markdown(walk: Walk) -> str:
    """The steps for a page, numbered."""
    lines = [f"{number}. {step}" for number, step in enumerate(walk.steps, 1)]
    return "\n".join([*lines, "", *(f"- {each}" for each in walk.more)])
