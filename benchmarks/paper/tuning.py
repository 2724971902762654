"""Learning rate and clipping of each method, from one grid for all, by validation images.

A tuning run has the protocol's `tune_rounds` and a seed of its own, so its split of training and validation images is
not that of any reported run. Test images are never opened.

The grid is climbed and not run whole: from its middle rate outward, each rate with and without clipping, until the best
one has worse neighbours on both sides or is the last of the grid. The rule is the same for every method.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.protocol import Protocol
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.spec import RESULTS, Spec, result_path
from benchmarks.paper.variants import VARIANTS
from fedwon.server.comparison.scoring import METRICS

SEED = 101


def trials(protocol: str, variant: str, batch: int, lr: float) -> list[Spec]:
    """The tuning runs of one rate: with each clipping that the variant may have."""
    rounds = PROTOCOLS[protocol].tuning_rounds(batch)
    form = VARIANTS[variant]
    return [Spec(protocol, form.tried_as or variant, batch, lr, clipping, SEED, rounds) for clipping in form.clippings]


def pending(protocol: str, variant: str, batch: int, results: Path = RESULTS) -> list[Spec]:
    """The tuning runs of a row that are to be done next; none if its settings are known."""
    grid = PROTOCOLS[protocol].rates(batch)
    scores = {lr: found[0] for lr in grid if (found := _tried(protocol, variant, batch, lr, results))}
    wanted = next_rates(scores, grid)
    runs = [spec for lr in wanted for spec in trials(protocol, variant, batch, lr)]
    return [spec for spec in runs if not result_path(spec, results).exists()]


def next_rates(scores: Mapping[float, float], grid: Sequence[float]) -> list[float]:
    """Where to climb next: the middle of the grid, then what is missing beside the best.

    Args:
        scores: of the rates tried so far; the first of equals counts as the best.
        grid: all rates, in order.
    """
    if not scores:
        return [grid[len(grid) // 2]]
    place = grid.index(max(sorted(scores), key=scores.__getitem__))
    return [lr for lr in grid[max(place - 1, 0) : place + 2] if lr not in scores]


def _tried(protocol: str, variant: str, batch: int, lr: float, results: Path) -> tuple[float, Spec] | None:
    """The best of one rate's runs, and its score on validation images; None until all are there.

    A run that diverged counts as the worst.
    """
    found = []
    for spec in trials(protocol, variant, batch, lr):
        path = result_path(spec, results)
        if not path.exists():
            return None
        result = json.loads(path.read_text(encoding="utf-8"))
        last = max(result["scores"], key=int, default=None)
        found.append((mean_score(result, spec.plan, last, "validation") if last else 0.0, spec))
    return max(found, key=lambda item: item[0])


def rows(protocol: str) -> Iterator[tuple[str, int]]:
    """The rows of a protocol's table: variant and batch size."""
    for variant, batches in PROTOCOLS[protocol].rows.items():
        for batch in batches:
            yield variant, batch


def mean_score(result: dict[str, Any], plan: Protocol, number: str, part: str) -> float:
    """Mean over sites of the protocol's metric on one part of the images after one round, 0 to 1."""
    metric = METRICS[plan.metric]
    return statistics.mean(metric(site[part]) for site in result["scores"][number].values() if part in site)


def chosen(protocol: str, variant: str, batch: int, results: Path = RESULTS) -> tuple[float, float | None] | None:
    """Learning rate and clipping with the best mean over domains on validation images.

    Returns:
        None until the climb has ended. A protocol that takes over another one's tuning says what that one chose.
    """
    tuned_as = PROTOCOLS[protocol].tuned_as or protocol
    grid = PROTOCOLS[tuned_as].rates(batch)
    found = {lr: best for lr in grid if (best := _tried(tuned_as, variant, batch, lr, results))}
    if next_rates({lr: score for lr, (score, _) in found.items()}, grid):
        return None
    _, best = max((found[lr] for lr in sorted(found)), key=lambda item: item[0])
    return best.lr, best.clipping


def best_score(protocol: str, variant: str, batch: int, results: Path = RESULTS) -> float | None:
    """The best mean over domains on validation images that tuning found, 0 to 1; None if nothing was tried."""
    found = (_tried(protocol, variant, batch, lr, results) for lr in PROTOCOLS[protocol].rates(batch))
    return max((score for score, _ in filter(None, found)), default=None)


def specs(protocol: str, results: Path = RESULTS) -> Iterator[Spec]:
    """The runs of a protocol's table whose settings have been tuned, seed by seed."""
    for seed in PROTOCOLS[protocol].seeds:
        for variant, batch in rows(protocol):
            settings = chosen(protocol, variant, batch, results)
            if settings is not None:
                yield Spec(protocol, variant, batch, *settings, seed)
