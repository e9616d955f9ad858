"""Pictures for the docs, made by tests where that is asked for (``make screenshot``)."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

IMAGES = Path(__file__).parents[1] / "docs" / "images"
_LOOKS = {"": ("light", 1300), "_dark": ("dark", 1300), "_narrow": ("light", 375)}
_HEIGHT = 900
_QUALITY = 70
_FILM = (1000, 733)


class Film:
    """Makes ``docs/images/<name>.webp``, an animated picture, of what pages look like in turn."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shots: list[Image.Image] = []
        self._seconds: list[float] = []

    def take(self, page: Page, seconds: float) -> None:
        """Show a page as it is, for so long."""
        if os.environ.get("E2E_DOCS_SCREENSHOT"):
            page.wait_for_timeout(700)  # until it is drawn
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            self._shots.append(shot.resize(_FILM, Image.Resampling.LANCZOS))
            self._seconds.append(seconds)

    def keep(self) -> None:
        """Write the file."""
        if self._shots:
            first, *others = self._shots
            first.save(
                IMAGES / f"{self._name}.webp",
                save_all=True,
                append_images=others,
                duration=[round(1000 * each) for each in self._seconds],
                loop=0,
                quality=_QUALITY,
                method=6,
            )


def document_page(page: Page, name: str) -> None:
    """Make ``docs/images/<name>.webp``, ``<name>_dark.webp`` and ``<name>_narrow.webp``."""
    if not os.environ.get("E2E_DOCS_SCREENSHOT"):
        return
    before = page.viewport_size
    for ending, (scheme, width) in _LOOKS.items():
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": _HEIGHT})
        page.wait_for_timeout(1500)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shot.save(IMAGES / f"{name}{ending}.webp", quality=_QUALITY, method=6)
    page.emulate_media(color_scheme=None)
    if before is not None:
        page.set_viewport_size(before)
