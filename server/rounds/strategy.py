"""FedWon's strategy: plain FedAvg on networks without normalization, made for factories.

Source: Zhuang and Lyu, FedWon, ICLR 2024, over Flower's `FedAvg`. What differs from Flower's: sites are chosen with the
run's seed, nothing is waited for by polling, updates are looked at before they count and averaged from disk in a fixed
order, a round with too few answers is repeated and then pauses, late answers may count in a later round, and every
round is committed before the next begins.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedwon.common.arrays import StoredRecord
from fedwon.common.codec import PLAIN, TRAFFIC, named
from fedwon.common.errors import FedwonError, Stopped, TooFewUpdates
from fedwon.common.flower import set_message_id
from fedwon.common.model_file import network
from fedwon.common.surveys import Survey
from fedwon.models import local_names, trainable_names
from fedwon.server.admission.suspension import suspended
from fedwon.server.identity.naming import listed
from fedwon.server.rounds.answers import Accepted, Answers, Missing, round_of
from fedwon.server.rounds.events import RoundStarted
from fedwon.server.rounds.next_model import NextModel
from fedwon.server.rounds.site_grid import SiteGrid, metrics_of, node_id_of
from fedwon.server.runs.privacy_spent import EPSILON
from fedwon.server.runs.run import Run
from fedwon.server.runs.wishes import HELD, PAUSE, STOP

logger = logging.getLogger(__name__)


def task_id(run: str, number: int, kind: str, site: str) -> str:
    """Name a task; the same task has the same name after a restart, so that nothing is done twice."""
    return f"{run}.r{number:04d}.{kind}.{site}"


def choose(sites: Sequence[str], fraction: float, seed: int, number: int) -> list[str]:
    """Choose the sites of a round: a share of those that are there, at least one, drawn with seed and round.

    Returns:
        Names, sorted.
    """
    count = max(1, round(fraction * len(sites)))
    return sorted(random.Random(f"{seed}/{number}").sample(sorted(sites), count))


def _epsilon(answer: Accepted) -> float | None:
    """What a site says its images' privacy has cost in this run."""
    told = metrics_of(answer.metrics).get(EPSILON)
    return None if told is None else float(told)


class FedWon(FedAvg):
    """FedAvg with admission, quorum, pauses and commits.

    Args:
        run: the run whose rounds these are.
        grid: its sites.
        done: rounds committed before, so that Flower's round 1 is round `done + 1`.

    Raises:
        TypeError: the grid does not know its sites by name.
    """

    def __init__(self, run: Run, grid: Grid, done: int = 0) -> None:
        if not isinstance(grid, SiteGrid):
            raise TypeError("FedWon needs a SiteGrid: it knows sites by name")
        settings = run.config.participation
        super().__init__(
            fraction_train=settings.fraction,
            min_train_nodes=1,
            min_available_nodes=settings.minimum,
        )
        # A train reply brings the site's evaluation of the incoming model: no round of evaluation of its own.
        self.fraction_evaluate = 0.0
        self.tracked, self.done, self._grid = run, done, grid
        self._sent: dict[str, Message] = {}
        self._surveys: dict[str, Survey | None] = {}
        self._content = RecordDict()
        self._late: dict[str, Message] = {}
        trained = network(run.task(0))
        self._local = local_names(trained, run.config.rules.keeps)
        self._next = NextModel(run, trainable_names(trained) - self._local)
        last = run.last()[1]
        self._reference: ArrayRecord = last
        self._answers = Answers(run, grid, self._shared(self._reference), self._surveys)
        self._started = 0.0
        self._announce(done, last)

    def summary(self) -> None:
        """Log what this run does."""
        config = self.tracked.config
        logger.info(
            "run %s: %s on %s (width %g), %d rounds, batch %d, lr %g",
            self.tracked.id,
            config.method,
            config.model.name,
            config.model.width,
            config.rounds,
            config.training.batch_size,
            config.training.lr,
        )

    def _shared(self, arrays: ArrayRecord) -> ArrayRecord:
        return ArrayRecord({name: array for name, array in arrays.items() if name not in self._local})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for enough sites, choose those of the round, and make their tasks.

        A site that still works on a task of an earlier round, and may be late with it, is not asked for another one.
        """
        del grid
        settings, number = self.tracked.config.participation, self.done + server_round
        self._heed()
        here = self._wait_for_sites(settings.minimum)
        self._started, self._reference = time.monotonic(), arrays
        self._content = RecordDict({"arrays": arrays, "config": self._told(number, config)})
        if (codec := self.tracked.config.traffic.up) != PLAIN:
            self._content[TRAFFIC] = named(codec)
        chosen = choose(here, settings.fraction, self.tracked.config.seed, number)
        for site in self._surveys.keys() - self._late.keys():
            del self._surveys[site]
        self._sent = {}
        self._ask(number, [site for site in chosen if site not in self._late])
        self._sent |= self._late
        self.tracked.tell(RoundStarted(number, tuple(sorted(self._sent))))
        return list(self._sent.values())

    def _told(self, number: int, config: ConfigRecord) -> ConfigRecord:
        """Return what sites are told beside the model."""
        return ConfigRecord({**self.tracked.task(number).flat(), **config})

    def _wait_for_sites(self, minimum: int) -> Sequence[str]:
        """Return the sites that are there, once they are enough; a moment later there may be fewer, or none."""
        while len(here := self._here()) < minimum:  # one may leave again before it is counted
            with self.tracked.paused(f"it waits until {minimum} sites are connected and may work"):
                self._grid.wait_for_sites_or_wish(minimum)
            self._heed()
        return here

    def _heed(self) -> None:
        """Do at the border of a round what the operator wishes of the run: nothing, a pause, or its end.

        Raises:
            Stopped: its end; or the server was stopped during the pause.
        """
        self._grid.heeded(wish := self.tracked.wish)
        if wish == PAUSE:
            with self.tracked.paused(HELD):
                while (wish := self.tracked.wish) == PAUSE:
                    self._grid.wait_for_wish(wish)
        self._stop_if(wish)

    def _stop_if(self, wish: str) -> None:
        if wish == STOP:
            self.tracked.grant()
            raise Stopped("An operator asked the run to stop at the end of its round.")

    def _here(self) -> list[str]:
        """Return the sites that can be asked, without those that are suspended."""
        out = suspended(self.tracked.store)
        self._grid.suspend(out)
        return [site for site in self._grid.sites() if site not in out]

    def _ask(self, number: int, sites: Sequence[str]) -> None:
        """Make tasks of a round for these sites."""
        for site in sites:
            content = self._content_for(site)
            message = Message(content, dst_node_id=node_id_of(site), message_type="train", group_id=str(number))
            set_message_id(message, task_id(self.tracked.id, number, self._kind(), site))
            self._surveys[site] = self._grid.survey(site)
            self._sent[site] = message
        with self.tracked.soon():
            self._note_sent(sites)

    def _content_for(self, site: str) -> RecordDict:
        """Return what a site is asked to train."""
        del site
        return self._content

    def _kind(self) -> str:
        """Return the word for training tasks in their names; another word makes other tasks of them."""
        return "train"

    def _note_sent(self, sites: Iterable[str]) -> None:
        for site in sites:
            task = self._sent[site]
            self.tracked.sent(task.metadata.message_id, round_of(task), site, "train")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Look at each update as it comes, average the good ones and commit the round.

        Raises:
            TooFewUpdates: the round stayed below its quorum however often it was repeated, and it may not pause.
            Stopped: the server was stopped meanwhile.
        """
        number = self.done + server_round
        accepted, missing = self._answers.collect(number, self._sent, replies)
        missing |= self._answers.compare(number, self._sent, accepted)
        while len(accepted) < self._needed():
            for _ in range(self.tracked.config.participation.retries):
                if len(accepted) >= self._needed():
                    break
                missing = self._repeat(number, accepted)
            if len(accepted) < self._needed():
                if not self._newcomers():
                    self._pause(number, accepted, missing)
                self._ask(number, self._newcomers())
                missing = self._repeat(number, accepted)
        counting = accepted | self._released(number, accepted)
        with self.tracked.soon():
            self.tracked.admitted([one.past for one in counting.values()])
        return self._commit(number, counting, missing)

    def _released(self, number: int, accepted: Mapping[str, Accepted]) -> dict[str, Accepted]:
        """Return the refused updates that an operator let out, as late as they are."""
        return self._answers.released(number, {one.task for one in accepted.values()})

    def _newcomers(self) -> list[str]:
        """Return the sites that are connected and were not asked in this round."""
        return [site for site in self._here() if site not in self._sent]

    def _needed(self) -> int:
        settings = self.tracked.config.participation
        return min(settings.quorum or settings.minimum, len(self._sent))

    def _repeat(self, number: int, accepted: dict[str, Accepted]) -> dict[str, Missing]:
        """Ask the sites again whose answers do not count; return which are missing still, and why."""
        asked = {site: message for site, message in self._sent.items() if site not in accepted}
        logger.warning("round %d has too few answers; asking again: %s", number, listed(sorted(asked)))
        with self.tracked.together():
            self._note_sent(asked)
        timeout = self.tracked.config.participation.deadline_seconds
        more, missing = self._answers.collect(
            number, asked, self._grid.send_and_receive(list(asked.values()), timeout=timeout)
        )
        accepted |= more
        return missing | self._answers.compare(number, self._sent, accepted)

    def _pause(self, number: int, accepted: Mapping[str, Accepted], missing: Mapping[str, Missing]) -> None:
        """Wait for another site, or for some time.

        Raises:
            TooFewUpdates: the run's settings, or a simulation, know no pause.
        """
        retries = self.tracked.config.participation.retries
        reason = (
            f"Round {number} of {self.tracked.id} has {len(accepted)} usable updates of {self._needed()} needed "
            f"({retries} repetitions); missing: "
            + listed([f"{site} ({missing[site].reason.rstrip('.')})" for site in sorted(missing)], between="; ")
            + "."
        )
        self._rest(TooFewUpdates(reason))
        self.tracked.tell(RoundStarted(number, tuple(sorted({*self._sent, *self._newcomers()} - accepted.keys()))))

    def _rest(self, why: FedwonError) -> None:
        """Wait for another site, or for some time, in the middle of a round.

        Raises:
            FedwonError: `why`, where the run's settings, or a simulation, know no pause.
            Stopped: the operator asked for the end.
        """
        seconds = self.tracked.config.participation.pause_seconds
        if seconds is None:
            raise why
        with self.tracked.paused(why.message):
            if not self._grid.wait_for_arrival(seconds):
                raise why
        self._stop_if(self.tracked.wish)  # the round in hand may never end

    def _averaged(self, counting: Sequence[Accepted]) -> ArrayRecord:
        """Make the updates of a round one."""
        return self._next.mean(counting, self._reference)

    def _commit(
        self, number: int, accepted: Mapping[str, Accepted], missing: Mapping[str, Missing]
    ) -> tuple[ArrayRecord, MetricRecord | None]:
        counting = [accepted[key] for key in sorted(accepted)]
        sites, costs = sorted({one.update.site for one in counting}), dict[str, Any]()
        if self.tracked.config.privacy.sites.noise is None:
            averaged = self._averaged(counting)
        else:
            averaged, costs = self._next.private_mean(counting, self._reference)
        metrics = self.train_metrics_aggr_fn([one.metrics for one in counting], self.weighted_by_key)
        made = self._next.make(number, averaged, self._reference)
        seconds, tasks = time.monotonic() - self._started, [one.task for one in counting]
        costs["told"] = {one.update.site: spent for one in counting if (spent := _epsilon(one)) is not None}
        costs |= {"delta": made.delta, "velocity": made.velocity, "averaged": tasks}
        stored = self.tracked.commit(number, made.model, seconds=seconds, sites=sites, **costs)
        self._announce(number, stored)
        self._close(number, missing)
        return stored, metrics

    def _announce(self, number: int, model: StoredRecord) -> None:
        """Tell the grid how sites may get this model with fewer bytes, if there is a way."""
        delta = self.tracked.checkpoints.delta(number)
        if delta is not None:
            self._grid.shorten(model.blob.digest, delta)

    def _close(self, number: int, missing: Mapping[str, Missing]) -> None:
        """Tell the sites that the round is over; what may be late is carried on."""
        self._late = {
            site: self._sent[site]
            for site in missing
            if missing[site].state == "late" and self._answers.may_be_late(number, self._sent[site])
        }
        kept = {task.metadata.message_id for task in self._late.values()}
        asked = [task.metadata.message_id for task in self._sent.values()]
        self._grid.committed(self.tracked.id, number, [name for name in asked if name not in kept])
        self.tracked.clear_spool(keeping=kept)
