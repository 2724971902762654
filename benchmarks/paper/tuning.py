"""Learning rate and clipping of each method, from one grid for all, by validation images.

A tuning run has the protocol's `tune_rounds` and a seed of its own, so its split of training and validation images is
not that of any reported run. Test images are never opened.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.paper.protocols import PROTOCOLS, SMALL_BATCH, VARIANTS, Protocol
from benchmarks.paper.running import RESULTS, Spec, result_path
from benchmarks.paper.scoring import METRICS

SEED = 101
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
SMALL_BATCH_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


def grid(protocol: str, variant: str, batch: int) -> list[Spec]:
    """The tuning runs of one row of a table: one grid for all methods at a batch size."""
    rounds = PROTOCOLS[protocol].tuning_rounds(batch)
    rates = SMALL_BATCH_RATES if batch <= SMALL_BATCH else RATES
    clippings = VARIANTS[variant].clippings
    return [Spec(protocol, variant, batch, lr, clipping, SEED, rounds) for lr in rates for clipping in clippings]


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
        None until the whole grid has been run. A run that diverged counts as the worst.
    """
    paths = [(spec, result_path(spec, results)) for spec in grid(protocol, variant, batch)]
    if not all(path.exists() for _, path in paths):
        return None
    found = []
    for spec, path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))
        last = max(result["scores"], key=int, default=None)
        found.append((mean_score(result, spec.plan, last, "validation") if last else 0.0, spec))
    best = max(found, key=lambda item: item[0])[1]
    return best.lr, best.clipping


def specs(protocol: str, results: Path = RESULTS) -> Iterator[Spec]:
    """The runs of a protocol's table whose settings have been tuned, seed by seed."""
    for seed in PROTOCOLS[protocol].seeds:
        for variant, batch in rows(protocol):
            settings = chosen(protocol, variant, batch, results)
            if settings is not None:
                yield Spec(protocol, variant, batch, *settings, seed)
