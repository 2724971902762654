"""The drift alarm: how often it is false, and how soon it comes: `python -m benchmarks.drift [--thresholds 6 8 10]`.

Three kinds of traces of k right of n, by site and round:

* simulated: sites that learn along one curve with a wobble that all share, binomial noise, and a fall at one of them;
* steady: sites that have learnt, with other images of the same kind in every round: the hardest to be quiet on;
* real without a fault: every run kept below `benchmarks/results/paper/*/runs` (all sites, all rounds), in which every
  alarm is false, also with a fall put into one site's counts;
* real with a fault: the rows of `python -m benchmarks.faults`.

`--json` keeps the figures; the tables of docs/faults.md are made of them. Takes about a minute.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faulty.rows import FIRST, SETS, Spec, every
from fedwon.server.drift.alarm import THRESHOLD, Counts, step
from fedwon.server.engines.simulating import versions

ROOT = Path(__file__).resolve().parent
RESULT = ROOT / "results" / "drift.json"
Trace = list[dict[str, tuple[int, int]]]
"""Counts by site, round after round."""
FALLS = (0.05, 0.1, 0.2, 0.4)
IMAGES = (25, 100, 400)
SITES, ROUNDS, ONSET, REPEATS = 6, 40, 20, 40
PATIENCE = 10
"""Rounds after its beginning within which a fall has to be found."""


def first_alarms(trace: Sequence[Counts], threshold: float) -> dict[str, list[int]]:
    """Return in which rounds an alarm was raised, by site."""
    standings: dict[str, Any] = {}
    found: dict[str, list[int]] = {}
    for number, counts in enumerate(trace):
        standings = step(standings, number, counts, threshold)
        for site, standing in standings.items():
            if standing.since == number:
                found.setdefault(site, []).append(number)
    return found


def simulated(rng: np.random.Generator, images: int, fall: float) -> Trace:
    """Make a trace of sites that learn; the first one falls at `ONSET`."""
    level = rng.uniform(0.75, 0.95, SITES)
    speed = rng.uniform(4, 10, SITES)
    wobble = rng.normal(0, 0.02, ROUNDS)
    trace: Trace = []
    for number in range(ROUNDS):
        share = level - 0.6 * np.exp(-number / speed) + wobble[number]
        share[0] -= fall * (number >= ONSET)
        right = rng.binomial(images, np.clip(share, 0.01, 0.99))
        trace.append({f"site-{site}": (int(count), images) for site, count in enumerate(right)})
    return trace


def steady(rng: np.random.Generator, images: int) -> Trace:
    """Make a trace in which nothing happens but chance."""
    level = rng.uniform(0.75, 0.95, SITES)
    rounds = [rng.binomial(images, level) for _ in range(2 * ROUNDS)]
    return [{f"site-{site}": (int(count), images) for site, count in enumerate(right)} for right in rounds]


def fallen(trace: Trace, site: str, fall: float, onset: int, rng: np.random.Generator) -> Trace:
    """Put a fall into one site's counts: so many of its images more are wrong."""
    made = [dict(counts) for counts in trace]
    for counts in made[onset:]:
        right, examples = counts[site]
        counts[site] = int(right - rng.binomial(right, min(fall * examples / max(right, 1), 1.0))), examples
    return made


def real() -> Iterator[tuple[str, Trace]]:
    """Yield the kept runs' traces, by file."""
    for path in sorted(ROOT.glob("results/paper/*/runs/*.json")):
        rounds = json.loads(path.read_text(encoding="utf-8")).get("validation") or {}
        trace = [
            {site: (right, examples) for site, (right, examples) in counts.items()}
            for _, counts in sorted(rounds.items(), key=lambda item: int(item[0]))
        ]
        if trace:
            yield path.parent.parent.name, trace


def false_alarms(traces: Sequence[Trace], threshold: float) -> tuple[int, int]:
    """Return how many alarms were raised and in how many rounds of sites."""
    alarms = sum(len(found) for trace in traces for found in first_alarms(trace, threshold).values())
    return alarms, sum(len(counts) for trace in traces for counts in trace)


def found_after(traces: Sequence[tuple[Trace, str, int]], threshold: float) -> tuple[int, list[int]]:
    """Return in how many of these traces (site, onset) the alarm came within `PATIENCE`, and after how many rounds."""
    delays = []
    for trace, site, onset in traces:
        alarms = [number - onset + 1 for number in first_alarms(trace, threshold).get(site, ()) if number >= onset]
        delays += alarms[:1] if alarms and alarms[0] <= PATIENCE else []
    return len(traces), delays


def _delay_row(kind: str, fall: float, images: str, counted: tuple[int, list[int]]) -> dict[str, Any]:
    tried, delays = counted
    return {
        "traces": kind,
        "fall": fall,
        "images": images,
        "tried": tried,
        "found": len(delays),
        "median_rounds": statistics.median(delays) if delays else None,
    }


def measured(threshold: float) -> dict[str, Any]:
    """Measure one threshold on simulated and on real traces."""
    rng = np.random.default_rng(1)
    quiet: dict[str, Sequence[Trace]] = {}
    rows = []
    for images in IMAGES:
        quiet[f"steady, {images} images"] = [steady(rng, images) for _ in range(REPEATS)]
        quiet[f"simulated, {images} images"] = [simulated(rng, images, 0.0) for _ in range(REPEATS)]
        for fall in FALLS:
            traces = [(simulated(rng, images, fall), "site-0", ONSET) for _ in range(REPEATS)]
            rows.append(_delay_row("simulated", fall, str(images), found_after(traces, threshold)))
    kept = [trace for _, trace in real()]
    quiet["real runs"] = kept
    long = [trace for trace in kept if len(trace) >= 15]
    for fall in FALLS:
        traces = []
        for trace in long:
            site, onset = sorted(trace[0])[int(rng.integers(len(trace[0])))], math.ceil(len(trace) / 2)
            if all(site in counts and counts[site][1] for counts in trace):
                traces.append((fallen(trace, site, fall, onset, rng), site, onset))
        rows.append(_delay_row("real runs", fall, "their own", found_after(traces, threshold)))
    alarms = {name: false_alarms(traces, threshold) for name, traces in quiet.items()}
    return {"threshold": threshold, "false": alarms, "falls": rows, "faults": _of_faults(threshold)}


def _of_faults(threshold: float) -> list[dict[str, Any]]:
    """What the alarm made of the faults that have been run: at the line with the fault, and at the others."""
    found = []
    for spec in every():
        if spec.path.exists():
            row = json.loads(spec.path.read_text(encoding="utf-8"))
            trace = [
                {site: tuple(seen[number][:2]) for site, seen in row["seen"].items()}
                for number in range(min(map(len, row["seen"].values())))
            ]
            found.append(_of_fault(spec, first_alarms(trace, threshold)))
    return found


def _of_fault(spec: Spec, alarms: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    line = SETS[spec.images].faulty
    since = FIRST - 1  # rounds are counted from 0 here
    mine = [number for number in alarms.get(line, ()) if number >= since]
    others = sum(len(found) for site, found in alarms.items() if site != line)
    early = len(alarms.get(line, ())) - len(mine)
    return {
        "images": spec.images,
        "fault": spec.fault,
        "method": spec.method,
        "seed": spec.seed,
        "after": mine[0] - since + 1 if mine else None,
        "others": others + early,
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the tables of docs/faults.md."""
    lines = ["| threshold | " + " | ".join(result["measured"][0]["false"]) + " |"]
    lines += ["|---" * (1 + len(result["measured"][0]["false"])) + "|"]
    for one in result["measured"]:
        cells = [f"{1000 * alarms / rounds:.2f} ({alarms} of {rounds:,})" for alarms, rounds in one["false"].values()]
        lines.append(f"| {one['threshold']:g} | " + " | ".join(cells) + " |")
    lines += ["", "| traces | images | fall | " + _each(result, lambda one: f"threshold {one['threshold']:g}") + " |"]
    lines += ["|---" * (3 + len(result["measured"])) + "|"]
    for index, row in enumerate(result["measured"][0]["falls"]):
        cells = _each(result, lambda one, index=index: _found(one["falls"][index]))  # type: ignore[misc]
        lines.append(f"| {row['traces']} | {row['images']} | {100 * row['fall']:.0f} points | {cells} |")
    return "\n".join(lines)


def _each(result: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str]) -> str:
    return " | ".join(cell(one) for one in result["measured"])


def _found(row: Mapping[str, Any]) -> str:
    after = "" if row["median_rounds"] is None else f", after {row['median_rounds']:g}"
    return f"{100 * row['found'] / max(row['tried'], 1):.0f} %{after}"


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[THRESHOLD - 1, THRESHOLD, THRESHOLD + 3])
    parser.add_argument("--json", type=Path, default=RESULT)
    chosen = parser.parse_args()
    made = [measured(threshold) for threshold in chosen.thresholds]
    kept = sum(1 for _ in real())
    result = {"date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "runs": kept, "versions": versions(), "measured": made}
    chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    for row in made[len(made) // 2]["faults"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
