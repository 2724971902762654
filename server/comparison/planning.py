"""What fits into the time: how many trials, rounds, seeds and left-out lines.

The time of a round is measured for each method before anything is planned. The plans are a ladder; the first rung that
fits is taken. Seeds come before rounds where both cannot be had, for without several there is no interval. Where even
a low rung does not fit, fewer images a line are trained on.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedwon.common.errors import ConfigError
from fedwon.common.methods import METHODS, MethodName

RESERVE, RESERVED_SHARE = 4.0, 0.02
"""Seconds, and a share of the budget, that are kept for the report, a last round, and the start of the program."""
MARGIN = 0.9
"""Share of the time left that is planned for; rounds take longer at times."""
IMAGES = (800, 600, 400, 300, 200, 150, 100, 64)
"""Training images of a line that a plan may stop at."""
MOST_SEEDS = 10
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def seconds_of(text: str) -> float:
    """Read a time such as `20m`, `90s` or `1h30m`.

    Raises:
        ConfigError: it is no such time, or none at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not total:
        raise ConfigError(f"`--budget {text}` is no time.", hint="Write it like 20m, 90s or 1h30m.")
    return total


class Clock:
    """The budget.

    Args:
        seconds: of the budget.
        since: moment on the monotonic clock from which it counts; None: now.
    """

    def __init__(self, seconds: float, since: float | None = None) -> None:
        self._started = time.monotonic() if since is None else since
        self.budget = seconds
        self._reserve = min(RESERVE + RESERVED_SHARE * seconds, seconds / 4)

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds that work may still take; negative once it is too late."""
        return self.budget - self._reserve - self.passed


@dataclass(frozen=True)
class Pace:
    """What a run takes.

    Attributes:
        round: seconds of a round with all lines, by method.
        overhead: seconds of a run besides its rounds.
    """

    round: Mapping[MethodName, float]
    overhead: float

    def run(self, method: MethodName, rounds: int, share: float = 1.0) -> float:
        """Seconds of a run with a share of the lines."""
        return self.overhead + rounds * self.round[method] * share


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        trials: of each method, in the search for its settings.
        trial_rounds: rounds of a trial.
        seeds: runs of each method.
        rounds: rounds of a run.
        unseen: lines that are left out in turn.
        unseen_seeds: runs of each method without each of these lines.
        max_train: training images of a line, at most; None: all.
    """

    trials: int
    trial_rounds: int
    seeds: int
    rounds: int
    unseen: int
    unseen_seeds: int
    max_train: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


_ALL, _HALF = 1.0, 0.5
_LADDER: tuple[tuple[int, int, int, int, float, int], ...] = (
    # trials, their rounds, seeds, their rounds, share of the lines left out, seeds of that
    (12, 12, 6, 40, _ALL, 3),
    (10, 10, 5, 30, _ALL, 2),
    (8, 10, 5, 24, _ALL, 2),
    (8, 8, 4, 20, _ALL, 2),
    (6, 8, 4, 16, _ALL, 2),
    (6, 6, 4, 14, _HALF, 2),
    (5, 6, 4, 12, _HALF, 2),
    (5, 5, 3, 12, 0.01, 2),
    (4, 5, 3, 10, 0.01, 2),
    (4, 4, 3, 8, 0.01, 2),
    (4, 3, 3, 6, 0.01, 2),
    (4, 3, 3, 5, 0, 0),
    (3, 2, 3, 4, 0, 0),
    (2, 2, 3, 3, 0, 0),
    (2, 1, 3, 2, 0, 0),
)
_MODEST = 10
"""Rungs from here on are reached with fewer images before they are reached with fewer rounds."""


def rungs(lines: int) -> list[Plan]:
    """The plans for so many lines, the largest first; of two lines none can be left out."""
    plans = []
    for trials, trial_rounds, seeds, rounds, share, again in _LADDER:
        unseen = math.ceil(share * lines) if lines > 2 else 0
        plans.append(Plan(trials, trial_rounds, seeds, rounds, unseen, again if unseen else 0))
    return plans


def seconds_for(plan: Plan, pace: Pace, methods: Sequence[MethodName], lines: int) -> float:
    """What a plan takes."""
    trials = sum(plan.trials * pace.run(method, plan.trial_rounds) for method in methods)
    runs = sum(plan.seeds * pace.run(method, plan.rounds) for method in methods)
    unseen = plan.unseen * plan.unseen_seeds * unseen_seconds(plan, pace, methods, lines)
    return trials + runs + unseen


def unseen_seconds(plan: Plan, pace: Pace, methods: Sequence[MethodName], lines: int) -> float:
    """What one seed of all methods without one line takes; each line alone needs no runs for that."""
    federated = [method for method in methods if METHODS[method].keeps != "everything"]
    return sum(pace.run(method, plan.rounds, (lines - 1) / lines) for method in federated)


def choose_rest(plan: Plan, pace: Pace, methods: Sequence[MethodName], lines: int, seconds: float) -> Plan:
    """Plan the runs anew once the search for settings has shown what a round takes.

    Args:
        plan: what was planned; its search is done, its number of images stays.
        pace: with that many images.
        methods: what is compared.
        lines: how many take part.
        seconds: time for it.
    """
    rest = plan
    for rung in rungs(lines):
        rest = replace(rung, trials=0, trial_rounds=plan.trial_rounds, max_train=plan.max_train)
        if seconds_for(rest, pace, methods, lines) <= seconds * MARGIN:
            break
    return replace(rest, trials=plan.trials)


def choose(pace: Pace, methods: Sequence[MethodName], counts: Sequence[int], seconds: float) -> Plan:
    """Choose the largest plan that fits; the smallest where none does.

    Args:
        pace: with all images.
        methods: what is compared.
        counts: training images of each line.
        seconds: time for it.
    """
    room, lines = seconds * MARGIN, len(counts)
    plans = rungs(lines)
    ladder: list[tuple[Plan, int | None]] = [(plan, None) for plan in plans[: _MODEST + 1]]
    ladder += [(plans[_MODEST], most) for most in IMAGES if most < max(counts)]
    least = ladder[-1][1]
    ladder += [(plan, least) for plan in plans[_MODEST + 1 :]]
    for plan, most in ladder:
        share = sum(min(count, most or count) for count in counts) / sum(counts)
        scaled = replace(pace, round={name: value * share for name, value in pace.round.items()})
        if seconds_for(plan, scaled, methods, lines) <= room:
            break
    return replace(plan, max_train=most)
