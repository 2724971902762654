"""Tables whose rows take minutes each: a row is a file, what is there is not run again, and one may stop any time."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fedwon.common.memory import keep_freed_memory
from fedwon.server.engines.simulating import versions

Row = dict[str, Any]


class Spec(Protocol):
    """What tells one row from another: a frozen dataclass with a place for the row."""

    @property
    def path(self) -> Path:
        """Where the row is kept."""


S = TypeVar("S", bound=Spec)


def kept(spec: S, make: Callable[[S], Row]) -> Row:
    """Return a row: from its file, or made, with the seconds that took and the versions, and kept."""
    if spec.path.exists():
        found: Row = json.loads(spec.path.read_text(encoding="utf-8"))
        return found
    started = time.monotonic()
    made = make(spec)
    row = {**asdict(spec), **made, "seconds": round(time.monotonic() - started, 1), "versions": versions()}  # type: ignore[call-overload]  # a dataclass, which a protocol cannot say
    spec.path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = spec.path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(row) + "\n", encoding="utf-8")
    unfinished.replace(spec.path)
    return row


def here(specs: Iterable[Spec]) -> list[Row]:
    """Return the rows that have been run."""
    return [json.loads(spec.path.read_text(encoding="utf-8")) for spec in specs if spec.path.exists()]


def command(
    description: str | None,
    given: Sequence[str] | None,
    seeds: Sequence[int],
    *,
    every: Callable[[tuple[int, ...]], Iterable[S]],
    run: Callable[[S, Path], Row],
    source: Callable[[], Path],
    say: Callable[[Row], str],
    page: Callable[[Sequence[Row]], str],
    file: Path,
) -> None:
    """Do what the command line of such a table asks for: run rows, or write the page of those that are here.

    Args:
        description: of the command.
        given: its arguments; None for those of the process.
        seeds: that are run where it names none.
        every: yields all rows of some seeds.
        run: makes and keeps one.
        source: returns the folder of the images.
        say: a line about a row.
        page: makes the page of rows.
        file: where that is written.
    """
    options = _arguments(description, given, seeds)
    if options.what == "report":
        file.write_text(page(here(every(tuple(seeds)))), encoding="utf-8")
        print(f"wrote {file}")
    else:
        _run_all(every(tuple(options.seeds)), run, source(), options, say)


def _arguments(description: str | None, given: Sequence[str] | None, seeds: Sequence[int]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--only", default="", help="only rows whose file name holds this text")
    parser.add_argument("--minutes", type=float, default=0, help="begin no row after so many minutes; 0: run them all")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    return parser.parse_args(given)


def _run_all(
    specs: Iterable[S],
    run: Callable[[S, Path], Row],
    source: Path,
    options: argparse.Namespace,
    say: Callable[[Row], str],
) -> None:
    """Run the rows that are asked for and not here yet, each in a process of a pool."""
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    wanted = [spec for spec in specs if options.only in spec.path.name and not spec.path.exists()]
    print(f"{len(wanted)} rows to run with {options.jobs} processes", flush=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        doing = [pool.submit(_one, run, spec, source, end) for spec in wanted]
        for done in as_completed(doing):
            if (row := done.result()) is not None:
                print(json.dumps(row) if options.json else say(row), flush=True)


def _prepare() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    keep_freed_memory()
    import logging

    logging.disable(logging.WARNING)


def _one(run: Callable[[S, Path], Row], spec: S, source: Path, end: float) -> Row | None:
    return run(spec, source) if time.monotonic() < end else None
