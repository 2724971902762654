"""Runs to write of, without a federation: what the strategy leaves in the database."""

from __future__ import annotations

import time

from fedwon.server.rounds.site_grid import Traffic
from fedwon.server.runs.run import Run
from tests.server.server_kit import CLASSES, small_run

PATIENCE = 30.0
SITES = {"press-1": 6, "press-2": 8}
"""Images that each classifies rightly after round 0, of 10; one more with each round, up to all."""


def begun(home, *, rounds=4) -> Run:
    return Run.create(home.store, home.folder, small_run(rounds=rounds), CLASSES)


def rounds(run: Run, first: int, last: int, listener=lambda event: None) -> None:
    """Do rounds as the strategy does: tasks, what sites say of the model before and of their training, the commit."""
    run.listeners = [listener]
    for number in range(first, last + 1):
        names = []
        for site, right in SITES.items():
            names.append(f"{run.id}.r{number:04d}.train.{site}")
            run.sent(names[-1], number, site, "train")
            told = {"correct": min(right + number - 1, 10), "examples": 10, "loss": 1.0 / number}
            run.measured(number - 1, site, {f"validation-{key}": value for key, value in told.items()})
            run.measured(number, site, {"train-loss": 2.0 / number, "num-examples": 30})
            run.settled(names[-1], "received", cost=Traffic(100 * number, 10 * number, 0.5))
        run.commit(number, run.last()[1], seconds=1.5, sites=tuple(SITES), averaged=names)


def finish(run: Run, number: int) -> None:
    """Measure the final model, on test images, and end the run."""
    for site in SITES:
        run.measured(number, site, {"test-correct": 9, "test-examples": 12, "test-loss": 0.1})
    run.finish("finished")


def until(condition, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
