"""What a decoding process takes from itself before it sees the first byte of a file.

This bounds what a decoder can do by mistake: memory, core dumps, files and connections that a
file makes it open (a playlist, a nested protocol). It is no wall against code that a file
smuggled in; that needs a container or a virtual machine around the service.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from pathlib import Path


def confine() -> None:
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


class Memory:
    """The address space of this process, limited anew for every file.

    Measured from what the interpreter and the libraries take up. Where the system does not say
    how much that is (macOS, which enforces no such limit either), nothing is limited.
    """

    def __init__(self) -> None:
        self._base = _address_space()

    def limit(self, more: int) -> None:
        """Allow ``more`` bytes beyond what is taken up without any file."""
        if self._base is None:
            return
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = self._base + more
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def alarm(seconds: float) -> None:
    """End the process in that many seconds; 0 calls it off. The service watches too, but if it
    dies, nobody else would end a decoder that hangs."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _address_space() -> int | None:
    if sys.platform != "linux":
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
