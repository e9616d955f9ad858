"""Where training pictures come from: packages whose licences allow shipping trained weights.

Only public domain, CC0, CC-BY, Apache-2.0, OFL and MIT material is listed. Where a package
mixes licences, its machine-readable copyright file decides per file
(:func:`training.demo_weights.extraction.file_licences`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.demo_weights import extraction
from training.demo_weights.extraction import Piece


@dataclass(frozen=True, kw_only=True)
class Source:
    """One package and how pictures are got out of it.

    Attributes:
        package: its name in the registry.
        registry: "debian" (fetched with ``apt-get download``) or "npm" (``npm pack``).
        version: npm only: the version, pinned because the registry has many.
        extract: reads the unpacked package and yields its pieces.
    """

    package: str
    registry: str
    extract: Callable[[Path], Iterator[tuple[Piece, np.ndarray]]]
    version: str = ""


SOURCES: tuple[Source, ...] = (
    Source(package="openclipart-png", registry="debian", extract=extraction.openclipart),
    Source(package="fonts-noto-color-emoji", registry="debian", extract=extraction.noto_emoji),
    Source(package="gcompris-qt-data", registry="debian", extract=extraction.gcompris),
    Source(package="lomiri-wallpapers-16.04", registry="debian", extract=extraction.wallpapers),
    Source(package="lomiri-wallpapers-20.04", registry="debian", extract=extraction.wallpapers),
    Source(package="blender-data", registry="debian", extract=extraction.blender_lights),
    Source(package="mypaint-data-extras", registry="debian", extract=extraction.mypaint_papers),
    Source(
        package="fonts-materialdesignicons-webfont",
        registry="debian",
        extract=extraction.material_icons,
    ),
    Source(package="fonts-noto-core", registry="debian", extract=extraction.noto_glyphs),
    Source(
        package="@lobehub/fluent-emoji-3d",
        registry="npm",
        version="1.1.0",
        extract=extraction.fluent_emoji,
    ),
    Source(
        package="@pmndrs/assets",
        registry="npm",
        version="1.7.0",
        extract=extraction.pmndrs_assets,
    ),
)
