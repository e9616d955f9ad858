"""Whose a track is: two annotators of one task have tracks of their own.

A request of Label Studio names nobody. The drafts in it are those of who asks, and a draft names
its owner; with an empty draft only the regions in the request itself say what is somebody's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection

from backend.labelstudio.project_task import ProjectTask
from backend.tracking.store import TrackStore

NO_DRAFT = (
    "Label Studio names nobody in a request, and your draft is empty: so it cannot be told which "
    "tracks are yours, and nobody else's are shown. Click or change something, wait 5 seconds "
    "(the editor saves your draft then) and type it again"
)
"""The answer to a command from an empty draft, as far as it is about tracks."""


def find_track(
    store: TrackStore,
    base: str,
    task: ProjectTask,
    knows: Callable[[str], Collection[str]],
    shown: Collection[str] = (),
) -> str | None:
    """The track of who asks, of those of one medium of one task.

    Args:
        base: names the medium and the task; also the track of who is not named, and of everybody
            before tracks had owners. It becomes the track of the first named one who holds a
            region of it.
        knows: the ids of the regions that a track has to do with.
        shown: ids of regions that the request holds beside those of the draft.

    Returns:
        None where it cannot be told: somebody has tracked already, the draft is empty, and the
        request holds no region.
    """
    owner, held = task.owner, task.held | set(shown)
    owners = store.owners(base)
    for track, name in owners.items():
        if owner and name == owner:
            return track
    free = [track for track, name in {base: "", **owners}.items() if not name]
    for track in free:
        if not held or held.isdisjoint(knows(track)):
            continue
        if not owner or store.claim(track, base, owner):
            return track
    if owner:
        return own_track(base, owner)
    if owner is None:
        if not owners and not store.objects(base):
            return base  # nobody has tracked yet
        return own_track(base, min(held)) if held else None
    track = base
    while owners.get(track):
        track = own_track(track, "")
    return track


def own_track(base: str, name: str) -> str:
    """Names the track of one annotator, or of one region."""
    return hashlib.sha256(f"{base}\n{name}".encode()).hexdigest()[:32]
