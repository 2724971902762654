"""The report as data: what report.json holds and every page is made of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fedwon.common.methods import METHODS, MethodName
from fedwon.common.version import VERSION
from fedwon.server.comparison import cautions
from fedwon.server.comparison.agenda import nothing_right
from fedwon.server.comparison.comparing import Findings
from fedwon.server.comparison.facts import FEWEST_TEST, FEWEST_TRAIN
from fedwon.server.comparison.footprint import footprint
from fedwon.server.comparison.groundwork import Request
from fedwon.server.comparison.outcomes import METRIC, Outcomes, outcomes
from fedwon.server.comparison.planning import rungs
from fedwon.server.comparison.runs import Ground, Spec
from fedwon.server.comparison.verdict import Recommendation, recommend
from fedwon.server.engines.simulating import versions

FORMAT = 1


def report(request: Request, found: Findings) -> dict[str, Any]:
    """Put a comparison's findings together, as JSON can hold them."""
    work = found.work
    tests = nothing_right(work.facts, work.classes, list(work.lines))
    compared = outcomes(found.runs, found.unseen, tests)
    answer = None if work.obstacle else _answer(found, compared)
    return {
        "format": FORMAT,
        "version": VERSION,
        "versions": versions(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": request.data,
        "budget": request.budget,
        "seconds": round(found.seconds, 1),
        "interrupted": found.interrupted,
        "methods": list(found.methods),
        "metric": METRIC,
        "obstacle": work.obstacle,
        "answer": None if answer is None else answer.as_dict(),
        "cautions": _cautions(found, compared, answer),
        "cut": _cut(found, compared),
        "fewest": {"train": FEWEST_TRAIN, "test": FEWEST_TEST},
        "facts": dict(work.facts),
        "settings": dict(work.settings),
        "plan": found.plan.as_dict() if found.plan else None,
        "choices": dict(found.choices),
        "outcomes": compared.as_dict(),
        "cost": {} if work.obstacle else _costs(request, found),
        "courses": courses(found),
    }


def _answer(found: Findings, compared: Outcomes) -> Recommendation:
    rounds = found.plan.rounds if found.plan else 0
    rising = any(METHODS[name].keeps != "everything" for name in cautions.still_rising(courses(found)))
    return recommend(compared, rounds=rounds, classes=len(found.work.classes), rising=rising)


def _cautions(found: Findings, compared: Outcomes, answer: Recommendation | None) -> list[cautions.Caution]:
    noted: list[cautions.Caution] = [{"code": "interrupted"}] if found.interrupted else []
    if answer is not None:
        noted += cautions.of_runs(compared, answer, courses(found))
    return noted + cautions.of_data(found.work.facts)


def _cut(found: Findings, compared: Outcomes) -> list[cautions.Caution]:
    if found.work.obstacle:
        return []
    lines = len(found.work.lines)
    done = {
        "trials": min(found.trials.values(), default=0),
        "seeds": len(compared.seeds),
        "unseen": min((len(by_line) for name, by_line in found.unseen.items() if name != "standalone"), default=0),
    }
    return cautions.cut(found.plan, rungs(lines)[0], done, lines)


def courses(found: Findings) -> dict[MethodName, list[float]]:
    """Mean validation accuracy of the model that came into each round, over seeds, by method."""
    result: dict[MethodName, list[float]] = {}
    for name, runs in found.runs.items():
        whole = [run["course"] for run in runs.values() if not run["failed"]]
        if whole:
            result[name] = [round(statistics.fmean(values), 4) for values in zip(*whole, strict=False)]
    return result


def _costs(request: Request, found: Findings) -> dict[MethodName, dict[str, Any]]:
    """Seconds, bytes and memory of each method; None where nothing was run."""
    work = found.work
    ground = Ground(work.settings, work.lines, work.classes, work.threads, request.folder)
    result: dict[MethodName, dict[str, Any]] = {}
    for name in found.methods:
        config = ground.config(Spec("run", name, 0.1, 0.16, 1, 1))
        needs = footprint(config, work.classes)
        runs = [run for run in found.runs.get(name, {}).values() if run["line_seconds"]]
        result[name] = {
            "line_seconds": _mean([max(run["line_seconds"].values()) for run in runs]),
            "bytes_up": _mean([run["up"] for run in runs]),
            "model_bytes": 0 if METHODS[name].keeps == "everything" else needs.model_bytes,
            "step_bytes": needs.step_bytes,
            "parameters": needs.parameters,
            "keeps": METHODS[name].keeps,
        }
    return result


def _mean(values: list[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def images_of(facts: Mapping[str, Any]) -> int:
    """Images of all lines together."""
    return sum(line["images"] for line in facts["lines"].values())
