"""Every attack of the corpus is refused with the right sentence, in time, and did nothing."""

from __future__ import annotations

import logging
import re
import socket
import urllib.request
from collections.abc import Iterator

import pytest
import requests

from tests.hostile.arena import SECRET, Arena, arena_in
from tests.hostile.corpus import Attack, attacks
from tests.waiting import PATIENCE

ATTACKS = attacks()


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with arena_in(tmp_path_factory.mktemp("arena")) as made:
        yield made


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.group}: {attack.name}")
def test_attack(arena: Arena, attack: Attack) -> None:
    outcome = arena.run(attack.run)
    assert outcome.violations == []
    assert re.search(attack.says, outcome.text), outcome.text
    assert outcome.refused or attack.harmless, outcome.text
    assert outcome.seconds <= max(attack.seconds, PATIENCE)  # the slow ones go on for longer


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(ATTACKS) >= 60
    assert len({(attack.group, attack.name) for attack in ATTACKS}) == len(ATTACKS)


def test_the_arena_notices_harm(arena: Arena) -> None:
    """Each of its rules, broken on purpose."""

    def reach(arena: Arena) -> str:
        arena._trusted.add(arena.forbidden.url.removeprefix("http://"))
        with urllib.request.urlopen(arena.forbidden.url) as answer:
            return str(answer.read().decode())

    def write(arena: Arena) -> str:
        (arena.outside / "written").write_text("x")
        return "\x1b[31m"

    def connect(arena: Arena) -> str:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 1))
        return ""

    def log(arena: Arena) -> str:
        logging.getLogger("x").warning("GET /x?X-Amz-Signature=%s", SECRET)
        return ""

    def authorise(arena: Arena) -> str:
        session = requests.Session()
        session.get(arena.photos.url, headers={"Authorization": "Bearer x"})
        return ""

    try:
        reached = arena.run(reach).violations
    finally:
        arena._trusted.discard(arena.forbidden.url.removeprefix("http://"))
    assert reached == ["reached the forbidden server", "a secret is in the message"]
    assert len(arena.run(write).violations) == 3
    assert arena.run(connect).violations == ["connected to 127.0.0.1:1"]
    assert arena.run(log).violations == ["a secret is in the log"]
    assert arena.run(authorise).violations == ["sent credentials or cookies to the attacker"]
