"""Compares the pinned versions with known weaknesses: ``python deploy/audit.py``.

Exit code 0: none known, or the index did not answer, which is said; 1: there are some.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCKER = Path(__file__).resolve().parent.parent / "docker"
PINS = [DOCKER / name for name in ("constraints.txt", "constraints-cluster.txt")]
COMMAND = ["pip-audit", "--disable-pip", "--no-deps", "--format", "json"]


def verdict(report: dict[str, Any]) -> tuple[int, str]:
    """The exit code, and a sentence, for what ``pip-audit`` found."""
    packages = report["dependencies"]
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    weak = [each for each in packages if each.get("vulns")]
    lines = [
        f"{each['name']} {each['version']}: {', '.join(found['id'] for found in each['vulns'])}"
        for each in weak
    ]
    if len(unknown) == len(packages):
        return 0, "NOT AUDITED: the index does not answer"
    known = len(packages) - len(unknown)
    lines.append(f"{known} of {len(packages)} packages audited, {len(weak)} with known weaknesses")
    return int(bool(weak)), "\n".join(lines)


def main() -> int:
    """See the module."""
    program = Path(sys.executable).with_name(COMMAND[0])
    try:
        done = subprocess.run(
            [
                str(program),
                *COMMAND[1:],
                *(part for pins in PINS for part in ("--requirement", str(pins))),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        print("NOT AUDITED: the index does not answer", file=sys.stderr)
        return 0
    code, text = verdict(report)
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
