"""FedWon's strategy: plain FedAvg on networks without normalization, made for factories.

Source: Zhuang and Lyu, FedWon, ICLR 2024, over Flower's `FedAvg`. What differs from Flower's: sites are chosen with the
run's seed, nothing is waited for by polling, updates are looked at before they count and averaged from disk in a fixed
order, a round with too few answers is repeated, and every round is committed before the next begins.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedwon.common.arrays import StoredRecord, open_record, write_record
from fedwon.common.errors import TooFewUpdates
from fedwon.common.flower import set_message_id
from fedwon.common.model_file import network
from fedwon.models import local_names
from fedwon.server.admission import refuse
from fedwon.server.aggregation import Update, average
from fedwon.server.events import RoundStarted, SiteAnswered, SiteFailed, SiteNoted
from fedwon.server.notes import notes_of
from fedwon.server.runs import Run
from fedwon.server.site_grid import SiteGrid, Survey, Traffic, metrics_of, node_id_of

logger = logging.getLogger(__name__)

Accepted = dict[str, tuple[Update, RecordDict]]
"""Updates that count, by site, each with its numbers."""


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


class FedWon(FedAvg):
    """FedAvg with admission, quorum and commits.

    Args:
        run: the run whose rounds these are.
        done: rounds committed before, so that Flower's round 1 is round `done + 1`.
    """

    def __init__(self, run: Run, done: int = 0) -> None:
        settings = run.config.participation
        super().__init__(
            fraction_train=settings.fraction,
            min_train_nodes=1,
            min_available_nodes=settings.minimum,
        )
        # A train reply brings the site's evaluation of the incoming model: no round of evaluation of its own.
        self.fraction_evaluate = 0.0
        self.tracked, self.done = run, done
        self._sent: dict[str, Message] = {}
        self._surveys: dict[str, Survey | None] = {}
        self._grid: SiteGrid | None = None
        self._reference, self._shared = ArrayRecord(), ArrayRecord()
        self._local = local_names(network(run.task(0)), run.config.rules.keeps)
        self._started = 0.0
        self._noted: dict[str, str] = {}

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

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for enough sites, choose those of the round, and make their tasks."""
        if not isinstance(grid, SiteGrid):
            raise TypeError("FedWon needs a SiteGrid: it knows sites by name")
        settings, number = self.tracked.config.participation, self.done + server_round
        while len(sites := grid.sites()) < settings.minimum:  # one may leave again before it is counted
            grid.wait_for_sites(settings.minimum)
        chosen = choose(sites, settings.fraction, self.tracked.config.seed, number)
        self._grid, self._reference, self._started = grid, arrays, time.monotonic()
        self._shared = ArrayRecord({name: array for name, array in arrays.items() if name not in self._local})
        self._surveys = {site: grid.survey(site) for site in chosen}
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({**self.tracked.task(number).flat(), **config})})
        self._sent = {site: self._message(content, number, site) for site in chosen}
        self.tracked.tell(RoundStarted(number, tuple(chosen)))
        return list(self._sent.values())

    def _message(self, content: RecordDict, number: int, site: str) -> Message:
        message = Message(content, dst_node_id=node_id_of(site), message_type="train", group_id=str(number))
        name = task_id(self.tracked.id, number, "train", site)
        set_message_id(message, name)
        self.tracked.sent(name, number, site, "train")
        return message

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Look at each update as it comes, average the good ones and commit the round.

        Raises:
            TooFewUpdates: the round stayed below its quorum however often it was repeated.
        """
        number, settings = self.done + server_round, self.tracked.config.participation
        needed = min(settings.quorum or settings.minimum, len(self._sent))
        accepted = self._collect(number, self._sent, replies)
        for _ in range(settings.retries):
            if len(accepted) >= needed:
                break
            accepted |= self._repeat(number, [site for site in self._sent if site not in accepted])
        if len(accepted) < needed:
            missing = ", ".join(site for site in self._sent if site not in accepted)
            raise TooFewUpdates(
                f"Round {number} of {self.tracked.id} has {len(accepted)} usable updates of {needed} needed "
                f"({settings.retries} repetitions); missing: {missing}."
            )
        return self._commit(number, accepted)

    def _repeat(self, number: int, sites: Sequence[str]) -> Accepted:
        if self._grid is None:
            raise TypeError("a round is repeated only after it was configured")
        logger.warning("round %d has too few answers; asking again: %s", number, ", ".join(sites))
        for site in sites:
            self.tracked.sent(task_id(self.tracked.id, number, "train", site), number, site, "train")
        timeout = self.tracked.config.participation.deadline_seconds
        messages = [self._sent[site] for site in sites]
        return self._collect(number, sites, self._grid.send_and_receive(messages, timeout=timeout))

    def _collect(self, number: int, asked: Iterable[str], replies: Iterable[Message]) -> Accepted:
        names = {node_id_of(site): site for site in asked}
        accepted: Accepted = {}
        for reply in replies:
            site = names.pop(reply.metadata.src_node_id)
            if reply.has_error():
                self._note_failure(number, site, reply.error.reason or "no reason given", "failed")
                continue
            outcome = self._examine(number, site, reply.content)
            if isinstance(outcome, Update):
                accepted[site] = (outcome, RecordDict({"metrics": MetricRecord(metrics_of(reply.content))}))
            else:
                self._note_failure(number, site, outcome, "refused")
        for site in names.values():
            self._note_failure(number, site, "no answer before the round closed", "late")
        return accepted

    def _examine(self, number: int, site: str, content: RecordDict) -> Update | str:
        """Return the update in a reply, or the reason why it is refused."""
        name, metrics = task_id(self.tracked.id, number, "train", site), metrics_of(content)
        if len(content.array_records) != 1:
            self._discount(name)
            return "the answer does not hold one record of arrays"
        record = self._stored(name, next(iter(content.array_records.values())))
        reason = refuse(record, metrics, self._shared, self._images_of(site))
        if reason is not None:
            self._discount(name)
            self.tracked.quarantined(record.blob.path)
            return reason
        self._note_answer(number, site, metrics)
        self._note_images(site, notes_of(content))
        return Update(site, int(metrics["num-examples"]), record)

    def _discount(self, name: str) -> None:
        if self._grid is not None:
            self._grid.discount(name)

    def _images_of(self, site: str) -> int | None:
        """Return how many images a site said it has; when it has left meanwhile, what it said when it was asked."""
        survey = (self._grid.survey(site) if self._grid else None) or self._surveys.get(site)
        return (
            None if survey is None else sum(row.get("train", 0) + row.get("validation", 0) for row in survey.values())
        )

    def _stored(self, name: str, record: ArrayRecord) -> StoredRecord:
        if isinstance(record, StoredRecord):
            return record
        path = self.tracked.spool / f"{name}.safetensors"
        blob = write_record(record, path)
        return open_record(path, digest=blob.digest)

    def _note_answer(self, number: int, site: str, metrics: Mapping[str, float]) -> None:
        name = task_id(self.tracked.id, number, "train", site)
        cost = self._grid.traffic(name) if self._grid else Traffic()
        self.tracked.settled(name, "received", cost=cost)
        looked = {key: value for key, value in metrics.items() if key.startswith("validation")}
        self.tracked.measured(number - 1, site, looked)
        self.tracked.measured(number, site, {key: value for key, value in metrics.items() if key not in looked})
        self.tracked.tell(SiteAnswered(number, site, metrics, number - 1, cost.seconds, cost.bytes_down, cost.bytes_up))

    def _note_images(self, site: str, text: str) -> None:
        if text and self._noted.get(site) != text:
            self._noted[site] = text
            self.tracked.store.audit("images", site, text)
            self.tracked.tell(SiteNoted(site, text))

    def _note_failure(self, number: int, site: str, reason: str, state: str) -> None:
        self.tracked.settled(task_id(self.tracked.id, number, "train", site), state, reason=reason)
        self.tracked.tell(SiteFailed(number, site, reason))

    def _commit(self, number: int, accepted: Accepted) -> tuple[ArrayRecord, MetricRecord | None]:
        settings, sites = self.tracked.config.aggregation, sorted(accepted)
        updates = [accepted[site][0] for site in sites]
        averaged = average(updates, settings.weights, settings.weight_cap)
        metrics = self.train_metrics_aggr_fn([accepted[site][1] for site in sites], self.weighted_by_key)
        seconds = time.monotonic() - self._started
        # What stays at the sites keeps its first value in the global model: sites start from it.
        whole = ArrayRecord({name: averaged.get(name, array) for name, array in self._reference.items()})
        stored = self.tracked.commit(number, whole, seconds=seconds, sites=sites)
        for site in sites:
            self.tracked.settled(task_id(self.tracked.id, number, "train", site), "averaged")
        if self._grid is not None:
            asked = [task_id(self.tracked.id, number, "train", site) for site in self._sent]
            self._grid.committed(self.tracked.id, number, asked)
        self.tracked.clear_spool()
        return stored, metrics
