"""A run whose result is kept, run again: does this machine get what the table says?

The seed settles weights, splits and order, and on one machine the model is the same bit for bit. Another processor adds
in another order; over hundreds of steps that grows, and the run becomes one more of the same kind.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.protocol import Protocol
from benchmarks.paper.running import run
from benchmarks.paper.sets import CACHE
from benchmarks.paper.spec import RESULTS, Spec, result_path
from benchmarks.paper.table_rows import test_scores
from fedwon.common.errors import RunMissing
from fedwon.server.comparison.paired import Scores
from fedwon.server.comparison.scoring import METRICS, right_images

AGAIN = "again"
"""Folder, in that of the checkpoints, of what was run again."""


def repeat(spec: Spec, *, results: Path = RESULTS, checkpoints: Path = CACHE) -> dict[str, Any] | None:
    """Run a kept run again and set the two side by side.

    Args:
        spec: which run.
        results: folder of the kept results; it stays as it is.
        checkpoints: folder of models and databases.

    Returns:
        `run`; `kept` and `here`: mean over domains of the protocol's metric on test images, in %, None where the run
        diverged; `alike`: share of the test images that both models get right or both get wrong, in %; `changed`: the
        versions that differ, as they were and as they are. None if another process has the run in hand.

    Raises:
        RunMissing: no result of this run is kept.
    """
    path = result_path(spec, results)
    if not path.exists():
        raise RunMissing(f"No result of {spec.protocol}/{spec.key} is kept in {results}.", hint="Make it with `run`.")
    place = checkpoints / AGAIN
    here = run(spec, results=place / "results", checkpoints=place)
    if here is None:
        return None
    result_path(spec, place / "results").unlink(missing_ok=True)  # else the next call would tell of this one's code
    return side_by_side(spec, json.loads(path.read_text(encoding="utf-8")), here)


def side_by_side(spec: Spec, kept: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """What `repeat` returns of two results of one spec."""
    before, now = test_scores(kept, spec.plan), test_scores(here, spec.plan)
    versions = kept["versions"], here["versions"]
    names = sorted({name for found in versions for name in found})
    return {
        "run": f"{spec.protocol}/{spec.key}",
        "kept": _percent(before, spec.plan),
        "here": _percent(now, spec.plan),
        "alike": None if before is None or now is None else _alike(before, now),
        "changed": {
            name: [found.get(name, "not noted") for found in versions]
            for name in names
            if versions[0].get(name) != versions[1].get(name)
        },
    }


def _percent(scores: Scores | None, plan: Protocol) -> float | None:
    if scores is None:
        return None
    return round(100 * statistics.mean(METRICS[plan.metric](score) for score in scores.values()), 2)


def _alike(before: Scores, now: Scores) -> float:
    same = [right_images(before[domain]) == right_images(now[domain]) for domain in sorted(before)]
    return round(100 * float(np.concatenate(same).mean()), 2)
