"""The rounds of a run whose updates the server may not see: a sitting around each.

Keys and shares go ahead of the training task, so whoever is away is known before anybody masks; training is the longest
part of a round, and a site that is lost in it costs nothing but its update. A round whose sum cannot be opened is asked
for again in a new sitting, with new keys: nothing of a sitting is ever used in another one. Sites that helped to open a
sum are in no other one of that round: two sums could be subtracted from one another, and these sites refuse. So a
sitting is given up only when it cannot be opened any more, and after a crash of the server the round goes on in it.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedwon.common.errors import FedwonError, NotASum, TooFewUpdates
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.graph import FEWEST
from fedwon.common.secagg.masking import Mask
from fedwon.common.secagg.messages import Keys, M, MaskOrder, Revealed, Shares, pack
from fedwon.common.secagg.stages import SECURE, SETUP, SHARE_KEYS, UNMASK
from fedwon.common.surveys import images_in
from fedwon.server.identity.naming import listed
from fedwon.server.rounds.answers import Accepted, Answers, Missing
from fedwon.server.rounds.events import RoundStarted
from fedwon.server.rounds.strategy import FedWon, choose
from fedwon.server.runs.run import Run
from fedwon.server.secure.asking import Stage, ask
from fedwon.server.secure.kept_sitting import KeptSitting, keep, kept
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
        self._broken_off = kept(run.spool, done + 1)
        self._closed: frozenset[str] = frozenset()  # whose updates are in the sum, once it is to be opened
        self._helped: set[str] = set()  # who has given shares away in this round

    def _ask(self, number: int, sites: Sequence[str]) -> None:
        """Hold a sitting of these sites as far as the shares, and make tasks for those that are left.

        A sitting that was broken off by a crash goes on, with its own sites.
        """
        broken_off, self._broken_off = self._broken_off, None
        if broken_off is None:
            self._sitting, self._orders = self._seated(number, sites)
            self._close_sum(number, ())
        else:
            logger.info("round %d goes on in the sitting that it was broken off in", number)
            self._sitting, self._orders = Sitting.of(broken_off.agreed), dict(broken_off.orders)
            self._closed = frozenset(broken_off.counted)
        super()._ask(number, sorted(self._orders))

    def _close_sum(self, number: int, counted: Iterable[str]) -> None:
        """Write the sitting down, with the sites whose updates are in its sum; none before it is opened."""
        self._closed, names = frozenset(counted), tuple(sorted(counted))
        sitting = KeptSitting(round=number, agreed=self._sitting.agreed, orders=self._orders, counted=names)
        keep(self.tracked.spool, sitting)

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
            begun, _ = self._stage(number, SETUP, sitting, dict.fromkeys(left, sitting.setup), Keys)
            circles = sitting.circles(begun)
            shares, _ = self._stage(number, SHARE_KEYS, sitting, circles, Shares)
            orders = self._ordered(sitting, shares, left)
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
    ) -> tuple[dict[str, M], set[str]]:
        name = f"{stage}-{sitting.name}"
        return ask(self.tracked, self._grid, Stage(number, stage, name, self._secure.stage_seconds), requests, kind)

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
        self._helped.clear()
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
        retries = self.tracked.config.participation.retries
        while (reason := self._short_of(accepted)) is not None:
            if not retries and not self._closed:
                break
            if not retries:  # other updates than these cannot be added up any more
                self._rest(TooFewUpdates(f"The sum of round {number} cannot be opened: {reason}."))
            retries = max(retries - 1, 0)
            missing = self._repeat(number, accepted)
        return {site: one for site, one in accepted.items() if site in (self._closed or accepted)}, missing

    def _short_of(self, accepted: Mapping[str, Accepted]) -> str | None:
        """Return why the sum of these updates could not be opened, or None."""
        if gone := sorted(self._closed - accepted.keys()):
            return f"the updates of {listed(gone)} are in it already, and are not here any more"
        if len(accepted) < self._needed():
            return f"{len(accepted)} masked updates are here, of {self._needed()} needed"
        return self._sitting.shortfall(accepted)

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
        """Ask the sites whose updates count for what opens the sum, those that are silent again.

        As long as these are enough with those that answered, this sum is waited for: who has helped to open it does not
        help to open another one.

        Raises:
            TooFewUpdates: it cannot be opened any more, or the run may not pause.
            NotASum: the same, because shares are false.
        """
        openings, answers = self._sitting.openings(accepted), dict[str, Revealed]()
        self._close_sum(number, accepted)
        retries = self.tracked.config.participation.retries
        while True:
            waiting = {site: opening for site, opening in openings.items() if site not in answers}
            found, silent = self._stage(number, UNMASK, self._sitting, waiting, Revealed)
            answers |= found
            self._helped |= found.keys()
            try:
                return self._sitting.masks(answers)
            except (TooFewUpdates, NotASum) as error:
                hopeless = not silent or self._sitting.shortfall(answers.keys() | silent) is not None
                if answers.keys() == openings.keys() or (hopeless and not retries):
                    raise
                if not retries:
                    self._rest(error)
                retries = max(retries - 1, 0)

    def _once_more(self, number: int, why: FedwonError, *, pausing: bool) -> Iterable[Message]:
        """Ask for a round in a new sitting; return the answers as they come.

        Raises:
            FedwonError: `why`, where the run should pause now and may not.
            Stopped: the server was stopped, or an operator asked for the end of the run.
        """
        if pausing:
            self._rest(why)
        self._wait_for_others(number, max(FEWEST, self._needed()), why)
        logger.warning("round %d is asked for in a new sitting: %s", number, why.message)
        self._sent = {}
        self._ask(number, self._drawn(number))
        self.tracked.tell(RoundStarted(number, tuple(sorted(self._sent))))
        deadline = self.tracked.config.participation.deadline_seconds
        return self._grid.send_and_receive(list(self._sent.values()), timeout=deadline)

    def _wait_for_others(self, number: int, needed: int, why: FedwonError) -> None:
        """Wait until there are enough sites for another sitting that have not helped to open a sum of this round.

        Raises:
            FedwonError: of the kind of `why`, where the run may not pause.
            Stopped: the server was stopped, or an operator asked for the end of the run.
        """
        while self._helped and len(self._drawn(number)) < needed:
            helped = listed(sorted(self._helped))
            self._rest(
                type(why)(
                    f"{why.message} Round {number} cannot be asked for again with {helped}: they have helped to open "
                    "a sum of it, and two could be subtracted from one another."
                )
            )

    def _drawn(self, number: int) -> list[str]:
        """Choose the sites of a round once more, of those that are there now and have not helped to open a sum."""
        settings = self.tracked.config.participation
        here = self._wait_for_sites(settings.minimum)
        chosen = choose(here, settings.fraction, self.tracked.config.seed, number)
        return [site for site in chosen if site not in self._helped]
