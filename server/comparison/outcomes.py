"""From the runs' scores to what the report states: means by line, and paired differences with their intervals.

The figure everywhere is balanced accuracy, the mean over classes of the share that is found: where most parts are good,
a model that calls everything good would look fine by plain accuracy. Only seeds that every method has finished count.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedwon.common.methods import METHODS, MethodName
from fedwon.server.comparison.paired import Difference, Scores, over_seeds, paired
from fedwon.server.comparison.scoring import balanced_accuracy

ALONE: MethodName = "standalone"
METRIC = "balanced"

Runs = Mapping[MethodName, Mapping[int, Mapping[str, Any]]]
"""Results of runs, as `runs.carry_out` makes them, by method and seed."""
Unseen = Mapping[MethodName, Mapping[str, Mapping[int, Mapping[str, Any]]]]
"""Scores of lines that took no part, by method, line and seed."""


@dataclass(frozen=True)
class Outcomes:
    """What the runs come to.

    Attributes:
        seeds: those that every method has finished.
        by_line: mean balanced accuracy by method and line.
        gains: each federated method less each line alone, mean over lines.
        line_gains: the same, line by line.
        pairs: the first method less the second, for all pairs of federated ones.
        worst: the lowest line of a method less the lowest when each is alone.
        unseen: mean balanced accuracy on lines that took no part, by method and line.
        unseen_gains: each federated method less the mean of the other lines' own models, on such lines.
        diverged: runs whose loss did not stay finite, by method.
        validation: mean balanced accuracy on validation images, by method.
    """

    seeds: tuple[int, ...]
    by_line: Mapping[MethodName, Mapping[str, float]]
    gains: Mapping[MethodName, Difference]
    line_gains: Mapping[MethodName, Mapping[str, Difference]]
    pairs: Mapping[tuple[MethodName, MethodName], Difference]
    worst: Mapping[MethodName, Difference]
    unseen: Mapping[MethodName, Mapping[str, float]]
    unseen_gains: Mapping[MethodName, Difference]
    diverged: Mapping[MethodName, int]
    validation: Mapping[MethodName, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; infinite ends of an interval become None."""
        return {
            "seeds": list(self.seeds),
            "by_line": {name: dict(row) for name, row in self.by_line.items()},
            "gains": {name: difference_row(row) for name, row in self.gains.items()},
            "line_gains": {
                name: {line: difference_row(row) for line, row in rows.items()}
                for name, rows in self.line_gains.items()
            },
            "pairs": [[a, b, difference_row(row)] for (a, b), row in self.pairs.items()],
            "worst": {name: difference_row(row) for name, row in self.worst.items()},
            "unseen": {name: dict(row) for name, row in self.unseen.items()},
            "unseen_gains": {name: difference_row(row) for name, row in self.unseen_gains.items()},
            "diverged": dict(self.diverged),
            "validation": dict(self.validation),
        }


def difference_row(difference: Difference) -> dict[str, float | int | None]:
    """A difference for JSON, which knows no infinity."""
    return {key: value if math.isfinite(value) else None for key, value in asdict(difference).items()}


def outcomes(runs: Runs, unseen: Unseen, tests: Mapping[str, Mapping[str, Any]]) -> Outcomes:
    """Compute them.

    Args:
        runs: results by method and seed; without `standalone` there are no gains.
        unseen: scores of left-out lines.
        tests: a score of each line in which nothing is right, for runs that diverged.
    """
    seeds = tuple(sorted(set.intersection(*(set(found) for found in runs.values())))) if runs else ()
    scores = {name: [_test_scores(runs[name][seed], tests) for seed in seeds] for name in runs}
    federated = [name for name in runs if METHODS[name].keeps != "everything"]
    compared = bool(seeds) and ALONE in scores
    return Outcomes(
        seeds=seeds,
        by_line={name: _means(found) for name, found in scores.items()} if seeds else {},
        gains={name: paired(scores[name], scores[ALONE], METRIC) for name in federated} if compared else {},
        line_gains={name: _by_line(scores[name], scores[ALONE]) for name in federated} if compared else {},
        pairs={(a, b): paired(scores[a], scores[b], METRIC) for a in federated for b in federated if a != b}
        if seeds
        else {},
        worst={name: _worst(scores[name], scores[ALONE]) for name in federated} if compared else {},
        unseen={name: _unseen_means(unseen[name]) for name in unseen},
        unseen_gains=_unseen_gains(unseen),
        diverged={name: sum(bool(found[seed]["failed"]) for seed in seeds) for name, found in runs.items()},
        validation={name: _validation([runs[name][seed] for seed in seeds]) for name in runs} if seeds else {},
    )


def _test_scores(result: Mapping[str, Any], tests: Mapping[str, Mapping[str, Any]]) -> Scores:
    found: Scores = tests if result["failed"] else result["test"]
    return found


def _means(scores: Sequence[Scores]) -> dict[str, float]:
    return {line: statistics.fmean(balanced_accuracy(seed[line]) for seed in scores) for line in scores[0]}


def _by_line(first: Sequence[Scores], second: Sequence[Scores]) -> dict[str, Difference]:
    return {
        line: paired([{line: seed[line]} for seed in first], [{line: seed[line]} for seed in second], METRIC)
        for line in first[0]
    }


def _worst(first: Sequence[Scores], second: Sequence[Scores]) -> Difference:
    """Difference of the lowest lines, whichever they are; its interval is Student's t over seeds alone."""
    lowest = [[min(map(balanced_accuracy, seed.values())) for seed in scores] for scores in (first, second)]
    return over_seeds(*lowest)


def _validation(results: Sequence[Mapping[str, Any]]) -> float:
    found = [score for result in results for score in result["validation"].values() if score["examples"]]
    return statistics.fmean(map(balanced_accuracy, found)) if found else 0.0


def _unseen_means(by_line: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, float]:
    return {line: statistics.fmean(map(balanced_accuracy, seeds.values())) for line, seeds in by_line.items() if seeds}


def _unseen_gains(unseen: Unseen) -> dict[MethodName, Difference]:
    """Each method against the mean of the other lines' own models, on the lines and seeds that both have."""
    if ALONE not in unseen:
        return {}
    found = {}
    for name in unseen:
        if name == ALONE:
            continue
        lines = [line for line in unseen[name] if line in unseen[ALONE]]
        common = [set(unseen[name][line]) & set(unseen[ALONE][line]) for line in lines]
        seeds = sorted(set.intersection(*common)) if common else []
        if seeds:
            ours, theirs = (
                [{line: unseen[method][line][seed] for line in lines} for seed in seeds] for method in (name, ALONE)
            )
            found[name] = paired(ours, theirs, METRIC)
    return found
