"""Processes that tests start, and what became of them."""

from __future__ import annotations

from pathlib import Path


def running(pid: int) -> bool:
    """Whether a process is there and is no zombie. The last of its threads may still be ending."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # before, and while it is read
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
