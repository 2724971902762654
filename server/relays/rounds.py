"""The rounds of a relay: those of the strategy, up to the average; the parent makes a global model of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedwon.common.errors import TaskFailed, TooFewUpdates
from fedwon.common.methods import METHODS, Method, MethodName
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.server.aggregation.combining import Combined, combine, combined_metrics
from fedwon.server.link.grid import GrpcGrid
from fedwon.server.rounds.answers import Accepted, Missing, round_of
from fedwon.server.rounds.evaluation import measurements
from fedwon.server.rounds.site_grid import metrics_of
from fedwon.server.rounds.strategy import FedWon
from fedwon.server.runs.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Answered:
    """A round whose mean went to the parent, and which the parent has not committed yet."""

    number: int
    sites: Sequence[str]
    missing: Mapping[str, Missing]


class RelayRounds(FedWon):
    """The rounds of one run of the parent at the relay's own sites.

    Choice of sites, admission, quorum, repetition and pause are the strategy's, by the relay's own settings. A round
    ends with one answer to the parent. Until the parent has committed it, the sites keep what they sent.

    Args:
        run: the parent's run in the relay's own folder; the model of the round before is committed.
        grid: the relay's sites.
    """

    def __init__(self, run: Run, grid: GrpcGrid) -> None:
        super().__init__(run, grid)
        self._combined: Combined | None = None
        self._answered: _Answered | None = None

    def round(self, number: int, model: ArrayRecord, config: ConfigRecord) -> Combined:
        """Let the sites train, and combine their answers.

        Args:
            number: the parent's round.
            model: the parent's global model.
            config: what the parent tells its sites, handed on as it is.

        Raises:
            TooFewUpdates: too few sites answered, and the relay's settings know no pause.
            Stopped: the work was broken off.
        """
        self.settle(number - 1)
        # the parent asks for this round again, or has gone back: what came of it, or later, is not told any more
        self._combined = self._answered = None
        self._late = {site: task for site, task in self._late.items() if round_of(task) < number}
        messages = self.configure_train(number, model, config, self._grid)
        deadline = self.tracked.config.participation.deadline_seconds
        self.aggregate_train(number, self._grid.send_and_receive(messages, timeout=deadline))
        if self._combined is None:
            raise AssertionError("a round ends with its answer")
        return self._combined

    def _told(self, number: int, config: ConfigRecord) -> ConfigRecord:
        del number
        return config

    def _released(self, number: int, accepted: Mapping[str, Accepted]) -> dict[str, Accepted]:
        """Return nothing: the round's answer is for the parent, and only for this round."""
        del number, accepted
        return {}

    def _commit(
        self, number: int, accepted: Mapping[str, Accepted], missing: Mapping[str, Missing]
    ) -> tuple[ArrayRecord, MetricRecord | None]:
        sites = sorted(accepted)
        numbers = [metrics_of(accepted[site].metrics) for site in sites]
        self._combined = combine([accepted[site].update for site in sites], numbers, self.tracked.config.aggregation)
        self._answered = _Answered(number, sites, missing)
        self._release(number, missing)
        return self._reference, MetricRecord(dict(self._combined.metrics))

    def _release(self, number: int, missing: Mapping[str, Missing]) -> None:
        """Let sites stop that did not answer in time; the others keep their updates until the parent has committed."""
        tasks = [self._sent[site] for site in missing]
        gone = [task for task in tasks if not self._answers.may_be_late(number, task)]
        self._grid.committed(self.tracked.id, number, [task.metadata.message_id for task in gone])

    def settle(self, number: int) -> None:
        """Tell the sites that the parent has committed this round and those before, or has gone on without them."""
        done = self._answered
        if done is None or done.number > number:
            return
        with self.tracked.together():
            for site in done.sites:
                self.tracked.settled(self._sent[site].metadata.message_id, "averaged")
        self._close(done.number, done.missing)
        self._answered = None


def evaluate_below(
    grid: GrpcGrid, content: RecordDict, *, number: int, name: Callable[[str], str], timeout: float, surveyed: bool
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Let every connected site measure a model.

    Args:
        grid: the sites.
        content: model and task, handed on as they are.
        number: the round of the model.
        name: makes the name of a site's task.
        timeout: seconds to wait at most.
        surveyed: whether a site that measured on more images than it says it has is left out.

    Returns:
        The numbers of all together, and those of each site.

    Raises:
        TooFewUpdates: no site answered.
        Stopped: the work was broken off.
    """
    grid.wait_for_sites(1)
    found, reasons = measurements(grid, content, number=number, name=name, timeout=timeout, surveyed=surveyed)
    left_out = "; ".join(f"{site} ({reason.rstrip('.')})" for site, reason in sorted(reasons.items()))
    if not found:
        raise TooFewUpdates(f"No site of this relay could measure the model: {left_out}.")
    if left_out:
        logger.warning("the model was not measured at: %s", left_out)
    return combined_metrics([found[site] for site in sorted(found)]), found


def config_of(task: TaskConfig, own: RunConfig) -> RunConfig:
    """Return the configuration of a parent's run as far as a relay knows it.

    What is trained and how is the parent's; who takes part, how answers are weighed and what is kept is the relay's.
    A relay hears of a round when it is asked for, so the rounds are those so far.

    Args:
        task: what the parent tells its sites.
        own: `run` in the relay's server.yaml.
    """
    return own.model_copy(
        update={
            "method": _method(task, own.method),
            "seed": task.seed,
            "rounds": max(task.round, 1),
            "classes": task.classes,
            "model": task.model,
            "pretrained": None,
            "images": task.images,
            "training": task.training,
        }
    )


def _method(task: TaskConfig, likely: MethodName) -> MethodName:
    """Name the method: a task says what it does and not how it is called.

    Raises:
        TaskFailed: no method does that.
    """
    kind = task.normalization, task.keeps
    fitting = [name for name, rules in METHODS.items() if (rules.normalization, rules.keeps) == kind]
    if not fitting:
        raise TaskFailed("The parent's task is of a method that this version does not know.")
    return min(fitting, key=lambda name: (_unlike(METHODS[name], task), name != likely))


def _unlike(method: Method, task: TaskConfig) -> int:
    freezes = task.frozen_statistics and method.freezes_after == 1
    return freezes + (method.proximal_mu != (task.training.proximal_mu or 0.0))
