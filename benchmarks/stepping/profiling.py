"""Where the time of a standardized step goes, by torch's operators, beside a step without standardization.

Source: `torch.profiler`; an operator's own time is what it takes without the operators that it calls.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.stepping.circumstances import sentence
from benchmarks.stepping.forms import Step, network_of, step_of
from benchmarks.stepping.timing import in_turn

COMPARISONS = ((1, "plain"), (2, "batch norm"))
"""Batch sizes, and the form that the standardized step stands beside: batch norm cannot train on one image."""
OUTSIDE = "outside of operators"
_FORM = "standardized"
_LARGEST, _APART = 4, 3
_KEPT = 0.005
_LABEL = "benchmarks.step_time"
INTRODUCTION = """\
Made by `python -m benchmarks.step_time --profile --write` (`benchmarks/results/step_profile.json`, which has the calls
too): torch's profiler around single steps of both forms in turn, on one thread. An operator's own time is what it takes
without those that it calls; shown are medians over the turns, and `-` is less than 0.05 ms, or than half a percent of
either step. Shown operators are the four largest of each network and the three that set its forms apart most. Profiled
steps take longer than others, for every call is noted."""

Profile = Mapping[str, tuple[float, int]]
"""Own milliseconds and calls by operator, of one step."""


def measure(networks: Sequence[str], seconds: float) -> dict[str, Any]:
    """Profile steps of these networks at each of `COMPARISONS`.

    Args:
        networks: Names.
        seconds: For all of them together.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler tells of each start and of GPUs it has not found
    share = seconds / (len(networks) * len(COMPARISONS))
    return {
        "networks": {
            name: {str(batch): _compare(name, batch, other, share) for batch, other in COMPARISONS} for name in networks
        }
    }


def _compare(name: str, batch: int, other: str, seconds: float) -> dict[str, Any]:
    profiles: dict[str, list[Profile]] = {form: [] for form in (_FORM, other)}
    steps = {
        form: _noting(step_of(network_of(name, form), name, form, batch), found) for form, found in profiles.items()
    }
    in_turn(steps, seconds)
    return summary({form: found[1:] for form, found in profiles.items()})  # the first was to warm up


def _noting(step: Step, found: list[Profile]) -> Callable[[], None]:
    def _profiled() -> None:
        found.append(profile_of(step))

    return _profiled


def profile_of(step: Step) -> Profile:
    """Profile one step; `OUTSIDE` is Python, and the engine of automatic differentiation between operators."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler, record_function(_LABEL):
        step()
    events = profiler.key_averages()
    return {
        OUTSIDE if event.key == _LABEL else event.key: (event.self_cpu_time_total / 1000, event.count)
        for event in events
    }


def summary(profiles: Mapping[str, Sequence[Profile]]) -> dict[str, Any]:
    """What is kept of the profiles of two forms' steps.

    Returns:
        `whole`: milliseconds of a step (median) by form; `operators`: own milliseconds (median) and calls by operator
        and form, without those that take less than half a percent of either step; `turns`.
    """
    whole = {form: statistics.median(sum(ms for ms, _ in one.values()) for one in of) for form, of in profiles.items()}
    names = sorted({name for of in profiles.values() for one in of for name in one})
    operators = {name: {form: _median(name, of) for form, of in profiles.items()} for name in names}
    return {
        "turns": min(map(len, profiles.values())),
        "whole": {form: round(value, 3) for form, value in whole.items()},
        "operators": {
            name: forms
            for name, forms in operators.items()
            if any(forms[form]["milliseconds"] >= _KEPT * whole[form] for form in whole)
        },
    }


def _median(name: str, profiles: Sequence[Profile]) -> dict[str, Any]:
    found = [one.get(name, (0.0, 0)) for one in profiles]
    return {
        "milliseconds": round(statistics.median(ms for ms, _ in found), 4),
        "calls": statistics.median_low(calls for _, calls in found),
    }


def table(found: Mapping[str, Any], batch: int, other: str) -> str:
    """The figures of one comparison as Markdown: operators that matter to some network, and what is left of a step."""
    compared = {name: batches[str(batch)] for name, batches in found["networks"].items()}
    lines = [f"| own time, ms: WSConv, {other} | {' | '.join(compared)} |", f"|---|{'---|' * len(compared)}"]
    rows = _rows(compared.values(), other)
    for operator in rows:
        cells = (_cell(_times(one, operator, other)) for one in compared.values())
        lines.append(f"| {_shown(operator)} | {' | '.join(cells)} |")
    left = (_cell(_left(one, rows, other)) for one in compared.values())
    whole = (_cell([one["whole"][form] for form in (_FORM, other)]) for one in compared.values())
    return "\n".join([*lines, f"| all others | {' | '.join(left)} |", f"| the whole step | {' | '.join(whole)} |"])


def _rows(compared: Iterable[Mapping[str, Any]], other: str) -> list[str]:
    """Operators among the largest of some network, by their own time and by what sets the forms apart."""
    largest: dict[str, float] = {}
    for one in compared:
        times = {operator: _times(one, operator, other) for operator in one["operators"]}
        shares = {operator: ours / one["whole"][_FORM] for operator, (ours, _) in times.items()}
        apart = {operator: abs(ours - theirs) for operator, (ours, theirs) in times.items()}
        chosen = _first(shares, _LARGEST) + _first(apart, _APART)
        largest |= {operator: max(shares[operator], largest.get(operator, 0.0)) for operator in chosen}
    return _first(largest, len(largest))


def _first(values: Mapping[str, float], count: int) -> list[str]:
    return sorted(values, key=lambda name: -values[name])[:count]


def _times(one: Mapping[str, Any], operator: str, other: str) -> list[float]:
    forms = one["operators"].get(operator)
    return [forms[form]["milliseconds"] if forms else 0.0 for form in (_FORM, other)]


def _left(one: Mapping[str, Any], rows: Sequence[str], other: str) -> list[float]:
    shown = [_times(one, operator, other) for operator in rows]
    return [max(0.0, one["whole"][form] - sum(of[i] for of in shown)) for i, form in enumerate((_FORM, other))]


def _cell(milliseconds: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" if value >= 0.05 else "-" for value in milliseconds)


def _shown(operator: str) -> str:
    return operator if operator == OUTSIDE else f"`{operator}`"


def page(found: Mapping[str, Any]) -> str:
    """The part of docs/performance.md."""
    tables = [
        f"WSConv beside {'the plain step' if other == 'plain' else other}, batch {batch}:\n\n"
        f"{table(found, batch, other)}"
        for batch, other in COMPARISONS
    ]
    return "\n\n".join([INTRODUCTION, *tables, sentence(found)])
