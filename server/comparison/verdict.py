"""Is it worth it, and which method? Decided by the intervals alone.

A method is worth it where the 95 % interval of its gain over each line alone lies above zero. What is smaller than
`MARGIN` is no difference that a factory would change anything for.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedwon.common.methods import METHODS, MethodName
from fedwon.server.comparison.outcomes import Outcomes
from fedwon.server.comparison.paired import Difference

MARGIN = 0.02
"""Two points of balanced accuracy."""
OURS: MethodName = "fedwon"
FEWEST_SEEDS = 2
FEWEST_ROUNDS = 8
ABOVE_CHANCE = 0.05
"""Balanced accuracy above that of guessing, without which nothing has been learnt yet."""

Code = Literal[
    "fedwon",  # decidedly better than each line alone and than every other method
    "fedwon_level",  # better than each line alone, and behind no other method by as much as the margin
    "keep_batch_norm",  # a method with batch norm is better than each line alone and than fedwon, or is the only one
    "other_method",  # the same of a method with another normalization
    "undecided",  # federating is better than each line alone; by which method the images cannot tell
    "alone",  # no method is better by as much as the margin
    "not_enough_data",  # neither can be told, for want of images
    "not_enough_time",  # neither can be told, for want of runs
]


@dataclass(frozen=True)
class Recommendation:
    """The answer.

    Attributes:
        code: which.
        method: what to use, or to begin with; None where nothing is recommended.
        gain: the method's gain over each line alone; where nothing is decided, that of the method with the largest.
        images_factor: how many times as many test images would show a gain of this size; None where that is not the
            question.
    """

    code: Code
    method: MethodName | None = None
    gain: Difference | None = None
    images_factor: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        row = asdict(self)
        if self.gain is not None:
            row["gain"] = {key: value if math.isfinite(value) else None for key, value in row["gain"].items()}
        return row


def recommend(found: Outcomes, *, rounds: int, classes: int, rising: bool) -> Recommendation:
    """Decide by what the runs came to; that federating is of no use can be said only of models that were trained.

    Args:
        found: what they came to.
        rounds: of a run.
        classes: that the network tells apart.
        rising: whether some method was still improving in the last rounds.
    """
    answer = decide(found.gains, found.pairs, found.validation)
    if answer.code not in {"alone", "not_enough_data"}:
        return answer
    best = max(statistics.fmean(row.values()) for row in found.by_line.values())
    if rising or rounds < FEWEST_ROUNDS or best < 1 / classes + ABOVE_CHANCE:
        return Recommendation("not_enough_time", None, answer.gain)
    return answer


def decide(
    gains: Mapping[MethodName, Difference],
    pairs: Mapping[tuple[MethodName, MethodName], Difference],
    validation: Mapping[MethodName, float],
) -> Recommendation:
    """Decide.

    Args:
        gains: each federated method less each line alone.
        pairs: the first method less the second, for all pairs.
        validation: mean balanced accuracy on validation images, which choose where test images do not decide.
    """
    if not gains or any(gain.seeds < FEWEST_SEEDS for gain in gains.values()):
        return Recommendation("not_enough_time")
    worth = [name for name, gain in gains.items() if gain.low > 0]
    if not worth:
        return _not_worth(gains)
    rivals = [name for name in gains if name != OURS]
    ahead = [name for name in rivals if name in worth and (OURS not in worth or pairs[OURS, name].high < 0)]
    if ahead:
        first = max(ahead, key=lambda name: gains[name].mean)
        return Recommendation(_code_of(first), first, gains[first])
    if all(pairs[OURS, name].low > 0 for name in rivals):
        return Recommendation("fedwon", OURS, gains[OURS])
    if all(pairs[OURS, name].low > -MARGIN for name in rivals):
        return Recommendation("fedwon_level", OURS, gains[OURS])
    start = max(worth, key=lambda name: validation.get(name, 0.0))
    return Recommendation("undecided", start, gains[start])


def _code_of(method: MethodName) -> Code:
    return "keep_batch_norm" if METHODS[method].normalization == "batch" else "other_method"


def _not_worth(gains: Mapping[MethodName, Difference]) -> Recommendation:
    best = max(gains, key=lambda name: gains[name].mean)
    gain = gains[best]
    if all(other.high < MARGIN for other in gains.values()):
        return Recommendation("alone", None, gain)
    if gain.by_seeds > gain.by_images:
        return Recommendation("not_enough_time", None, gain)
    sought = max(abs(gain.mean), MARGIN)
    return Recommendation("not_enough_data", None, gain, ((gain.high - gain.mean) / sought) ** 2)
