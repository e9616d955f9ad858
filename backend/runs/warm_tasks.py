"""The kind of run that warms: every picture of a project is encoded ahead, and kept on the disk, so
that the first click on it is as quick as a further one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from backend.engine.embedding_disk import DiskRoom
from backend.engine.scheduler import Priority
from backend.expected import counted
from backend.labelstudio.media_refs import page_count
from backend.labelstudio.project_task import ProjectTask
from backend.pixels.recipes import Picture
from backend.runs.labeller import Stopped
from backend.runs.run import Setting, TaskEnd
from backend.runs.run_request import RunError
from backend.runs.run_store import RunTask, TaskResult, TaskState

ENCODE_SECONDS = 600.0  # for one picture, while everybody else goes first
_MB = 1_000_000


class WarmTasks:
    """See ``TaskWork``. What does not fit is left out: what was encoded first would leave for it,
    and is looked at first."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._engine = setting.parts.service.engine
        self._room = self._engine.disk_room(ENCODE_SECONDS)
        if not self._room.capacity:
            raise RunError(
                "pictures are encoded ahead for the disk, which has no room for them: set "
                "EMBEDDING_DISK_MB (about 8 for each picture) and start the backend again"
            )
        self._lock = threading.Lock()
        self._taken = 0  # pictures that a place was given to
        self._left = 0

    def plan(self, task: ProjectTask) -> TaskEnd:
        """See ``TaskWork``."""
        count = sum(1 for _ in _pictures(task))
        if not count:
            return TaskEnd(TaskState.SKIPPED, "shows no pictures")
        if not self._take(count):
            return TaskEnd(TaskState.SKIPPED, self._full, found=TaskResult(pictures=count))
        size = count * self._room.each / _MB
        line = f"would be encoded: {counted(count, 'picture')}, {size:.0f} MB on the disk"
        return TaskEnd(TaskState.PLANNED, line, found=TaskResult(pictures=count))

    def carry_out(self, task: ProjectTask, of_run: RunTask) -> TaskEnd:
        """See ``TaskWork``."""
        pictures = list(_pictures(task))
        if not pictures:
            return TaskEnd(TaskState.SKIPPED, "shows no pictures")
        if not self._take(len(pictures)):
            return TaskEnd(TaskState.SKIPPED, self._full)
        for picture in pictures:
            if self._setting.stopping():
                raise Stopped
            self._engine.embed(picture, Priority.RUN, ENCODE_SECONDS)
            self._setting.got_on(of_run.position)
        found = TaskResult(pictures=len(pictures))
        return TaskEnd(
            TaskState.STORED, f"encoded {counted(len(pictures), 'picture')}", found=found
        )

    def tidy(self) -> str:
        """See ``TaskWork``."""
        return (
            f"{counted(self._left, 'picture was', 'pictures were')} left out: {self._full}"
            if self._left
            else ""
        )

    @property
    def _full(self) -> str:
        return f"there is no room: EMBEDDING_DISK_MB holds {counted(self._room.fits, 'picture')}"

    def _take(self, count: int) -> bool:
        """Whether there is room for so many more."""
        with self._lock:
            if self._taken + count > self._room.fits:
                self._left += count
                return False
            self._taken += count
            return True


def room_text(pictures: int, room: DiskRoom) -> str:
    """How much disk so many pictures take, and whether that is there."""
    megabytes = f"{pictures * room.each / _MB:.0f} MB on the disk"
    size = f"{counted(pictures, 'picture takes', 'pictures take')} {megabytes}"
    fits = f"EMBEDDING_DISK_MB has room for {counted(room.fits, 'picture')}"
    if pictures <= room.fits:
        return f"{size}, which is there ({fits})"
    return f"{size}; {fits}, so {counted(pictures - room.fits, 'is', 'are')} left out"


def _pictures(task: ProjectTask) -> Iterator[Picture]:
    """What a task shows, pages of sequences one by one; videos are decoded while they are watched.

    Raises:
        MissingMedia: the task lacks what a tag shows.
    """
    for tag in task.config.images:
        if tag.is_sequence:
            for page in range(page_count(task.data, tag)):
                yield Picture.of(task, tag, page)
        else:
            yield Picture.of(task, tag)
