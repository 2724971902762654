"""Our label skew beside flwr-datasets': the same distribution. Skipped unless that is installed (decision 0011)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.paper.partitions import Rows, dirichlet_parts

SITES, SEEDS = 10, 300
LABELS = np.arange(3000) % 10


def theirs(alpha: float, seed: int) -> list[Rows]:
    datasets = pytest.importorskip("datasets")
    partitioner = pytest.importorskip("flwr_datasets.partitioner").DirichletPartitioner(
        SITES, "label", alpha, min_partition_size=1, self_balancing=False, seed=seed
    )
    partitioner.dataset = datasets.Dataset.from_dict({"label": LABELS, "row": np.arange(len(LABELS))})
    return [np.array(partitioner.load_partition(number)["row"]) for number in range(SITES)]


def ours(alpha: float, seed: int) -> list[Rows]:
    return dirichlet_parts(LABELS, SITES, alpha, np.random.default_rng(seed), fewest=1)


def figures(deal: Callable[[float, int], list[Rows]], alpha: float) -> NDArray[np.float64]:
    """For each seed: spread of the sites' sizes, and mean entropy of their classes."""
    found = []
    for seed in range(SEEDS):
        counts = np.array([np.bincount(LABELS[rows], minlength=10) for rows in deal(alpha, seed)])
        assert counts.sum(axis=0).tolist() == [len(LABELS) // 10] * 10
        shares = counts / counts.sum(axis=1, keepdims=True)
        entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1).mean()
        found.append((counts.sum(axis=1).std(), entropy))
    return np.array(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_label_skew_is_distributed_as_flowers(alpha: float) -> None:
    pytest.importorskip("flwr_datasets")
    mine, flowers = figures(ours, alpha), figures(theirs, alpha)
    error = np.sqrt((mine.var(axis=0) + flowers.var(axis=0)) / SEEDS)
    distance = (mine.mean(axis=0) - flowers.mean(axis=0)) / error
    assert np.abs(distance).max() < 4, (
        f"means {mine.mean(axis=0)} and {flowers.mean(axis=0)}, {distance} standard errors"
    )
