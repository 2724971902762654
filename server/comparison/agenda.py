"""Which runs there are to do, in which order, and which of them are done."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwon.common.methods import MethodName
from fedwon.server.comparison.ledger import Ledger
from fedwon.server.comparison.outcomes import ALONE
from fedwon.server.comparison.planning import MOST_SEEDS, Plan
from fedwon.server.comparison.runs import Kind, Spec

_EARLY_SEEDS = 3
"""Runs of each method before lines are left out; further seeds come after."""


@dataclass(frozen=True)
class Agenda:
    """The runs of a plan.

    Attributes:
        plan: how many.
        methods: what is compared.
        lines: that take part, those first that are left out first.
        choices: `lr` and `clipping` by method.
    """

    plan: Plan
    methods: Sequence[MethodName]
    lines: Sequence[str]
    choices: Mapping[MethodName, Mapping[str, Any]]

    def blocks(self) -> Iterator[list[Spec]]:
        """The runs, in blocks that are of use only whole: some seeds, lines left out, all other seeds."""
        early = min(_EARLY_SEEDS, self.plan.seeds)
        yield from (self._block("run", seed) for seed in range(1, early + 1))
        for line in self.lines[: self.plan.unseen]:
            yield from (self._block("unseen", seed, line) for seed in range(1, self.plan.unseen_seeds + 1))
        yield from (self._block("run", seed) for seed in range(early + 1, MOST_SEEDS + 1))

    def _block(self, kind: Kind, seed: int, without: str = "") -> list[Spec]:
        """One seed of all methods; what a line gets that the others serve alone is known from their own runs."""
        taking_part = [name for name in self.methods if not (without and name == ALONE)]
        settings = {name: (self.choices[name]["lr"], self.choices[name]["clipping"]) for name in taking_part}
        return [Spec(kind, name, *settings[name], seed, self.plan.rounds, without) for name in taking_part]

    def begun(self, ledger: Ledger) -> bool:
        """Whether any run is done."""
        return any(ledger.get(spec.key) is not None for block in self.blocks() for spec in block)

    def done(
        self, ledger: Ledger
    ) -> tuple[dict[MethodName, dict[int, Any]], dict[MethodName, dict[str, dict[int, Any]]]]:
        """Results by method and seed, and scores of lines that took no part by method, line and seed."""
        runs: dict[MethodName, dict[int, Any]] = {name: {} for name in self.methods}
        unseen: dict[MethodName, dict[str, dict[int, Any]]] = {}
        for spec in (spec for block in self.blocks() for spec in block):
            result = ledger.get(spec.key)
            if result is None:
                continue
            if not spec.without:
                runs[spec.method][spec.seed] = result
            for line, score in result["unseen"].items():
                unseen.setdefault(spec.method, {}).setdefault(line, {})[spec.seed] = score
        return runs, unseen


def farthest(lines: Sequence[str], facts: Mapping[str, Any]) -> list[str]:
    """The lines, those first that look least like the others: they make the harder test for a line that is new."""
    apart = facts["distance"]["mean"]
    return sorted(lines, key=lambda name: (-apart.get(name, 0.0), name))


def nothing_right(facts: Mapping[str, Any], classes: Sequence[str], lines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Test scores of a model that gets nothing right: what a run is given whose loss did not stay finite."""
    found = {}
    for name in lines:
        sizes = [facts["lines"][name]["test_classes"].get(kind, 0) for kind in classes]
        bits = base64.b64encode(np.packbits(np.zeros(sum(sizes), dtype=bool)).tobytes()).decode("ascii")
        zeros = {"correct": 0, "class_correct": [0] * len(sizes), "right": bits}
        found[name] = {**zeros, "examples": sum(sizes), "class_examples": sizes}
    return found
