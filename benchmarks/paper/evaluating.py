"""Stored checkpoints on any folder of domains: images nobody trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.keeping import stored
from benchmarks.paper.scoring import scored_images
from fedwon.client.images.domains import discover
from fedwon.common.errors import FedwonError
from fedwon.common.model_file import read_model
from fedwon.server.comparison.scoring import LOCAL, counts, served


def evaluate_stored(data: str, protocols: Sequence[str], checkpoints: Path) -> dict[str, Any]:
    """Score each checkpoint on each domain of a folder: those of the runs made here, and those kept in the repository.

    Where the method keeps layers at the sites, a domain that has the name of a site of the run is served with that
    site's; any other with the mean of the sites' models.

    Returns:
        By protocol, run and domain: `correct`, `examples`, `accuracy`, `served_by`; or `error`.

    Raises:
        FedwonError: the folder cannot be read.
    """
    domains = discover(data)
    found: dict[str, Any] = {}
    for protocol in protocols:
        for run, path in stored(protocol, checkpoints):
            found.setdefault(protocol, {})[run] = {name: _score(path, name, domains) for name in domains}
    return found


def _score(path: Path, name: str, domains: dict[str, Any]) -> dict[str, Any]:
    try:
        task, record = read_model(path)
        model = served(task, record, path.parent / LOCAL, name)
        score = counts(model.network, scored_images(domains[name], task))
    except FedwonError as error:
        return {"error": f"{error.message} {error.hint}".strip()}
    accuracy = score["correct"] / max(score["examples"], 1)
    return {"correct": score["correct"], "examples": score["examples"], "accuracy": accuracy, "served_by": model.means}
