"""Stored checkpoints on any folder of domains: images nobody trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.scoring import LOCAL, counts, overlaid, own_layers, scored_images
from fedwon.client.domains import discover
from fedwon.common.errors import FedwonError
from fedwon.common.model_file import read_model, trained_network


def evaluate_stored(data: str, protocols: Sequence[str], checkpoints: Path) -> dict[str, Any]:
    """Score each checkpoint on each domain of a folder.

    A domain that has the name of a site of the run is served with that site's own layers, where the method has such;
    any other gets the global model as the server holds it.

    Returns:
        By protocol, run and domain: `correct`, `examples`, `accuracy`, `own_layers`; or `error`.

    Raises:
        FedwonError: the folder cannot be read.
    """
    domains = discover(data)
    found: dict[str, Any] = {}
    for protocol in protocols:
        for path in sorted((checkpoints / "runs" / protocol).glob("*/model.safetensors")):
            found.setdefault(protocol, {})[path.parent.name] = {name: _score(path, name, domains) for name in domains}
    return found


def _score(path: Path, name: str, domains: dict[str, Any]) -> dict[str, Any]:
    try:
        task, record = read_model(path)
        own = own_layers(path.parent / LOCAL / name, task)
        score = counts(overlaid(trained_network(task, record), own), scored_images(domains[name], task))
    except FedwonError as error:
        return {"error": f"{error.message} {error.hint}".strip()}
    accuracy = score["correct"] / max(score["examples"], 1)
    return {"correct": score["correct"], "examples": score["examples"], "accuracy": accuracy, "own_layers": bool(own)}
