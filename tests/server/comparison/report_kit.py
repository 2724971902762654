"""A report of made-up runs on tiny lines, through the code that makes real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedwon.server.comparison.comparing import Findings
from fedwon.server.comparison.groundwork import DEFAULT_METHODS, Request, prepare
from fedwon.server.comparison.ledger import Ledger
from fedwon.server.comparison.planning import Plan
from fedwon.server.comparison.reporting import report
from tests.server.comparison.lines_kit import make_line, make_lines, score

SKILL = {"standalone": 0.6, "fedavg": 0.7, "fedbn": 0.75, "fedwon": 0.9}
NASTY = 'line <b>&" 三'


def made_report(root: Path, *, seeds: int = 4, unseen: bool = True) -> dict[str, Any]:
    """Make one; each method gets its share of the test images right, and FedWon the most."""
    data = make_lines(root / "lines", lines=2)
    make_line(data / NASTY, 120, 24, seed=9)
    request = Request(str(data), root / "out", 60, DEFAULT_METHODS)
    work = prepare(request, Ledger(request.folder), root)
    rng = np.random.default_rng(1)
    names = list(work.lines)

    def scores(skill: float) -> dict[str, Any]:
        rows = {name: list(work.facts["lines"][name]["test_classes"].values()) for name in names}
        return {name: score(list(rng.random(sum(sizes)) < skill), sizes) for name, sizes in rows.items()}

    def run(method: str) -> dict[str, Any]:
        timed = {"line_seconds": dict.fromkeys(names, 1.5), "up": 123456.0, "down": 4e5, "course": [0.2, 0.5, 0.6, 0.6]}
        found = scores(SKILL[method])
        return {**timed, "failed": None, "test": found, "validation": found, "unseen": {}}

    left_out = {
        method: {name: {seed: scores(SKILL[method] - 0.1)[name] for seed in (1, 2)} for name in names[:2]}
        for method in DEFAULT_METHODS
    }
    choice = {"lr": 0.1, "clipping": None, "score": 0.7, "trials": 4, "pruned": 1}
    found = Findings(
        work=work,
        methods=DEFAULT_METHODS,
        plan=Plan(5, 4, seeds, 12, 2, 2),
        choices=dict.fromkeys(DEFAULT_METHODS, choice),
        runs={method: {seed: run(method) for seed in range(1, seeds + 1)} for method in DEFAULT_METHODS},
        unseen=left_out if unseen else {},
        trials=dict.fromkeys(DEFAULT_METHODS, 5),
        seconds=12.3,
        interrupted=False,
    )
    return report(request, found)
