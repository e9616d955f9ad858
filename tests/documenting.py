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
