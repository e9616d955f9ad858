"""A decoding process that does what the file it is given says, if it says one of ``FAULTS``."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.pixels.sandbox import worker
from backend.pixels.sandbox.worker_session import Serve, Session

real_server = worker._server


def _hang(session: Session) -> None:
    ctypes.PyDLL(None).sleep(1000)  # in C, and with the interpreter's lock held


def _sleep(session: Session) -> None:
    time.sleep(1000)  # in C, as decoders do it: without the lock


def _spin(session: Session) -> None:
    while True:
        pass


def _crash(session: Session) -> None:
    ctypes.string_at(0)


def _abort(session: Session) -> None:
    os.abort()


def _eat(session: Session) -> None:
    session.memory.limit(1 << 28)
    eaten = []
    while True:
        eaten.append(b"x" * (1 << 24))


def _killed(session: Session) -> None:
    os.kill(os.getpid(), 9)  # as the system does when memory runs out


def _circle(session: Session) -> None:
    while True:
        session._ask_for_bytes(0, memoryview(bytearray(1 << 22)))


def _exit(session: Session) -> None:
    os._exit(0)


def _defect(session: Session) -> None:
    raise KeyError("no decoder raises this")


def _lie(session: Session) -> None:
    session.channel.send({"image": [1 << 20, 1 << 20], "frame": 0}, bytes(10))
    time.sleep(1000)


def _nonsense(session: Session) -> None:
    session.channel._socket.sendall(b"\xff" * 100)
    time.sleep(1000)


def _negative(session: Session) -> None:
    session.channel.send({"read": [-5, 10]})
    time.sleep(1000)


def _greedy(session: Session) -> None:
    session.channel.send({"read": [0, 1 << 40]})
    time.sleep(1000)


def _deaf(session: Session) -> None:
    """Asks, and never takes what it is given."""
    while True:
        session.channel.send({"read": [0, 1 << 20]})


def _tell(session: Session) -> None:
    """What a decoder that was taken over could see and do."""
    values = [*os.environ.values(), *sys.argv]
    told: dict[str, Any] = {
        "names": sorted(os.environ),
        "secret": any("secret-key" in value for value in values),
    }
    for name, attempt in (
        ("read", lambda: Path("/etc/passwd").read_bytes()),
        ("write", lambda: Path(os.devnull).write_bytes(b"")),
        ("connect", lambda: socket.create_connection(("127.0.0.1", 9), 1)),
        ("run", lambda: os.pipe()),
    ):
        try:
            attempt()
            told[name] = "done"
        except OSError as error:
            told[name] = os.strerror(error.errno or 0)
    reason = {"hint": "", "reason": "damaged"}
    session.channel.send({"error": "media", "sentence": json.dumps(told), **reason})


def _shout(session: Session) -> None:
    """An answer that would forge lines of a log."""
    sentence = "It failed.\n2026-01-01 INFO all is well\x1b[2J" + "x" * 10_000
    session.channel.send(
        {"error": "media", "sentence": sentence, "hint": "", "reason": "no reason"}
    )


FAULTS = {
    name: globals()[f"_{name}"]
    for name in ("hang", "sleep", "spin", "crash", "abort", "eat", "killed", "circle", "exit",
                 "defect", "shout", "lie", "nonsense", "negative", "greedy", "deaf", "tell")
}  # fmt: skip


def faulty_server(kind: str) -> Serve:
    serve = real_server(kind)
    opened = False

    def faulty(session: Session, request: Mapping[str, Any]) -> None:
        nonlocal opened
        name = bytes(session._head[:20]).split(b":")[0].decode("latin-1")
        if kind == "videos" and opened and request["first"] >= 10:
            name = os.environ["PYTHONPATH"].rpartition("fault-in-frame-10=")[2]
        opened = True
        if name in FAULTS:
            FAULTS[name](session)
        else:
            serve(session, request)

    return faulty


if __name__ == "__main__":
    worker._server = faulty_server
    worker.main(sys.argv[1:])
