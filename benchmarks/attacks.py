"""Attacks against defences: `python -m benchmarks.attacks run [--jobs 2] [--seeds 1 2 3] [--json]`, then `report`.

10 and 20 sites hold Digits-Five between them; 1 to 4 are hostile. Every row is a JSON file below
`benchmarks/results/attacks` and is skipped when it is there, so that the command can be broken off and begun again.
`report` writes docs/robustness.md from the rows, and says what has not been run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.paper.sets import ROOT, data_home
from benchmarks.resumable import Row, command
from benchmarks.robustness.page import page
from benchmarks.robustness.rows import SEEDS, every, run


def main(given: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    command(
        __doc__,
        given,
        SEEDS,
        every=every,
        run=run,
        source=lambda: data_home() / "digits_five",
        say=_line,
        page=page,
        file=ROOT / "docs" / "robustness.md",
    )


def _line(row: Row) -> str:
    names = ("method", "sites", "hostile", "attack", "defence", "seed")
    numbers = ("accuracy", "backdoor", "refused_hostile", "refused_honest", "refused", "failed", "seconds")
    said = [f"{name} {row[name]}" for name in numbers if row.get(name) is not None]
    return f"{' '.join(str(row[name]) for name in names)}: {', '.join(said)}"


if __name__ == "__main__":
    main()
