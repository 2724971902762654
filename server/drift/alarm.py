"""Whether a line has drifted away from the model, from what the server sees already: k of n right, round after round.

Every site tells how the incoming model does on its own validation images. When its camera, its light or its material
changes, that falls; but it also moves because the model does, at all sites together, and because n is small. So a fall
counts only where it is one beside the site's own past and one beside the other sites as well, in units of the noise
that k of n has. Falls add up (CUSUM: Page 1954, Biometrika 41:100), and an alarm is raised where the sum passes a
threshold.

Shares are compared after the arcsine transform in Anscombe's form (1948, Biometrika 35:246), under which k of n has the
variance 1 / (n + 1/2) wherever it lies. Everything here is a pure function; `fedwon.server.drift.watch` feeds it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

WINDOW = 16
"""Rounds of a site's own past that it is compared with. The error of their mean stays while falls add up: with half the
rounds, or half the slack, lines where nothing happens have several times as many alarms."""
LEAST = 5
"""With fewer nothing is said."""
SLACK = 1.0
"""Falls of less than this, in standard deviations, do not add up."""
CAP = 4.0
"""More than this no single round adds: one bad round is no drift."""
THRESHOLD = 5.0
"""Sum at which the alarm is raised; docs/faults.md has what it costs in false alarms and in rounds."""
LONGEST = WINDOW
"""Rounds after which an alarm ends by itself: what is there now is the line's new past."""

Counts = Mapping[str, tuple[int, int]]
"""Right and looked at, by site, of one round."""


@dataclass(frozen=True)
class Past:
    """A round that a site is compared with: its transformed share, and how far that was above the other sites'."""

    own: float
    beside: float


@dataclass(frozen=True)
class Standing:
    """How a site stands.

    Attributes:
        total: sum of falls; the alarm is raised at the threshold.
        since: round in which the alarm was raised; None where there is none.
        usual: mean share right in the rounds that it is compared with; None where these are too few.
        share: right in the newest round.
        past: the rounds that it is compared with.
    """

    total: float = 0.0
    since: int | None = None
    usual: float | None = None
    share: float = 0.0
    past: tuple[Past, ...] = field(default=(), repr=False)

    @property
    def words(self) -> str:
        """What the operator reads of an alarm."""
        usual = self.share if self.usual is None else self.usual
        return (
            f"accuracy of the incoming model has fallen here from {100 * usual:.0f} % to {100 * self.share:.0f} %, "
            f"and not at the other sites, since round {self.since}"
        )


def transformed(right: int, examples: int) -> float:
    """Return a share on a scale on which its noise does not depend on where it lies."""
    return 2 * math.asin(math.sqrt((right + 0.375) / (examples + 0.75)))


def _back(value: float) -> float:
    return math.sin(min(max(value, 0.0), math.pi) / 2) ** 2


def step(
    standings: Mapping[str, Standing], number: int, counts: Counts, threshold: float = THRESHOLD
) -> dict[str, Standing]:
    """Take one round in.

    Args:
        standings: of the sites so far.
        number: of the round; they come in ascending order.
        counts: of the sites that answered; those that did not stay as they stand.
        threshold: sum of falls at which the alarm is raised.

    Returns:
        The standings after it.
    """
    known = {site: (right, examples) for site, (right, examples) in counts.items() if examples > 0}
    values = {site: transformed(right, examples) for site, (right, examples) in known.items()}
    ordered = sorted(values.values())
    after = dict(standings)
    for site, counted in known.items():
        now = Past(values[site], values[site] - _median_without(ordered, values[site]))
        after[site] = _stepped(standings.get(site, Standing()), number, now, counted, threshold)
    return after


def _median_without(ordered: Sequence[float], value: float) -> float:
    """Return the median of sorted values without one of them; of nothing, 0."""
    count, place = len(ordered) - 1, bisect.bisect_left(ordered, value)
    if not count:
        return 0.0

    def _at(index: int) -> float:
        return ordered[index + (index >= place)]

    return (_at((count - 1) // 2) + _at(count // 2)) / 2


def _stepped(before: Standing, number: int, now: Past, counted: tuple[int, int], threshold: float) -> Standing:
    examples, share = counted[1], counted[0] / counted[1]
    if before.since is not None and number - before.since >= LONGEST:
        before = Standing()
    if len(before.past) < LEAST:
        return replace(before, share=share, past=(*before.past, now))
    noise = 1 / (examples + 0.5)
    fall = min(
        _fall([past.own for past in before.past], now.own, noise),
        _fall([past.beside for past in before.past], now.beside, noise),
    )
    total = min(max(before.total + min(fall, CAP) - SLACK, 0.0), 2 * threshold)
    raised = total >= threshold or (before.since is not None and total > threshold / 2)
    since = (number if before.since is None else before.since) if raised else None
    past = before.past if total > 0 else (*before.past, now)[-WINDOW:]
    usual = _back(sum(one.own for one in before.past) / len(before.past))
    return Standing(total, since, usual, share, past)


def _fall(past: Sequence[float], now: float, noise: float) -> float:
    """Return how far a value lies below its past, in standard deviations of the difference."""
    mean = sum(past) / len(past)
    # by the differences of neighbours, which a share that rises from round to round does not widen
    spread = sum((later - earlier) ** 2 for earlier, later in pairwise(past)) / (2 * (len(past) - 1))
    return (mean - now) / math.sqrt(max(noise, spread) * (1 + 1 / len(past)))


def standings(history: Sequence[tuple[int, Counts]], threshold: float = THRESHOLD) -> dict[str, Standing]:
    """Return how sites stand after these rounds, in ascending order."""
    found: dict[str, Standing] = {}
    for number, counts in history:
        found = step(found, number, counts, threshold)
    return found
