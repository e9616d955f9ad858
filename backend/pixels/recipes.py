"""Pictures that are named by their content and decoded late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backend.labelstudio.tags import ImageTag
from backend.media.cache import MediaFile
from backend.media.task_media import Fetcher, TaskMedia
from backend.metrics import Metrics


@dataclass(frozen=True)
class ImageSource:
    """An image by content.

    Attributes:
        key: the same for the same bytes, different for others (a content digest).
        load: decodes it to uint8 RGB ``[H, W, 3]``; called at most once per encode, and
            not at all when the embedding is cached.
    """

    key: str
    load: Callable[[], np.ndarray]


class TaskPictures(TaskMedia):
    """The media of tasks, and pictures among them as sources for the model.

    Args:
        decode: turns an image file into uint8 RGB [H, W, 3].
    """

    def __init__(
        self, fetcher: Fetcher, metrics: Metrics, decode: Callable[[Path], np.ndarray]
    ) -> None:
        super().__init__(fetcher, metrics)
        self._decode = decode

    def source(
        self, task: Mapping[str, Any], tag: ImageTag, page: int | None, deadline: float
    ) -> ImageSource:
        """The picture that ``tag`` shows for ``task`` on ``page``; see ``image``."""
        file = self.image(task, tag, page, deadline)
        return ImageSource(file.content_key, partial(self._load, file))

    def _load(self, file: MediaFile) -> np.ndarray:
        return self._decode(file.path)
