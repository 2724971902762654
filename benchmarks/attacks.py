"""Attacks against defences: `python -m benchmarks.attacks run [--jobs 2] [--seeds 1 2 3] [--json]`, then `report`.

10 and 20 sites hold Digits-Five between them; 1 to 4 are hostile. Every row is a JSON file below
`benchmarks/results/attacks` and is skipped when it is there, so that the command can be broken off and begun again.
`report` writes docs/robustness.md from the rows, and says what has not been run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from benchmarks.paper.sets import ROOT, data_home
from benchmarks.robustness.page import page
from benchmarks.robustness.rows import SEEDS, Spec, every, run
from fedwon.common.memory import keep_freed_memory

PAGE = ROOT / "docs" / "robustness.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--only", default="", help="only rows whose file name holds this text")
    parser.add_argument("--minutes", type=float, default=0, help="begin no row after so many minutes; 0: run them all")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    if options.what == "report":
        PAGE.write_text(page(_here()), encoding="utf-8")
        print(f"wrote {PAGE}")
        return
    specs = [spec for spec in every(tuple(options.seeds)) if options.only in spec.path.name and not spec.path.exists()]
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    _run_all(specs, options.jobs, end, as_json=options.json)


def _here() -> list[dict[str, object]]:
    return [json.loads(spec.path.read_text(encoding="utf-8")) for spec in every() if spec.path.exists()]


def _run_all(specs: Sequence[Spec], jobs: int, end: float, *, as_json: bool) -> None:
    source = data_home() / "digits_five"
    print(f"{len(specs)} rows to run with {jobs} processes", flush=True)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        doing = [pool.submit(_one, spec, source, end) for spec in specs]
        for done in as_completed(doing):
            row = done.result()
            if row is not None:
                print(json.dumps(row) if as_json else _line(row), flush=True)


def _prepare() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    keep_freed_memory()
    import logging

    logging.disable(logging.WARNING)


def _one(spec: Spec, source: Path, end: float) -> dict[str, object] | None:
    return run(spec, source) if time.monotonic() < end else None


def _line(row: dict[str, object]) -> str:
    names = ("method", "sites", "hostile", "attack", "defence", "seed")
    numbers = ("accuracy", "backdoor", "refused_hostile", "refused_honest", "refused", "failed", "seconds")
    said = [f"{name} {row[name]}" for name in numbers if row.get(name) is not None]
    return f"{' '.join(str(row[name]) for name in names)}: {', '.join(said)}"


if __name__ == "__main__":
    main()
