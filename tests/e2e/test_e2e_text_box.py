"""The text box and the line beside it: seen at once, answered always, and nothing of it saved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.projects import PROJECTS, DemoProject
from tests.e2e.editor import Editor
from tests.e2e.services import Services

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

NOTE = "a second bud behind it"


@pytest.fixture
def small_screen(editor: Editor) -> Iterator[Editor]:
    """The editor on the screen of a small notebook."""
    editor.page.set_viewport_size({"width": 1280, "height": 800})
    yield editor


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.title)
def test_what_is_typed_is_answered_in_sight_and_only_notes_are_saved(
    small_screen: Editor, services: Services, project: DemoProject
) -> None:
    editor = small_screen
    number, task, *_ = services.demo_tasks("Text box", project)
    editor.open(number, task, auto_accept=True)
    assert editor.in_sight(editor.text_box("sam2"))

    for typed, answer in [
        ("trck", "SAM 2: no command trck; did you mean track?"),
        ("help", "SAM 2: "),
        (NOTE, "SAM 2: your text stays as a note; type help for the commands"),
        ("stauts", "SAM 2: no command stauts; did you mean status?"),
        ("status", "SAM 2: "),
    ]:
        editor.say(typed)
        [line] = editor.lines("sam2_says")
        assert line.startswith(answer)
        assert line != "SAM 2: "
        assert editor.in_sight(editor.page.get_by_text(line, exact=True))
        assert set(editor.lines("sam2")) <= {NOTE}
    assert editor.lines("sam2") == [NOTE]
    editor.say("clear")
    assert (editor.lines("sam2_says"), editor.lines("sam2")) == ([], [NOTE])
    assert editor.state().regions == []
    editor.say("/hlep")  # what is said last stands there when it is submitted
    editor.submit()

    [annotation] = services.api.annotations(task)
    [saved] = annotation["result"]
    assert (saved["from_name"], saved["value"]) == ("sam2", {"text": [NOTE]})
