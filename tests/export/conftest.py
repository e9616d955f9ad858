"""The command line and a small Label Studio: see ``tests/command_line.py``."""

from __future__ import annotations

from tests.command_line import label_studio, run

__all__ = ["label_studio", "run"]
