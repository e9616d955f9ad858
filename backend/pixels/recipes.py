"""Recipes: small values that name pictures, pages, frames and videos.

A recipe can be pickled and sent to where the model is, to be resolved there (``PixelResolver``).
It holds what a task says, and no credentials: those belong to whatever resolves it, as do caches
and decoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from backend.labelstudio.media_refs import media_uri
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.tags import MediaTag


@dataclass(frozen=True)
class _TaskMedium:
    """What an address of a task leads to.

    Attributes:
        address: as it stands in the task's data.
        task_id: of the task for which Label Studio is asked where its storages have it; None for a
            task without a number.
    """

    address: str
    task_id: int | None

    @classmethod
    def of(cls, task: ProjectTask, tag: MediaTag, page: int | None = None) -> Self:
        """What ``tag`` shows for ``task`` on ``page``.

        Raises:
            MissingMedia: the task has no such address.
        """
        number = task.task.get("id")
        return cls(media_uri(task.data, tag, page), number if type(number) is int else None)


class Picture(_TaskMedium):
    """A picture, or a page of a sequence."""


class Video(_TaskMedium):
    """A video file."""


@dataclass(frozen=True)
class Pages:
    """A sequence of pictures, to be read like the frames of a video."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        content_key: of the file in which the frame was counted, see ``VideoIndex``.
        index: from 0.
    """

    video: Video
    content_key: str
    index: int


ImageRecipe = Picture | Frame
FramesRecipe = Video | Pages
