"""The command of a small table: everything for each seed, one JSON file, Markdown on the screen."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedwon.common.memory import keep_freed_memory
from fedwon.server.engines.simulating import versions

SEEDS = (1, 2)

Row = Mapping[str, Any]


def command(
    description: str | None,
    given: Sequence[str] | None,
    *,
    rounds: int,
    measure: Callable[[int, int], Sequence[Row]],
    table: Callable[[Sequence[Row]], str],
    result: Path,
) -> None:
    """Measure, keep what is whole, and print.

    Args:
        description: of the command.
        given: its arguments; None for those of the process.
        rounds: of each run, where it names no other number.
        measure: makes the rows of a seed with so many rounds.
        table: lays rows out as Markdown.
        result: the JSON file; written by the default rounds and seeds alone, whose table a page shows.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(given)
    keep_freed_memory()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    rows = [row for seed in options.seeds for row in measure(seed, options.rounds)]
    text = json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n"
    if (options.rounds, tuple(options.seeds)) == (rounds, SEEDS):
        result.write_text(text, encoding="utf-8")
    print(text if options.json else table(rows))
