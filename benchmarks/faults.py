"""Faults of sensors and lines: `python -m benchmarks.faults run [--minutes M] [--only digits] [--json]`, then `report`.

One line of a federation has a fault for some rounds, or from some round on. Every row (image set, fault, method, seed)
is a JSON file below `benchmarks/results/faults` and is skipped when it is there. `report` writes docs/faults.md from
the rows, and says what has not been run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.faulty.page import page
from benchmarks.faulty.rows import SEEDS, every, run
from benchmarks.paper.sets import ROOT, data_home
from benchmarks.resumable import Row, command


def main(given: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    command(
        __doc__,
        given,
        SEEDS,
        every=every,
        run=run,
        source=data_home,
        say=_line,
        page=page,
        file=ROOT / "docs" / "faults.md",
    )


def _line(row: Row) -> str:
    names = " ".join(str(row[name]) for name in ("images", "fault", "method", "seed"))
    own = ", ".join(f"{value:.2f}" for value in row["curves"].get("own", ()))
    return f"{names}: {own} ({row['seconds']} s) {row['failed'] or ''}"


if __name__ == "__main__":
    main()
