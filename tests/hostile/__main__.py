"""``python -m tests.hostile``: run the hostile corpus and print its results as a table."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tests.hostile.arena import arena_in
from tests.hostile.corpus import attacks


def main() -> int:
    """Returns 1 if an attack did harm."""
    lost = 0
    found = attacks()
    print("| attack | | result | s |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, arena_in(Path(folder)) as arena:
        for attack in found:
            outcome = arena.run(attack.run)
            fine = (outcome.refused or attack.harmless) and re.search(attack.says, outcome.text)
            fine = fine and not outcome.violations and outcome.seconds <= attack.seconds
            lost += not fine
            told = outcome.text if fine else f"**FAILED** {outcome.text} {outcome.violations}"
            told = re.sub(r"127\.0\.0\.1:\d+", "attacker", told).replace("|", "\\|")
            told = re.sub(r"/\d{9,}(\.\w+)?", "/...", told)
            kind = "refused" if outcome.refused else "harmless"
            print(f"| {attack.group} | {attack.name} | {kind}: {told} | {outcome.seconds:.1f} |")
    print(f"\n{len(found)} attacks, {lost} did harm.")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
