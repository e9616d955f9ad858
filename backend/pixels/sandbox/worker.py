"""The decoding process, ``python -m backend.pixels.sandbox.worker KIND DESCRIPTOR``.

It serves one service over one inherited socket, one request after the other, until the service
hangs up. It has no network, no credentials and no files: even the file that it decodes it reads
by asking the service for ranges of bytes.

What it takes from itself before the first of them bounds what a decoder can do by mistake: memory,
core dumps, files and connections that a file makes it open (a playlist, a nested protocol). It is
no wall against code that a file smuggled in; that needs a container or a virtual machine around the
service.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading

from backend.pixels.sandbox.wire import BadMessage, Channel, Closed
from backend.pixels.sandbox.worker_session import Serve, Session, alarm


def run(channel: Channel, serve: Serve) -> None:
    """Answer requests until the service hangs up."""
    session = Session(channel)
    threading.Thread(target=_end_with_the_service, args=(channel,), daemon=True).start()
    _confine()
    channel.send({"ready": True})
    while True:
        request = session.next_request()
        session.allow(request["seconds"])
        if "head" in request:
            channel.send({"begun": True})  # from here on it may be the file's fault
        try:
            serve(session, request)
        except (Closed, BadMessage):
            raise
        except MemoryError:
            channel.send({"error": "memory"})
        except Exception:  # process boundary: this one lives on, and the log says what happened
            logging.exception("decoding failed")
            channel.send({"error": "defect"})
        alarm(0)


def _confine() -> None:
    """No core dumps, no new file descriptors, so no files and no connections: call it when all
    that is needed was imported. A limit that the system refuses to set is left out."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is busy with
    lowest_free = os.dup(0)
    os.close(lowest_free)
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, lowest_free),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (limit, limit))


def _end_with_the_service(channel: Channel) -> None:
    """Do not go on decoding for nobody. Where a decoder never lets this thread run, the alarm
    ends it."""
    channel.wait_until_closed()
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Serve what the first argument names over the descriptor that the second one names."""
    logging.basicConfig(format="decoder: %(levelname)s %(message)s")
    kind, descriptor = arguments
    channel = Channel(socket.socket(fileno=int(descriptor)))
    serve = _server(kind)
    try:
        run(channel, serve)
    except (Closed, BadMessage):
        # Not a clean exit: destructors of decoders could hang just as decoding could.
        os._exit(0)


def _server(kind: str) -> Serve:
    """Only what the kind needs is imported: a process for images starts the sooner."""
    if kind == "images":
        from backend.pixels.sandbox.serve_images import serve_images

        return serve_images()
    from backend.pixels.sandbox.serve_videos import serve_videos

    return serve_videos()


if __name__ == "__main__":
    main(sys.argv[1:])
