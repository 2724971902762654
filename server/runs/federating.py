"""One run from the first site to the final table, over any grid of sites."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedwon.common.errors import ClassMismatch, FedwonError, Stopped
from fedwon.common.flower import host_app
from fedwon.common.run_config import RunConfig
from fedwon.common.surveys import class_names
from fedwon.server.drift.watch import DriftWatch
from fedwon.server.identity.naming import listed
from fedwon.server.rounds.evaluation import Evaluation, evaluate_model
from fedwon.server.rounds.events import Listener, RunStarted
from fedwon.server.rounds.site_grid import SiteGrid
from fedwon.server.rounds.strategy import FedWon
from fedwon.server.runs.run import Run
from fedwon.server.runs.starting import check_start
from fedwon.server.secure.strategy import SecureFedWon
from fedwon.server.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        run: its name.
        model: the file of the global model.
        evaluation: the final model on every site.
    """

    run: str
    model: Path
    evaluation: Evaluation


def agree_on_classes(config: RunConfig, grid: SiteGrid) -> tuple[str, ...]:
    """Return the class names in the order of the network's outputs.

    Those of the configuration; without them the union of what the connected sites have, sorted. Names agree, not
    positions: a site that lacks a class still uses the same output for each of the others.

    Raises:
        ClassMismatch: the sites have fewer than two classes between them.
    """
    if config.classes is not None:
        return config.classes
    surveys = {site: grid.survey(site) or {} for site in grid.sites()}
    names = sorted({name for survey in surveys.values() for name in class_names(survey)})
    if len(names) < 2:
        raise ClassMismatch(
            f"The connected sites ({listed(list(surveys)) or 'none'}) have {len(names)} classes between them; "
            "two are the least that can be learnt."
        )
    return tuple(names)


def federate(
    grid: SiteGrid,
    config: RunConfig,
    store: Store,
    root: Path,
    *,
    listeners: Sequence[Listener] = (),
    resume: bool = False,
) -> Outcome:
    """Run a federation: all rounds, then the final model on every site.

    Args:
        grid: the sites.
        config: what is trained and how; a resumed run keeps its own.
        store: the server's database.
        root: the server's folder.
        listeners: told what happens.
        resume: go on with the newest unfinished run.

    Raises:
        RunMissing: there is nothing to resume.
        ConfigError: there is no such network, or not with these settings.
        TooFewUpdates: a round could not be completed; committed rounds are kept.
        StorageError: the folder or the database failed.
    """
    host_app()
    run = Run.unfinished(store, root, listeners) if resume else None
    if run is None:
        check_start(config)
    grid.wait_for_sites((run.config if run else config).participation.minimum)
    if run is None:
        run = Run.create(store, root, config, agree_on_classes(config, grid), listeners)
    else:
        run.take_up()
    grid.begin_run(run.spool)
    try:
        return _complete(grid, run)
    except BaseException as error:  # also Ctrl-C in a simulation: no run is left as if it went on
        _break_off(grid, run, error)
        raise


def _break_off(grid: SiteGrid, run: Run, error: BaseException) -> None:
    state = "stopped" if isinstance(error, Stopped | KeyboardInterrupt) else "failed"
    try:
        run.finish(state, _reason(error))
    except FedwonError as second:  # the disk that broke the run may be the database's as well
        logger.error("the end of run %s could not be noted: %s", run.id, second.message)  # noqa: TRY400
    grid.run_ended(run.id, state)


def _reason(error: BaseException) -> str:
    if isinstance(error, FedwonError):
        return error.message
    return "Ctrl-C was pressed." if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def _complete(grid: SiteGrid, run: Run) -> Outcome:
    if run.config.drift.alarm:
        run.listeners.append(DriftWatch(run))
    done, record = run.last()
    rounds, deadline = run.config.rounds, run.config.participation.deadline_seconds
    run.tell(RunStarted(run.id, rounds, done, tuple(grid.sites())))
    if done < rounds:
        strategy = SecureFedWon if run.config.aggregation.secure.enabled else FedWon
        strategy(run, grid, done).start(grid, record, num_rounds=rounds - done, timeout=deadline)
    _, final = run.last()
    if not grid.sites():  # all of them rest, or are away; if none comes in time, the run ends without scores
        with run.paused("it waits for a site that may measure the final model"):
            grid.wait_for_arrival(deadline)
    surveyed = run.config.admission.surveyed
    evaluation = evaluate_model(grid, run.task(rounds), final, timeout=deadline, surveyed=surveyed)
    grid.wait_for_sites(0)  # raises Stopped: a server that goes down has no sites left that could have answered
    with run.together():
        for score in evaluation.scores:
            values = {"correct": score.correct, "examples": score.examples, "loss": score.loss}
            run.measured(rounds, score.site, {f"{score.part}-{key}": value for key, value in values.items()})
    path = run.finish("finished")
    grid.run_ended(run.id, "finished")
    if path is None:
        raise AssertionError("a finished run has a model")
    return Outcome(run.id, path, evaluation)
