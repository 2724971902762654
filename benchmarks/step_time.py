"""What a training step costs: `python -m benchmarks.step_time [--profile | --tried] [--write]`.

Without either, for each network and batch size 1, 2, 8, 32: a step (forward, backward, SGD) of the plain convolution
network, of the weight-standardized one, of the latter with adaptive clipping, of fedwon's recipe (which also
standardizes the hidden linear layers), and of the batch-normalized one, taken in turn in one process, so that whatever
else the machine does falls on all of them alike. A row's ratios are medians over the turns, with the quartiles; peak
memory is that of a process that does nothing else (`benchmarks/results/step_time.json`, under five minutes).

`--profile` tells where the time of these steps goes, by torch's operators (`step_profile.json`). `--tried` measures
other kernels for the same work (`step_tried.json`). Each prints its part of docs/performance.md and, where nothing was
left out, keeps its figures; `--write` puts that part into the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.marked import rewrite
from benchmarks.stepping import comparing, profiling, tried
from benchmarks.stepping.circumstances import Watch
from fedwon.common.memory import keep_freed_memory
from fedwon.models import available_models

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"


@dataclass(frozen=True)
class Part:
    """A measurement, and the part of the page that it makes.

    Attributes:
        result: name of its file below `RESULTS`.
        seconds: that it is given where the command says nothing.
        measure: takes networks and seconds, returns figures.
        page: takes the figures with their circumstances, returns Markdown.
    """

    result: str
    seconds: float
    measure: Callable[[Sequence[str], float], dict[str, Any]]
    page: Callable[[Mapping[str, Any]], str]

    @property
    def mark(self) -> str:
        """What stands before and behind its part of the page."""
        return f"<!-- benchmarks.step_time: {self.result} -->"

    def kept(self) -> dict[str, Any]:
        """The figures as they are kept; raises `FileNotFoundError` where there are none."""
        found: dict[str, Any] = json.loads((RESULTS / self.result).read_text(encoding="utf-8"))
        return found


PARTS: Mapping[str, Part] = {
    "steps": Part("step_time.json", 40, comparing.measure, comparing.page),
    "profile": Part("step_profile.json", 20, profiling.measure, profiling.page),
    "tried": Part("step_tried.json", 40, tried.measure, tried.page),
}


def is_whole(part: Part, options: argparse.Namespace) -> bool:
    """Whether these figures may take the place of those that are kept: of all networks, as the page says."""
    own = (options.threads, options.default_memory, options.network) == (1, False, None)
    return own and options.seconds >= part.seconds


def run(part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """Measure; keep the figures if they are whole."""
    if not options.default_memory:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    watch = Watch()
    found = part.measure(options.network or available_models(), options.seconds)
    names = ("seconds", "threads", "network", "default_memory")
    found = {**watch.taken({name: getattr(options, name) for name in names}), **found}
    if is_whole(part, options):
        (RESULTS / part.result).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def parse(arguments: Sequence[str] | None) -> tuple[Part, argparse.Namespace]:
    """Read the command line; exits where the page could not be written from what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    for name in PARTS:
        what.add_argument(f"--{name}", dest="part", action="store_const", const=name, default="steps")
    parser.add_argument("--seconds", type=float, help="for the timing of all networks together")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--network", action="append", choices=available_models())
    parser.add_argument("--default-memory", action="store_true", help="without keep_freed_memory")
    parser.add_argument("--kept", action="store_true", help="measure nothing: the figures that are kept")
    parser.add_argument("--write", action="store_true", help="write the part of docs/performance.md")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    part = PARTS[options.part]
    if options.seconds is None:
        options.seconds = part.seconds
    if options.write and not (options.kept or is_whole(part, options)):
        parser.error(f"--write takes whole figures: no other option, and --seconds {part.seconds:g} or more")
    return part, options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep the figures and print them."""
    part, options = parse(arguments)
    found = part.kept() if options.kept else run(part, options)
    if options.write:
        rewrite(PAGE, part.mark, part.page(found))
    print(json.dumps(found, indent=1) if options.json else part.page(found))


if __name__ == "__main__":
    main()
