"""The demo's three projects: photos, a frame sequence and a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from demo.api import LabelStudioApi
from demo.clip import sample_clip
from demo.sample_photos import PHOTOS, PhotoObject, photo_objects

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class DemoProject:
    """One project of the demo.

    Attributes:
        title: what Label Studio calls it; an existing project of this title is used again.
        config: file with its label config.
        upload: uploads the data, having a directory for what it has to write first; returns
            the tasks as Label Studio imports them.
    """

    title: str
    description: str
    config: Path
    upload: Callable[[LabelStudioApi, int, Path], list[dict[str, Any]]]

    @property
    def label_config(self) -> str:
        """The label config itself."""
        return self.config.read_text(encoding="utf-8")

    def set_up(self, api: LabelStudioApi, directory: Path, instruction: str) -> int:
        """The project with its tasks, made now unless they are there; returns its id.

        Args:
            instruction: HTML that Label Studio shows before labelling.
        """
        project = api.find_project(self.title)
        if project is None:
            project = api.create_project(
                self.title,
                self.label_config,
                description=self.description,
                show_collab_predictions=True,
                expert_instruction=instruction,
                show_instruction=True,
            )
        if not api.tasks(project):
            api.import_tasks(project, self.upload(api, project, directory))
        return project


def _photos(api: LabelStudioApi, project: int, directory: Path) -> list[dict[str, Any]]:
    """The photos; and once more those with known objects, with boxes as a detector draws them."""
    objects = photo_objects()
    data = {name: {"image": api.upload(project, PHOTOS / name)} for name in objects}
    detected = [
        {"data": data[name], "predictions": [_detected(PHOTOS / name, found.values())]}
        for name, found in objects.items()
        if found
    ]
    return [*({"data": each} for each in data.values()), *detected]


def _detected(photo: Path, objects: Iterable[PhotoObject]) -> dict[str, Any]:
    """The prediction of a detector: a box around each object."""
    with Image.open(photo) as picture:
        width, height = picture.size
    result = []
    for number, each in enumerate(objects):
        left, top, right, bottom = each.box
        place = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
        result.append(
            {
                "id": f"detected-{number}",
                "from_name": "box",
                "to_name": "image",
                "type": "rectanglelabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**place, "rectanglelabels": [each.label]},
            }
        )
    return {"model_version": "detector", "result": result}


def _frames(api: LabelStudioApi, project: int, directory: Path) -> list[dict[str, Any]]:
    """The clip, and the clip backwards."""
    pages = [api.upload(project, page) for page in sample_clip().write_pages(directory / "pages")]
    return [{"data": {"frames": frames}} for frames in (pages, pages[::-1])]


def _video(api: LabelStudioApi, project: int, directory: Path) -> list[dict[str, Any]]:
    """The clip, and the clip backwards."""
    tasks = []
    for name, clip in (("clip", sample_clip()), ("clip_backwards", sample_clip().backwards())):
        file = directory / f"{name}.mp4"
        clip.write_video(file)
        tasks.append({"data": {"video": api.upload(project, file)}})
    return tasks


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
