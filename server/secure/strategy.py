"""The rounds of a run whose updates the server may not see: a sitting around each.

Keys and shares go ahead of the training task, so whoever is away is known before anybody masks; training is the longest
part of a round, and a site that is lost in it costs nothing but its update. A round whose sum cannot be opened is asked
for again in a new sitting, with new keys: nothing of a sitting is ever used in another one, also after a crash of the
server, which keeps nothing of a sitting on its disk.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedwon.common.errors import FedwonError, NotASum, TooFewUpdates
from fedwon.common.flower import set_message_id
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.graph import FEWEST
from fedwon.common.secagg.masking import Mask
from fedwon.common.secagg.messages import Keys, M, MaskOrder, Revealed, Shares, pack, unpack
from fedwon.common.secagg.stages import SECURE, SETUP, SHARE_KEYS, UNMASK
from fedwon.common.surveys import images_in
from fedwon.server.identity.naming import listed
from fedwon.server.rounds.answers import Accepted, Answers, Missing
from fedwon.server.rounds.events import RoundStarted, SiteFailed
from fedwon.server.rounds.site_grid import node_id_of
from fedwon.server.rounds.strategy import FedWon, choose, task_id
from fedwon.server.runs.run import Run
from fedwon.server.secure.sitting import Sitting
from fedwon.server.secure.summing import add_up, masked_layout, mean_of

logger = logging.getLogger(__name__)

UNKNOWN = 2.0**20
"""Largest weight where no site said how many images it has."""


class SecureFedWon(FedWon):
    """FedWon with masked updates; the arguments are FedWon's."""

    def __init__(self, run: Run, grid: Grid, done: int = 0) -> None:
        super().__init__(run, grid, done)
        self._secure = run.config.aggregation.secure
        self._answers = Answers(run, self._grid, masked_layout(self._shared(self._reference)), self._surveys)
        self._sitting, self._orders = Sitting(), dict[str, MaskOrder]()
        self._mean = ArrayRecord()

    def _ask(self, number: int, sites: Sequence[str]) -> None:
        """Hold a sitting of these sites as far as the shares, and make tasks for those that are left."""
        self._sitting, self._orders = self._seated(number, sites)
        super()._ask(number, sorted(self._orders))

    def _content_for(self, site: str) -> RecordDict:
        return RecordDict({**self._content, SECURE: pack(self._orders[site])})

    def _kind(self) -> str:
        return f"train-{self._sitting.name}"

    def _seated(self, number: int, sites: Sequence[str]) -> tuple[Sitting, dict[str, MaskOrder]]:
        """Bring keys and shares of enough sites together.

        Raises:
            TooFewUpdates: too few are there, and the run may not pause.
            Stopped: the server was stopped, or an operator asked for the end of the run.
        """
        while True:
            sitting, orders = self._tried(number, sites)
            needed = max(FEWEST, self._quorum(sites))
            if len(orders) >= needed:
                return sitting, orders
            asked = listed(sorted(sites)) or "none"
            self._rest(
                TooFewUpdates(
                    f"In round {number} of {self.tracked.id} {len(orders)} sites could agree on masks, of {needed} "
                    f"needed (asked: {asked})."
                )
            )
            sites = self._drawn(number)

    def _tried(self, number: int, sites: Sequence[str]) -> tuple[Sitting, dict[str, MaskOrder]]:
        """Hold a sitting as far as the shares; where sites are lost between keys and shares, again without these."""
        left, retries = sites, self.tracked.config.participation.retries
        while True:
            sitting = Sitting(self._secure.neighbours)
            begun = self._stage(number, SETUP, sitting, dict.fromkeys(left, sitting.setup), Keys)
            circles = sitting.circles(begun)
            orders = self._ordered(sitting, self._stage(number, SHARE_KEYS, sitting, circles, Shares), left)
            if (orders and len(orders) == len(circles)) or not retries:
                return sitting, orders
            left, retries = sorted(orders) or sites, retries - 1

    def _quorum(self, sites: Sequence[str]) -> int:
        settings = self.tracked.config.participation
        return min(settings.quorum or settings.minimum, len(sites))

    def _ordered(self, sitting: Sitting, shares: Mapping[str, Shares], sites: Sequence[str]) -> dict[str, MaskOrder]:
        return sitting.orders(
            shares,
            clip_norm=self._secure.clip_norm,
            largest_weight=self._largest_weight(sites),
            by_examples=self.tracked.config.aggregation.weights == "examples",
        )

    def _largest_weight(self, sites: Sequence[str]) -> float:
        """Return up to what images count as weight: those of the largest site, or `weight_cap` medians."""
        surveys = {site: self._grid.survey(site) for site in sites}
        config = self.tracked.config
        found = [images_in(survey, ("train",)) for survey in surveys.values() if survey]
        counts = [min(count, config.images.max_train or count) for count in found]
        if not any(counts):
            return UNKNOWN
        return float(min(max(counts), config.aggregation.weight_cap * max(statistics.median(counts), 1)))

    def _stage(
        self, number: int, stage: str, sitting: Sitting, requests: Mapping[str, object], kind: type[M]
    ) -> dict[str, M]:
        """Ask sites something and return what they answer, by site; whoever does not is told of, and left out."""
        asked = {node_id_of(site): site for site in requests}
        messages = []
        for site, request in requests.items():
            content = RecordDict({SECURE: pack(request)})
            message = Message(
                content, dst_node_id=node_id_of(site), message_type=f"query.{stage}", group_id=str(number)
            )
            set_message_id(message, task_id(self.tracked.id, number, f"{stage}-{sitting.name}", site))
            messages.append(message)
        answers, reasons = dict[str, M](), dict.fromkeys(requests, "no answer in time")
        for reply in self._grid.send_and_receive(messages, timeout=self._secure.stage_seconds):
            site = asked[reply.metadata.src_node_id]
            found = _read(kind, reply)
            if isinstance(found, str):
                reasons[site] = found
            else:
                answers[site] = found
        for site in sorted(requests.keys() - answers.keys()):
            reason = f"in secure aggregation ({stage.removeprefix('secagg_')}): {reasons[site]}"
            self.tracked.tell(SiteFailed(number, site, reason))
        return answers

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the masked updates of a round, open their sum and commit the round.

        Raises:
            TooFewUpdates: the sum could not be opened however often the round was asked for, and it may not pause.
            NotASum: the same, because somebody sends what is none.
            Stopped: the server was stopped meanwhile.
        """
        number, attempts = self.done + server_round, 0
        while True:
            accepted, missing = self._collected(number, replies)
            try:
                self._mean = self._opened(number, accepted)
            except (TooFewUpdates, NotASum) as error:
                attempts += 1
                replies = self._once_more(number, error, pausing=attempts > self.tracked.config.participation.retries)
            else:
                break
        with self.tracked.soon():
            self.tracked.admitted([one.past for one in accepted.values()])
        return self._commit(number, accepted, missing)

    def _averaged(self, counting: Sequence[Accepted]) -> ArrayRecord:
        del counting  # what they add up to is known by now
        return self._mean

    def _collected(self, number: int, replies: Iterable[Message]) -> tuple[dict[str, Accepted], dict[str, Missing]]:
        """Take the masked updates; where too few came to open their sum, ask those that are missing again."""
        accepted, missing = self._answers.collect(number, self._sent, replies)
        missing |= self._answers.compare(number, self._sent, accepted)
        for _ in range(self.tracked.config.participation.retries):
            if len(accepted) >= self._needed() and self._sitting.shortfall(accepted) is None:
                break
            missing = self._repeat(number, accepted)
        return accepted, missing

    def _opened(self, number: int, accepted: Mapping[str, Accepted]) -> ArrayRecord:
        """Take the masks off the sum of these updates; return the model moved by their mean.

        Raises:
            TooFewUpdates: too few updates, or too few sites that help to take the masks off.
            NotASum: what is left is no sum of updates.
        """
        if len(accepted) < self._needed():
            raise TooFewUpdates(
                f"Round {number} of {self.tracked.id} has {len(accepted)} masked updates of {self._needed()} needed."
            )
        masks = self._taken_off(number, accepted)
        order, counting = next(iter(self._orders.values())), [accepted[site] for site in sorted(accepted)]
        counts = [float(one.update.examples) if order.by_examples else order.largest_weight for one in counting]
        weights = [min(count / order.largest_weight, 1.0) for count in counts]
        totals = add_up([one.update.record for one in counting], masks)
        return mean_of(totals, self._reference, FixedPoint(order.clip_norm, order.sites), weights)

    def _taken_off(self, number: int, accepted: Mapping[str, Accepted]) -> list[Mask]:
        """Ask the sites whose updates count for what opens the sum, those that are silent again."""
        openings, answers = self._sitting.openings(accepted), dict[str, Revealed]()
        retries = self.tracked.config.participation.retries
        while True:
            waiting = {site: opening for site, opening in openings.items() if site not in answers}
            answers |= self._stage(number, UNMASK, self._sitting, waiting, Revealed)
            try:
                return self._sitting.masks(answers)
            except TooFewUpdates:
                if not retries:
                    raise
                retries -= 1

    def _once_more(self, number: int, why: FedwonError, *, pausing: bool) -> Iterable[Message]:
        """Ask for a round in a new sitting; return the answers as they come.

        Raises:
            FedwonError: `why`, where the run should pause now and may not.
            Stopped: the server was stopped, or an operator asked for the end of the run.
        """
        if pausing:
            self._rest(why)
        logger.warning("round %d is asked for in a new sitting: %s", number, why.message)
        self._sent = {}
        self._ask(number, self._drawn(number))
        self.tracked.tell(RoundStarted(number, tuple(sorted(self._sent))))
        deadline = self.tracked.config.participation.deadline_seconds
        return self._grid.send_and_receive(list(self._sent.values()), timeout=deadline)

    def _drawn(self, number: int) -> list[str]:
        """Choose the sites of a round once more, of those that are there now."""
        settings = self.tracked.config.participation
        here = self._wait_for_sites(settings.minimum)
        return choose(here, settings.fraction, self.tracked.config.seed, number)


def _read(kind: type[M], reply: Message) -> M | str:
    """Return what a site answered, or why that is nothing."""
    if reply.has_error():
        return reply.error.reason or "no reason given"
    try:
        return unpack(kind, reply.content)
    except FedwonError as error:
        return error.message
