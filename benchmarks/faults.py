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
from benchmarks.resumable import Row, arguments, here, run_all

PAGE = ROOT / "docs" / "faults.md"


def main(given: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    options = arguments(__doc__, given, SEEDS)
    if options.what == "report":
        PAGE.write_text(page(here(every())), encoding="utf-8")
        print(f"wrote {PAGE}")
        return
    run_all(every(tuple(options.seeds)), run, data_home(), options, _line)


def _line(row: Row) -> str:
    names = " ".join(str(row[name]) for name in ("images", "fault", "method", "seed"))
    own = ", ".join(f"{value:.2f}" for value in row["curves"].get("own", ()))
    return f"{names}: {own} ({row['seconds']} s) {row['failed'] or ''}"


if __name__ == "__main__":
    main()
