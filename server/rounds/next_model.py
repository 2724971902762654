"""From the updates that count in a round to the global model of the next one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from flwr.app import ArrayRecord

from fedwon.common.codec import PLAIN
from fedwon.common.codec.coding import decode, encode
from fedwon.server.aggregation.momentum import caught_up, step
from fedwon.server.aggregation.private_mean import private_mean, releases_of
from fedwon.server.aggregation.robust import aggregate
from fedwon.server.rounds.answers import Accepted
from fedwon.server.runs.run import Run


class Made(NamedTuple):
    """A global model, and what is kept beside it.

    Attributes:
        model: what counts, for server and sites alike.
        delta: what makes it of the model before, in a codec; None where it goes to the sites as it is.
        velocity: what the server's momentum goes on with; None without momentum.
    """

    model: ArrayRecord
    delta: ArrayRecord | None
    velocity: ArrayRecord | None


class NextModel:
    """Makes the global models of a run.

    Args:
        run: whose settings for aggregation, privacy and traffic hold.
        moving: names of what training moves and the sites share.
    """

    def __init__(self, run: Run, moving: Collection[str]) -> None:
        self._run, self._moving = run, moving

    def mean(self, counting: Sequence[Accepted], before: ArrayRecord) -> ArrayRecord:
        """Make updates one; where the server steps, a late one counts by what it changed alone.

        Args:
            counting: the updates, in the order of their tasks.
            before: the model that the round began with.
        """
        rules = self._run.config.aggregation
        pairs = [(one.update, one.start) for one in counting]
        if rules.steps:
            pairs = [
                caught_up(update, start, before, self._moving) if update.rounds_late else (update, start)
                for update, start in pairs
            ]
        return aggregate([update for update, _ in pairs], [start for _, start in pairs], rules, _types(before))

    def private_mean(self, counting: Sequence[Accepted], before: ArrayRecord) -> tuple[ArrayRecord, dict[str, Any]]:
        """Make updates one with noise; return with it what to keep count of.

        Args:
            counting: the updates, in the order of their tasks.
            before: the model that the round began with.
        """
        updates, starts = [one.update for one in counting], [one.start for one in counting]
        averaged, clip = private_mean(updates, starts, self._run.config.privacy.sites, _types(before), self._run.clip)
        return averaged, {"releases": releases_of(updates), "clip": clip}

    def make(self, number: int, averaged: ArrayRecord, before: ArrayRecord) -> Made:
        """Make the model of a round's mean, by default the mean as it is.

        Args:
            number: the round.
            averaged: the mean, of what the sites share.
            before: the model that the round began with.
        """
        # What stays at the sites keeps its first value in the global model: sites start from it.
        whole = ArrayRecord({name: averaged.get(name, array) for name, array in before.items()})
        whole, velocity = self._stepped(number, whole, before)
        whole, delta = self._as_sites_get_it(number, whole, before)
        return Made(whole, delta, velocity)

    def _stepped(self, number: int, mean: ArrayRecord, before: ArrayRecord) -> tuple[ArrayRecord, ArrayRecord | None]:
        rules = self._run.config.aggregation
        if not rules.steps:
            return mean, None
        keeps = rules.server_momentum > 0
        velocity = self._run.checkpoints.velocity(number - 1) if keeps else None
        made = step(before, mean, velocity, self._moving, momentum=rules.server_momentum, lr=rules.server_lr)
        return made.model, made.velocity if keeps else None

    def _as_sites_get_it(
        self, number: int, model: ArrayRecord, before: ArrayRecord
    ) -> tuple[ArrayRecord, ArrayRecord | None]:
        """Return the model that counts, and what makes it of the one before.

        A lossy codec changes the model; what it makes is the next global model, for server and sites alike, so nobody
        trains from other bits than the ones that were committed, and no debt has to be kept.
        """
        config = self._run.config
        if config.traffic.down == PLAIN:
            return model, None
        delta = encode(model, before, config.traffic.down, f"{config.seed}/{number}").parts
        return decode(delta, before), delta


def _types(model: ArrayRecord) -> dict[str, str]:
    return {name: array.dtype for name, array in model.items()}
