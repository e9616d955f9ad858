"""The demo's three projects: photos, a frame sequence and a video."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.api import LabelStudioApi
from demo.clip import PHOTOS, sample_clip

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class DemoProject:
    """One project of the demo.

    Attributes:
        title: what Label Studio calls it; an existing project of this title is used again.
        config: file with its label config.
        upload: uploads the data, having a directory for what it has to write first; returns
            the data of each task.
    """

    title: str
    description: str
    config: Path
    upload: Callable[[LabelStudioApi, int, Path], list[dict[str, Any]]]

    @property
    def label_config(self) -> str:
        """The label config itself."""
        return self.config.read_text(encoding="utf-8")

    def set_up(self, api: LabelStudioApi, directory: Path) -> int:
        """The project with its tasks, made now unless they are there; returns its id."""
        project = api.find_project(self.title)
        if project is None:
            project = api.create_project(
                self.title,
                self.label_config,
                description=self.description,
                show_collab_predictions=True,
            )
        if not api.tasks(project):
            api.create_tasks(project, self.upload(api, project, directory))
        return project


def _photos(api: LabelStudioApi, project: int, directory: Path) -> list[dict[str, Any]]:
    names = json.loads((PHOTOS / "truth.json").read_text(encoding="utf-8"))
    return [{"image": api.upload(project, PHOTOS / name)} for name in names]


def _frames(api: LabelStudioApi, project: int, directory: Path) -> list[dict[str, Any]]:
    pages = sample_clip().write_pages(directory / "pages")
    return [{"frames": [api.upload(project, page) for page in pages]}]


def _video(api: LabelStudioApi, project: int, directory: Path) -> list[dict[str, Any]]:
    file = directory / "clip.mp4"
    sample_clip().write_video(file)
    return [{"video": api.upload(project, file)}]


PHOTO_PROJECT = DemoProject(
    "SAM 2 demo", "Sample photos for the SAM 2 backend", _HERE / "label_config.xml", _photos
)
SEQUENCE_PROJECT = DemoProject(
    "SAM 2 demo: frame sequence",
    "A clip as a sequence of images: masks on every frame",
    _HERE / "frame_sequence.xml",
    _frames,
)
VIDEO_PROJECT = DemoProject(
    "SAM 2 demo: video", "The same clip as a video: tracked boxes", _HERE / "video.xml", _video
)
PROJECTS = (PHOTO_PROJECT, SEQUENCE_PROJECT, VIDEO_PROJECT)
