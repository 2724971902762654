"""The command: `python -m benchmarks.paper run|tune|try|again|report|evaluate|keep|fetch --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path

import torch

from benchmarks.paper.downloads import DOWNLOADS, HOME, fetch_sets, listing
from benchmarks.paper.evaluating import evaluate_stored
from benchmarks.paper.keeping import keep
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.repeating import repeat
from benchmarks.paper.report import write_page
from benchmarks.paper.running import run
from benchmarks.paper.sets import CACHE, ROOT
from benchmarks.paper.sources import SOURCES
from benchmarks.paper.spec import RESULTS, Spec, result_path
from benchmarks.paper.tuning import SEED as TRIAL_SEED
from benchmarks.paper.tuning import pending, rows, specs
from benchmarks.paper.variants import VARIANTS
from fedwon.common import logs
from fedwon.common.console import run_to_end
from fedwon.common.errors import RunMissing

DOCS = ROOT / "docs"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=CACHE, help="models and databases of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON files")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("tune", "choose learning rate and clipping of each row on validation images"),
        ("run", "run what is missing of the tables, with the settings that `tune` chose"),
        ("try", "a short run with settings of your own, scored on validation images"),
        ("again", "repeat runs whose results are kept, and set what comes out beside them, as JSON lines"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--protocol", choices=sorted(PROTOCOLS), action="append", help="default: all")
        command.add_argument("--variant", choices=sorted(VARIANTS), action="append", help="only this row of the table")
        command.add_argument("--batch", type=int, action="append", help="only this batch size")
        command.add_argument("--seed", type=int, action="append", help="only this seed")
        if name == "try":
            command.add_argument("--lr", type=float, required=True)
            command.add_argument("--clipping", type=float)
            command.add_argument("--rounds", type=int, required=True)
    commands.add_parser("report", help="write docs/results.md from the results")
    evaluate = commands.add_parser("evaluate", help="score stored checkpoints on a folder of domains")
    evaluate.add_argument("--data", required=True, help="a folder of domains, in any form that fedwon reads")
    evaluate.add_argument("--protocol", choices=sorted(PROTOCOLS), action="append", help="default: all")
    keeping = commands.add_parser("keep", help="put the first seed's checkpoints into benchmarks/checkpoints/")
    keeping.add_argument("--protocol", choices=sorted(PROTOCOLS), action="append", required=True)
    fetch = commands.add_parser("fetch", help="download image sets, or say how they are to be had")
    fetch.add_argument("--set", choices=sorted(SOURCES), action="append", help="which; default: none, only a list")
    fetch.add_argument("--list", action="store_true", help="say what there is, and download nothing")
    fetch.add_argument("--to", type=Path, default=HOME, help="folder of all sets, as FEDWON_DATA is to name it")
    fetch.add_argument("--downloads", type=Path, default=DOWNLOADS, help="folder of the files as downloaded")
    return parser.parse_args()


def _wanted(arguments: argparse.Namespace) -> Iterable[Spec]:
    for protocol in arguments.protocol or PROTOCOLS:
        if arguments.command == "try":
            own = (arguments.lr, arguments.clipping, TRIAL_SEED, arguments.rounds)
            named = product(arguments.variant or (), arguments.batch or ())  # also what no table has
            tried = dict.fromkeys([*rows(protocol), *named])
            found = [Spec(protocol, variant, batch, *own) for variant, batch in tried]
        else:
            found = list(specs(protocol, arguments.results))
        for spec in found:
            kept = {"variant": spec.variant, "batch": spec.batch, "seed": spec.seed}
            if all(not getattr(arguments, name) or value in getattr(arguments, name) for name, value in kept.items()):
                yield spec


def _run(spec: Spec, arguments: argparse.Namespace) -> bool:
    """Run one; False if another process has it in hand."""
    result = run(spec, results=arguments.results, checkpoints=arguments.checkpoints)
    state = "elsewhere in hand" if result is None else f"{result['seconds']} s"
    print(f"{spec.protocol}/{spec.key}: {state}", file=sys.stderr, flush=True)
    return result is not None


def _run_wanted(arguments: argparse.Namespace) -> None:
    for spec in _wanted(arguments):
        _run(spec, arguments)


def _again(arguments: argparse.Namespace) -> None:
    kept = [spec for spec in _wanted(arguments) if result_path(spec, arguments.results).exists()]
    if not kept:
        raise RunMissing("No result of such a run is kept.", hint="docs/results.md has the rows and their seeds.")
    for spec in kept:
        found = repeat(spec, results=arguments.results, checkpoints=arguments.checkpoints)
        print(json.dumps(found or {"run": f"{spec.protocol}/{spec.key}", "state": "elsewhere in hand"}), flush=True)


def _tune(arguments: argparse.Namespace) -> None:
    for protocol in arguments.protocol or PROTOCOLS:
        for variant, batch in () if PROTOCOLS[protocol].tuned_as else rows(protocol):
            if variant in (arguments.variant or [variant]) and batch in (arguments.batch or [batch]):
                _tune_row(protocol, variant, batch, arguments)


def _tune_row(protocol: str, variant: str, batch: int, arguments: argparse.Namespace) -> None:
    while specs := pending(protocol, variant, batch, arguments.results):
        ours = [_run(spec, arguments) for spec in specs]
        if not any(ours):
            return  # the rest is in other processes' hands


def _report(arguments: argparse.Namespace) -> None:
    write_page(DOCS, arguments.results)


def _evaluate(arguments: argparse.Namespace) -> None:
    protocols = arguments.protocol or list(PROTOCOLS)
    found = evaluate_stored(arguments.data, protocols, arguments.checkpoints)
    if not found:
        hint = f"Make some: python -m benchmarks.paper run --protocol {protocols[0]}"
        raise RunMissing("There is no checkpoint yet.", hint=hint)
    print(json.dumps(found, indent=1))


def _keep(arguments: argparse.Namespace) -> None:
    for folder in keep(arguments.protocol, results=arguments.results, checkpoints=arguments.checkpoints):
        print(folder)


def _fetch(arguments: argparse.Namespace) -> None:
    if arguments.list or not arguments.set:
        print(listing(arguments.to))
        return
    sys.exit(fetch_sets(arguments.set, arguments.to, arguments.downloads))


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "tune": _tune,
    "run": _run_wanted,
    "try": _run_wanted,
    "again": _again,
    "report": _report,
    "evaluate": _evaluate,
    "keep": _keep,
    "fetch": _fetch,
}


def main() -> None:
    """Carry out one command.

    Raises:
        FedwonError: a folder cannot be read, or there is no checkpoint to evaluate.
    """
    arguments = _arguments()
    logs.setup("text", "error")
    torch.set_num_threads(1)
    COMMANDS[arguments.command](arguments)


if __name__ == "__main__":
    run_to_end(main)
