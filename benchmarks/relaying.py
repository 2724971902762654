"""What a level of relays changes: `python -m benchmarks.relaying [--weights 1000000] [--json]`.

Random updates are averaged flat and through relays, in one process and from files, as server and relay do it. Three
things are stated: how many weights of the model differ from the flat average, and by how much, with means sent up in
float64 (as relays do) and in float32 (as they do not); what averaging costs in CPU by site and megabyte; and the bytes
of a relay's answer. The two ways of averaging are timed in turn, medians are given.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import open_record, write_record
from fedwon.common.update_settings import AggregationConfig
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.aggregation.combining import combine

RULES = AggregationConfig(weight_cap=1e9)
SHAPES = ((4, 2), (16, 4), (64, 8))
"""Sites in all, and relays."""
TURNS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=1_000_000, help="weights of the model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = [measure(sites, relays, options.weights) for sites, relays in SHAPES]
    result = {"machine": platform.platform(), "numpy": np.__version__, "weights": options.weights, "rows": rows}
    print(json.dumps(result, indent=2) if options.json else page(result))


def measure(sites: int, relays: int, weights: int) -> dict[str, Any]:
    """Average the updates of so many sites flat and through so many relays.

    Args:
        sites: in all.
        relays: the sites are dealt out to them in turn.
        weights: of the model, in four tensors.
    """
    rng = np.random.default_rng(sites)
    with tempfile.TemporaryDirectory() as folder:
        start = rng.normal(scale=0.05, size=weights).astype(np.float32)
        updates = [_update(Path(folder), rng, start, number) for number in range(sites)]
        below = [updates[number::relays] for number in range(relays)]
        flat, flat_ms = _timed(lambda: average(updates, cap=1e9))
        one, one_ms = _timed(lambda: combine(below[0], _numbers(below[0]), RULES).arrays)
        megabytes = 4e-6 * weights
        sent = write_record(one, Path(folder) / "sent.safetensors").size
        wide, narrow = (_through(Path(folder), below, kind) for kind in ("float64", "float32"))
        return {
            "sites": sites,
            "relays": relays,
            "float64": _differences(wide, flat),
            "float32": _differences(narrow, flat),
            "flat ms a site and MB": flat_ms / sites / megabytes,
            "relay ms a site and MB": one_ms / len(below[0]) / megabytes,
            "sent, bytes a weight": sent / weights,
        }


def _update(folder: Path, rng: np.random.Generator, start: NDArray[np.float32], number: int) -> Update:
    """A site's update: the model that all started from, moved by a twentieth."""
    moved = start + rng.normal(scale=0.0025, size=start.size).astype(np.float32)
    arrays = ArrayRecord({f"w{i}": Array(ndarray=part) for i, part in enumerate(np.array_split(moved, 4))})
    path = folder / f"site-{number:04d}.safetensors"
    blob = write_record(arrays, path)
    return Update(f"site-{number:04d}", int(rng.integers(50, 5000)), open_record(path, digest=blob.digest))


def _numbers(updates: list[Update]) -> list[dict[str, float]]:
    return [{"num-examples": update.examples} for update in updates]


def _through(folder: Path, below: list[list[Update]], kind: str) -> ArrayRecord:
    """Average through relays that send their means in this element type."""
    means = []
    for number, updates in enumerate(below):
        combined = combine(updates, _numbers(updates), RULES)
        arrays = {name: Array(ndarray=array.numpy().astype(kind)) for name, array in combined.arrays.items()}
        path = folder / f"relay-{kind}-{number}.safetensors"
        blob = write_record(ArrayRecord(arrays), path)
        record = open_record(path, digest=blob.digest)
        means.append(Update(f"relay-{number:04d}", int(combined.metrics["num-examples"]), record))
    return average(means, cap=1e9, element_types=dict.fromkeys(means[0].record, "float32"))


def _differences(found: ArrayRecord, wanted: ArrayRecord) -> dict[str, float]:
    pairs = [(found[name].numpy(), array.numpy()) for name, array in wanted.items()]
    steps = np.concatenate([np.abs(mine - theirs) / np.spacing(np.abs(theirs)) for mine, theirs in pairs])
    return {"differing": int((steps > 0).sum()), "most ulps": float(steps.max())}


def _timed(work: Callable[[], ArrayRecord]) -> tuple[ArrayRecord, float]:
    """Return what some work makes, and the median of its CPU milliseconds."""
    taken = []
    for _ in range(TURNS):
        began = time.process_time()
        made = work()
        taken.append(1e3 * (time.process_time() - began))
    return made, statistics.median(taken)


def page(result: dict[str, Any]) -> str:
    """Return the table for docs/performance.md."""
    headings = (
        *("sites", "relays", "weights that differ, float64 up", "most ulps", "float32 up", "most ulps"),
        *("CPU ms a site and MB: flat", "at a relay", "bytes a weight, up"),
    )
    lines = [
        f"{result['weights']} weights; {result['machine']}, numpy {result['numpy']}\n",
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
    ]
    for row in result["rows"]:
        wide, narrow = row["float64"], row["float32"]
        cells = [row["sites"], row["relays"], wide["differing"], f"{wide['most ulps']:.0f}", narrow["differing"]]
        cells += [f"{narrow['most ulps']:.0f}", f"{row['flat ms a site and MB']:.2f}"]
        cells += [f"{row['relay ms a site and MB']:.2f}", f"{row['sent, bytes a weight']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
