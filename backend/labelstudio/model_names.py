"""The model version that Label Studio shows and stores: which weights, and which release."""

from __future__ import annotations

import re

from backend import __version__

_RELEASE = re.compile(r"@\d[^@]*$")


def shown_version(model: str) -> str:
    """What Label Studio is told, such as ``sam2.1_hiera_tiny@0.1.0``."""
    return f"{model}@{__version__}"


def model_of(shown: object) -> str:
    """The weights that a prediction comes from, whichever release made it; empty where it does
    not say."""
    return _RELEASE.sub("", shown) if isinstance(shown, str) else ""
