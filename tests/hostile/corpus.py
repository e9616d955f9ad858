"""The attacks: a table of what task data and the servers behind it may try.

``python -m tests.hostile`` runs them all and prints the table with its results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.hostile.arena import Arena


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        group: what is attacked.
        name: what is tried.
        run: does it; returns what came of it where nothing was refused.
        says: a regular expression that the message matches. Where ``harmless`` is set, what came of
            it may match it instead.
        harmless: it need not be refused, as it does nothing; a browser shows the image as well.
        seconds: how long it may take.
    """

    group: str
    name: str
    run: Callable[[Arena], str]
    says: str
    harmless: bool = False
    seconds: float = 8.0


def attacks() -> list[Attack]:
    """All of them."""
    from tests.hostile import addresses, images, redirects, servers, timelines, videos

    parts = (addresses, timelines, redirects, servers, images, videos)
    return [attack for part in parts for attack in part.attacks()]
