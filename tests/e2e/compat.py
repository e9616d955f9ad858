"""``make compat``: the supported Label Studios, each installed and tried.

Every one sets up the demo's projects, connects the backend and takes what it stores; in the oldest
and the newest a click in a browser becomes a saved mask too. Each has a virtual environment of its
own, ``.venv-label-studio-<version>``, which is kept. Versions may be named:
``python -m tests.e2e.compat 1.20.0 1.23.2``.
"""

from __future__ import annotations

import os
import subprocess
import sys

from demo.backend import REPOSITORY
from tests.e2e.services import installed_version

VERSIONS = ("1.20.0", "1.21.0", "1.22.0", "1.23.2")
CONTRACT = "tests/e2e/test_e2e_demo.py"
CLICK = "tests/e2e/test_e2e_clicks.py::test_a_click_becomes_a_saved_mask_of_the_object"


def main(versions: list[str]) -> int:
    """Print a row for each; returns the exit code."""
    chosen = versions or list(VERSIONS)
    rows = []
    for version in chosen:
        venv = REPOSITORY / f".venv-label-studio-{version}"
        if installed_version(venv) != version:
            pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            subprocess.run([*pip, f"label-studio=={version}"], check=True)
        tests = {"contract": CONTRACT}
        if version in (chosen[0], chosen[-1]):
            tests["click in a browser"] = CLICK
        for what, test in tests.items():
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", test],
                cwd=REPOSITORY,
                env={**os.environ, "LABEL_STUDIO_VENV": str(venv)},
                check=False,
            )
            rows.append((version, what, done.returncode == 0))
    print("\n| Label Studio | what | |\n|---|---|---|")
    for version, what, passed in rows:
        print(f"| {version} | {what} | {'passed' if passed else 'FAILED'} |")
    return 0 if all(passed for *_, passed in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
