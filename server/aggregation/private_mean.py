"""Privacy of whole sites: the mean of updates of bounded length, with noise.

Source: Geyer, Klein and Nabi 2017 (arXiv:1712.07557) and McMahan, Ramage, Talwar and Zhang 2018 (arXiv:1710.06963), as
in Flower's `DifferentialPrivacyServerSideFixedClipping`, which a test compares with. That one holds all updates in
memory, and draws its noise from NumPy's global generator, which is no secret one; hence the same mathematics here, over
the updates on the disk.

With n updates, each shortened to `clip`, and all of the same weight, one site's update moves the mean by `clip / n` at
most; the noise has a standard deviation of `noise * clip / n`. Sites are chosen by the run's seed, which every site is
told, so that nothing is gained by who was not chosen (no amplification by sampling): a site pays for each round that it
is in, and for no other.

With a quantile the bound follows the updates: Andrew, Thakkar, McMahan and Ramaswamy 2021 (arXiv:1905.03871). How many
updates were within it is counted with noise, and the bound falls where they are more than the quantile. Sum and count
share the budget, 1 / noise^2 = 1 / noise_of_sum^2 + 1 / noise_of_count^2, the count having a tenth; so the cost is that
of `noise`. One site changes the count by 1 at most (the paper centres it and has 1/2).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flwr.app import ArrayRecord

from fedwon.common.noise import Draw, normal
from fedwon.common.privacy_settings import SitePrivacyConfig
from fedwon.server.aggregation.averaging import Averaged, Update
from fedwon.server.aggregation.column_rules import Row
from fedwon.server.aggregation.differences import Change, floating, norm
from fedwon.server.aggregation.shortening import shortened_mean

FALL = 0.2
"""How fast the bound follows: by this share of its logarithm where all updates, or none, are within it."""
COUNT = 0.1
"""The count's part of the budget."""


class Made(NamedTuple):
    """A private mean.

    Attributes:
        record: the model; tensors of integers stay as they were, for no noise fits them.
        clip: the next round's bound.
    """

    record: ArrayRecord
    clip: float


def private_mean(
    updates: Sequence[Update],
    starts: Sequence[ArrayRecord],
    asked: SitePrivacyConfig,
    types: Mapping[str, str],
    clip: float,
    *,
    draw: Draw = normal,
) -> Made:
    """Make the next global model of a round's updates.

    Args:
        updates: the round's; all have the names and shapes of the first.
        starts: of the model that each started from, what the update has.
        asked: `run.privacy.sites`, with noise.
        types: what each floating-point tensor of the result is rounded to, by name.
        clip: the round's bound.
        draw: the noise; tests give another.

    Raises:
        ValueError: there is nothing to average, or no noise is asked for.
    """
    if asked.noise is None or not updates:
        raise ValueError("a private mean needs updates and noise")
    pairs = sorted(zip(updates, starts, strict=True), key=lambda pair: pair[0].site)
    updates, starts = [update for update, _ in pairs], [start for _, start in pairs]
    factors = [_factor(norm(Change(update.record, start)), clip) for update, start in pairs]
    noise = asked.noise if asked.quantile is None else asked.noise / math.sqrt(1 - COUNT)
    deviation = noise * clip / len(updates)

    def _noise(count: int) -> Row:
        return draw(count) * deviation

    mean = shortened_mean(updates, starts, [1 / len(updates)] * len(updates), factors, types, noise=_noise)
    kept = {name: Averaged(np.array(starts[0][name].numpy())) for name, array in mean.items() if not floating(array)}
    return Made(ArrayRecord({**mean, **kept}), _followed(clip, factors, asked, draw))


def _followed(clip: float, factors: Sequence[float], asked: SitePrivacyConfig, draw: Draw) -> float:
    """Return the next bound."""
    if asked.quantile is None or asked.noise is None:
        return clip
    within = sum(factor == 1.0 for factor in factors) + float(draw(1)[0]) * asked.noise / math.sqrt(COUNT)
    share = min(max(within / len(factors), 0.0), 1.0)
    return clip * math.exp(-FALL * (share - asked.quantile))


def _factor(length: float, clip: float) -> float:
    """How much is left of an update; nothing of one that is not finite."""
    if not math.isfinite(length):
        return 0.0
    return 1.0 if length <= clip else clip / length


def releases_of(updates: Sequence[Update]) -> dict[str, int]:
    """Return by site what one round costs it, in rounds: c updates of one site in a mean cost as c * c of one."""
    return {site: count * count for site, count in Counter(update.site for update in updates).items()}
