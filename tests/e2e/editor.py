"""Label Studio's editor of images and videos, driven as an annotator drives it.

Clicks, drags and hot spots go through the page; only what a screen cannot tell reliably (which
regions exist, whether an answer is awaited) is read from the editor's own state, ``window.Htx``.
Written for the editor of Label Studio 1.23.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, Page, Response

from demo.backend import REPOSITORY
from tests.waiting import PATIENCE

_ANSWER_MS = 100_000  # as long as Label Studio waits for a backend
_SAVE_MS = 60_000
_DRAFT = re.compile(r"/api/(tasks/\d+/(annotations/\d+/)?drafts|drafts/\d+)")
_ANNOTATION = re.compile(r"/api/(tasks/\d+/annotations|annotations/\d+)/?(\?|$)")
_READY = """() => {
  const objects = window.Htx?.annotationStore?.selected?.objects;
  return objects?.length && [...objects].every(
    (o) => o.type === 'image' ? o.stageRef && o.currentImageEntity?.imageLoaded
         : o.type === 'video' ? o.length > 1 && o.ref?.current : true);
}"""
_IMAGE = "Htx.annotationStore.selected.objects.find((o) => o.type === 'image')"
# Where on the page a point of the image or of the video's frame is; x and y in percent.
_POSITION = """([x, y]) => {
  const find = (type) => Htx.annotationStore.selected.objects.find((o) => o.type === type);
  const o = find('image');
  if (o) {
    const stage = o.stageRef.container().getBoundingClientRect();
    const scale = o.stageScale ?? 1;
    return [stage.left + (o.zoomingPositionX || 0) + o.stageWidth * scale * x / 100,
            stage.top + (o.zoomingPositionY || 0) + o.stageHeight * scale * y / 100];
  }
  const canvas = document.querySelector('.konvajs-content').getBoundingClientRect();
  const {zoom, videoDimensions, pan} = find('video').ref.current;
  const [width, height] = [videoDimensions.width * zoom, videoDimensions.height * zoom];
  return [canvas.left + (canvas.width - width) / 2 + (pan?.x || 0) + width * x / 100,
          canvas.top + (canvas.height - height) / 2 + (pan?.y || 0) + height * y / 100];
}"""
# Position of a label among all rendered labels, which stand in the order of the config.
_LABEL_INDEX = """([control, value]) => {
  const labels = [];
  const walk = (node, name) => {
    if (node.type === 'label') labels.push([name, node._value ?? node.value]);
    (node.children || []).forEach((child) => walk(child, node.type === 'label' ? name : node.name));
  };
  walk(Htx.annotationStore.selected.root, null);
  return labels.findIndex(([name, label]) => name === control && label === value);
}"""
_IN_SIGHT = """(element) => {
  const {left, top, right, bottom} = element.getBoundingClientRect();
  const above = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return right > left && left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight
    && (element.contains(above) || above.contains(element));
}"""
_TAGS = "[...Htx.annotationStore.selected.names.values()]"
_LABEL_CONTROLS = f"""() => {_TAGS}
  .filter((tag) => (tag.children || []).some((child) => child.type === 'label'))
  .map((tag) => tag.name)"""
_CHOSEN_LABELS = f"""() => {_TAGS}.flatMap((tag) => tag.children || [])
  .filter((child) => child.type === 'label' && child.selected).map((child) => child._value)"""
_SELECTED = """() => {
  const annotation = Htx.annotationStore.selected;
  const tags = [...annotation.names.values()];
  return annotation.selectionSize > 0
    || tags.some((tag) => (tag.children || []).some((child) => child.selected));
}"""
_STATE = """() => {
  const annotation = Htx.annotationStore.selected;
  const region = (r) => ({id: r.cleanId ?? r.id, type: r.type, label: r.labelName ?? null,
                          prompt: Boolean(r.dynamic), page: r.item_index ?? null});
  const isRegion = (r) => (r.type || '').endsWith('region');
  const texts = [...annotation.names.values()].filter((t) => t.type === 'textarea');
  return {
    regions: [...annotation.regions].filter(isRegion).map(region),
    suggestions: [...annotation.suggestions.values()].filter(isRegion).map(region),
    text: texts.flatMap((t) => [...t.regions].map((line) => line._value)),
    tool: window.ToolManager.allInstances().map((m) => m.findSelectedTool())
      .filter(Boolean).map((t) => (t.dynamic ? 'smart ' : '') + t.toolName)[0] ?? null,
  };
}"""


@dataclass(frozen=True)
class Region:
    """A region of the editor; ``prompt`` says that it is a smart tool's, not the annotator's."""

    id: str
    type: str
    label: str | None
    prompt: bool
    page: int | None


@dataclass(frozen=True)
class State:
    """What the editor holds now. ``text`` is every line of every text area."""

    regions: list[Region]
    suggestions: list[Region]
    text: list[str]
    tool: str | None

    @property
    def masks(self) -> list[Region]:
        """Accepted brush regions."""
        return [region for region in self.regions if region.type == "brushregion"]


@dataclass(frozen=True)
class Answer:
    """What came back for one prompt: the request's body, and the reply's items or errors."""

    request: dict[str, Any]
    results: list[dict[str, Any]]
    errors: list[str]
    seconds: float


class Editor:
    """The labeling view of one Label Studio, in a logged-in page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def log_in(self, email: str, password: str) -> None:
        """Fill in the login form."""
        self.page.goto(f"{self.url}/user/login/", wait_until="domcontentloaded")
        self.page.fill("input[name=email]", email)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda url: "/login" not in url, wait_until="domcontentloaded")

    def open(self, project: int, task: int, *, auto_accept: bool = False) -> None:
        """Open a task with Auto-Annotation on, and wait until its image is drawn."""
        # The editor keeps both toggles in the browser's storage for this address; setting them
        # first is the same as clicking them.
        self.page.goto(f"{self.url}/health")
        self.page.evaluate(
            """(accept) => {
              localStorage.setItem('autoAnnotation', 'true');
              localStorage.setItem('autoAcceptSuggestions', String(accept));
            }""",
            auto_accept,
        )
        self.page.goto(
            f"{self.url}/projects/{project}/data?task={task}", wait_until="domcontentloaded"
        )
        self.wait_for_image()

    def document(self, name: str, width: int, height: int) -> None:
        """Make ``docs/images/<name>.png``, a picture for the docs, where that is asked for (``make
        screenshot``); in 256 colours, as one is kept for every version in the history."""
        if os.environ.get("E2E_DOCS_SCREENSHOT"):
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.wait_for_timeout(500)
            shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
            target = REPOSITORY / "docs" / "images" / f"{name}.png"
            shot.quantize(256).save(target, optimize=True)

    def forget(self) -> None:
        """Have neither switches nor tool remembered, as in a new browser."""
        self.page.goto(f"{self.url}/health")
        self.page.evaluate("localStorage.clear()")

    def wait_for_image(self) -> None:
        """Wait until the current image is loaded and drawn."""
        self.page.wait_for_function(_READY)
        # The stage is laid out once more after the image has come.
        self.page.wait_for_timeout(300)

    @property
    def smart_tool(self) -> Locator:
        """The button of the smart tools, the last one of the toolbar."""
        return self.page.locator(".lsf-toolbar__group").last.locator("> button.lsf-tool_smart")

    @property
    def labels(self) -> list[str]:
        """The names of the controls with labels, in the order of the config."""
        return list(self.page.evaluate(_LABEL_CONTROLS))

    def chosen_labels(self) -> list[str]:
        """The labels that are selected."""
        return list(self.page.evaluate(_CHOSEN_LABELS))

    def choose_tool(self, tool: str) -> None:
        """Choose a smart tool, ``key-point-tool`` or ``rectangle-tool``, in its hover menu."""
        self.smart_tool.hover()
        # Label Studio 1.20 calls the menu tool__smart, later ones toolbar__smart.
        self.page.locator(
            f':is(.lsf-toolbar__smart, .lsf-tool__smart) button[aria-label="{tool}"]'
        ).first.click(force=True)
        self.page.mouse.move(5, 5)
        self._wait_until(lambda: (self.state().tool or "").startswith("smart"))

    def choose_label(self, control: str, value: str) -> None:
        """Click on the label ``value`` of the tag named ``control``."""
        index = self.page.evaluate(_LABEL_INDEX, [control, value])
        assert index >= 0, f"no label {value} in {control}"
        self.page.locator(".lsf-label:visible").nth(index).click()

    def click(self, x: float, y: float, *, alt: bool = False, ctrl: bool = False) -> None:
        """Click on a point of the image, in percent; with Alt held down it is a negative one, with
        Ctrl it goes through the regions that lie there."""
        position = self._position(x, y)
        keys = [key for key, held in (("Control", ctrl), ("Alt", alt)) if held]
        for key in keys:
            self.page.keyboard.down(key)
        self.page.mouse.move(*position)
        self.page.mouse.click(*position)
        for key in keys:
            self.page.keyboard.up(key)

    def drag(self, left: float, top: float, right: float, bottom: float) -> None:
        """Drag from one point of the image to another, in percent."""
        end = self._position(right, bottom)
        self.page.mouse.move(*self._position(left, top))
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=8)
        self.page.mouse.up()

    def prompt(self, action: Callable[[], None]) -> Answer:
        """Do what sends a prompt to the backend; wait for the answer to be shown."""
        started = time.monotonic()
        with self.page.expect_response(_is_prompt, timeout=_ANSWER_MS) as caught:
            action()
        response = caught.value
        body = response.json()
        self.page.wait_for_function("() => !Htx.awaitingSuggestions", timeout=_ANSWER_MS)
        seconds = time.monotonic() - started
        self.page.wait_for_timeout(250)
        results = body.get("data", {}).get("result", [])
        request = json.loads(response.request.post_data or "{}")
        return Answer(request, results, body.get("errors", []), seconds)

    def point(
        self,
        x: float,
        y: float,
        label: str,
        *,
        control: str = "point",
        negative: bool = False,
        through: bool = False,
    ) -> Answer:
        """Choose the smart key point and a label, click (``through`` the regions that lie there),
        and wait for the answer."""
        self.choose_tool("key-point-tool")
        self.choose_label(control, label)
        return self.prompt(lambda: self.click(x, y, alt=negative, ctrl=through))

    def box(
        self, corners: tuple[float, float, float, float], label: str, *, control: str = "box"
    ) -> Answer:
        """Choose the smart rectangle and a label, drag, and wait for the answer."""
        self.choose_tool("rectangle-tool")
        self.choose_label(control, label)
        return self.prompt(lambda: self.drag(*corners))

    def draw_box(
        self, corners: tuple[float, float, float, float], label: str, *, control: str = "label"
    ) -> None:
        """Choose a label and drag a box that is the annotator's own, not a smart tool's."""
        before = len(self.state().regions)
        self.unselect()  # a selected region would get the label
        self.choose_label(control, label)
        self.drag(*corners)
        self._wait_until(lambda: len(self.state().regions) == before + 1)

    def unselect(self) -> None:
        """Press Escape: no region and no label is selected after it.

        What is selected when an answer arrives gives its label to every region of the answer.
        """
        self.page.keyboard.press("Escape")
        self._wait_until(lambda: not self.page.evaluate(_SELECTED))

    def hide_box(self, x: float, y: float) -> None:
        """Click into a pending box, which selects it, and hide it with its hotkey.

        Label Studio takes every click in a box for the box, whatever the tool: it has to be out
        of the way before points can be set in it.
        """
        self.click(x, y)
        self.page.keyboard.press("Alt+h")

    def state(self) -> State:
        """What the editor holds now."""
        raw = self.page.evaluate(_STATE)
        return State(
            [Region(**region) for region in raw["regions"]],
            [Region(**region) for region in raw["suggestions"]],
            raw["text"],
            raw["tool"],
        )

    def accept(self) -> None:
        """Accept all suggestions."""
        # The second is Label Studio 1.20's.
        self.page.click(
            "[data-testid=bottombar-accept-suggestions-button], "
            ".lsf-auto-accept__action_type_accept"
        )
        self._wait_until(lambda: not self.state().suggestions)

    def text_box(self, control: str) -> Locator:
        """The input of the text area named ``control``."""
        placeholder = self.page.evaluate(
            "(name) => Htx.annotationStore.selected.names.get(name).placeholder", control
        )
        return self.page.get_by_placeholder(placeholder, exact=True)

    def lines(self, control: str) -> list[str]:
        """What the text area named ``control`` shows."""
        regions = "Htx.annotationStore.selected.names.get(name).regions"
        lines = f"(name) => [...{regions}].map((line) => line._value)"
        return list(self.page.evaluate(lines, control))

    def in_sight(self, element: Locator) -> bool:
        """Whether the whole of an element is on the screen, and nothing lies over its middle."""
        return bool(element.evaluate(_IN_SIGHT))

    def say(self, text: str, *, control: str = "sam2") -> Answer:
        """Type a command into the text area named ``control``, press Enter, and wait."""
        box = self.text_box(control)
        box.fill(text)
        return self.prompt(lambda: box.press("Enter"))

    @contextlib.contextmanager
    def saved(self) -> Iterator[None]:
        """Leave when Label Studio has saved the draft of what was done inside (after 5 s)."""
        with self.page.expect_response(_is_draft, timeout=_SAVE_MS):
            yield

    def delete_region(self, x: float, y: float) -> None:
        """Click on a region, which selects it, and press Backspace."""
        before = len(self.state().regions)
        self.click(x, y)
        self.page.keyboard.press("Backspace")
        self._wait_until(lambda: len(self.state().regions) == before - 1)

    def submit(self) -> dict[str, Any]:
        """Submit (or update) the annotation; returns what Label Studio has stored."""
        button = self.page.locator(
            "[data-testid=bottombar-submit-button], [data-testid=bottombar-update-button], "
            "[aria-label=submit]"  # Label Studio 1.20's
        ).first
        return self.submitted(button.click)

    def submitted(self, action: Callable[[], None]) -> dict[str, Any]:
        """Do what submits the annotation; returns what Label Studio has stored."""
        with self.page.expect_response(_is_submit) as caught:
            action()
        return dict(caught.value.json())

    def go_to_page(self, index: int) -> None:
        """Show the ``index``-th image (0-based) of a sequence."""

        def turned() -> bool:
            # A page that is still opening may go back to its first image once more.
            self.page.evaluate(f"(i) => {_IMAGE}.setCurrentImage(i)", index)
            self.wait_for_image()
            return bool(self.page.evaluate(f"(i) => {_IMAGE}.currentImage === i", index))

        self._wait_until(turned)

    def _position(self, x: float, y: float) -> tuple[float, float]:
        left, top = self.page.evaluate(_POSITION, [x, y])
        return left, top

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"the editor did not get there: {self.state()}"
            self.page.wait_for_timeout(50)


def _is_prompt(response: Response) -> bool:
    return "/interactive-annotating" in response.url


def _is_draft(response: Response) -> bool:
    return response.request.method in ("POST", "PATCH") and bool(_DRAFT.search(response.url))


def _is_submit(response: Response) -> bool:
    return response.request.method in ("POST", "PATCH") and bool(_ANNOTATION.search(response.url))
