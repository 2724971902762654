"""What was tried to make steps faster: kernels of the standardization, and other ways to take the whole step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.stepping import alternatives, kernels
from benchmarks.stepping.circumstances import sentence

INTRODUCTION = """\
Made by `python -m benchmarks.step_time --tried --write` (`benchmarks/results/step_tried.json`): one thread, all in
turn, ratios paired turn by turn, their median with the quartiles in brackets."""
_SHARE = 0.25
"""Of the seconds, for the kernels."""


def measure(networks: Sequence[str], seconds: float) -> dict[str, Any]:
    """Time kernels and alternatives.

    Args:
        networks: Names; the alternatives are measured on each.
        seconds: For all of it; alternatives that need longer for the fewest turns take it.
    """
    return {
        "kernels": kernels.measure(_SHARE * seconds),
        "networks": alternatives.measure(networks, (1 - _SHARE) * seconds),
    }


def page(found: Mapping[str, Any]) -> str:
    """The part of docs/performance.md."""
    return "\n\n".join(
        [
            INTRODUCTION,
            f"Kernels that standardize a weight; {kernels.IN_USE} is in use:",
            kernels.table(found["kernels"]),
            "Whole steps, WSConv's, with something done otherwise, beside what is in use:",
            alternatives.table(found["networks"]),
            sentence(found),
        ]
    )
