"""What a training step costs with each normalization: `python -m benchmarks.step_time [--seconds 40] [--threads 1]`.

For each network and batch size 1, 2, 8, 32: a step (forward, backward, SGD) of the plain convolution network, of the
weight-standardized one, of the latter with adaptive clipping, of fedwon's recipe (which also standardizes the hidden
linear layers), and of the batch-normalized one, taken in turn in one
process, so that whatever else the machine does falls on all of them alike. A row's ratios are medians over the turns,
with the quartiles; peak memory is that of a process that does nothing else. Writes `benchmarks/results/step_time.json`
and prints the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.common.memory import keep_freed_memory
from fedwon.models import AdaptiveGradientClipping, WSConv2d, available_models, build_model
from fedwon.models.blocks import LinearKind
from fedwon.server.engines.simulating import versions

RESULT = Path(__file__).resolve().parent / "results" / "step_time.json"
SIZES = {"digit_cnn": 28, "alexnet": 128}
SIZE = 64
BATCHES = (1, 2, 8, 32)
FORMS = ("plain", "standardized", "with clipping", "recipe", "batch norm")
PEAKS = ("plain", "standardized", "batch norm")
PEAK_BATCHES = (32,)
CLIPPING = 0.16
_FEWEST = 4


def plain(model: nn.Module) -> nn.Module:
    """Put an ordinary convolution in place of each weight-standardized one: the floor of the comparison."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, WSConv2d):
                setattr(parent, name, _ordinary(layer))
    return model


def _ordinary(layer: WSConv2d) -> nn.Conv2d:
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=layer.bias is not None,
    )


def step_of(name: str, form: str, batch: int) -> Callable[[], None]:
    """A training step of one form of a network on random images, ready to be called."""
    torch.manual_seed(0)
    size = SIZES.get(name, SIZE)
    normalization = "batch" if form == "batch norm" else "none"
    linear: LinearKind = "standardized" if form == "recipe" else "plain"
    model = build_model(
        name, normalization=normalization, image_size=size, relu_constant=normalization == "none", linear=linear
    )
    if form == "plain":
        model = plain(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    clipping = AdaptiveGradientClipping(model, CLIPPING) if form in {"with clipping", "recipe"} else None
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))

    def _step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        if clipping is not None:
            clipping.clip()
        optimizer.step()

    return _step


def runnable(form: str, batch: int) -> bool:
    """Batch norm has no statistics of one image."""
    return form != "batch norm" or batch > 1


def compare(name: str, batch: int, seconds: float) -> dict[str, Any]:
    """Time all forms in turn for so many seconds.

    Returns:
        Milliseconds (median) and ratios to the plain step (quartiles and median) by form.
    """
    steps = {form: step_of(name, form, batch) for form in FORMS if runnable(form, batch)}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {form: [] for form in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["plain"]) < _FEWEST:
        for form, step in steps.items():
            started = time.perf_counter()
            step()
            times[form].append(time.perf_counter() - started)
    return {form: _summary(values, times["plain"]) for form, values in times.items()}


def _summary(values: Sequence[float], floor: Sequence[float]) -> dict[str, Any]:
    ratios = [value / base for value, base in zip(values, floor, strict=True)]
    return {
        "milliseconds": round(1000 * statistics.median(values), 3),
        "ratio": [round(quartile, 3) for quartile in statistics.quantiles(ratios, n=4)],
        "turns": len(values),
    }


def peak_megabytes(name: str, form: str, batch: int) -> float:
    """Peak resident memory of a fresh process that takes two such steps."""
    command = [sys.executable, "-m", "benchmarks.step_time", "--peak", name, form, str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _peak() -> float:
    """Peak resident memory of this process, MiB; `getrusage` would count what its parent had before."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    heads = (
        *("network", "batch", "plain, ms", "WSConv / plain", "with clipping / plain", "recipe / plain"),
        "batch norm / plain",
        *("WSConv / batch norm", "peak MB: plain, WSConv, batch norm"),
    )
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, batches in found["networks"].items():
        for batch, forms in batches.items():
            ratios = [_ratio(forms[form]) if form in forms else "-" for form in FORMS[1:]]
            against = "-"
            if "batch norm" in forms:
                against = f"{forms['standardized']['milliseconds'] / forms['batch norm']['milliseconds']:.2f}"
            peaks = found["peak_megabytes"].get(name, {}).get(batch, {})
            memory = ", ".join(f"{peaks[form]:.0f}" for form in PEAKS if form in peaks)
            milliseconds = f"{forms['plain']['milliseconds']:.1f}"
            lines.append(f"| {name} | {batch} | {milliseconds} | {' | '.join(ratios)} | {against} | {memory} |")
    return "\n".join(lines)


def _ratio(form: dict[str, Any]) -> str:
    low, middle, high = form["ratio"]
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _measure(seconds: float, networks: Sequence[str]) -> dict[str, Any]:
    share = seconds / (len(networks) * len(BATCHES))
    found: dict[str, Any] = {"versions": versions(), "threads": torch.get_num_threads(), "networks": {}}
    peaks: dict[str, Any] = {}
    for name in networks:
        found["networks"][name] = {str(batch): compare(name, batch, share) for batch in BATCHES}
        peaks[name] = {
            str(batch): {form: peak_megabytes(name, form, batch) for form in PEAKS if runnable(form, batch)}
            for batch in PEAK_BATCHES
        }
    found["peak_megabytes"] = peaks
    return found


def main() -> None:
    """Measure, keep the figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="for the timing of all networks together")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--network", action="append", choices=available_models())
    parser.add_argument("--peak", nargs=3, metavar=("NETWORK", "FORM", "BATCH"), help=argparse.SUPPRESS)
    parser.add_argument("--default-memory", action="store_true", help="without keep_freed_memory")
    arguments = parser.parse_args()
    if not arguments.default_memory:
        keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        name, form, batch = arguments.peak
        step = step_of(name, form, int(batch))
        for _ in range(2):
            step()
        print(_peak())
        return
    found = _measure(arguments.seconds, arguments.network or available_models())
    if not arguments.default_memory:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
