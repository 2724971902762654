"""Privacy of whole sites: the mean of updates of bounded length, with noise.

Source: Geyer, Klein and Nabi 2017 (arXiv:1712.07557) and McMahan, Ramage, Talwar and Zhang 2018 (arXiv:1710.06963), as
in Flower's `DifferentialPrivacyServerSideFixedClipping`, which a test compares with. That one holds all updates in
memory, and draws its noise from NumPy's global generator, which is no secret one; hence the same mathematics here, over
the updates on the disk.

With n updates, each shortened to `clip`, and all of the same weight, one site's update moves the mean by `clip / n` at
most; the noise has a standard deviation of `noise * clip / n`. Sites are chosen by the run's seed, which every site is
told, so that nothing is gained by who was not chosen (no amplification by sampling): a site pays for each round that it
is in, and for no other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord

from fedwon.common.noise import Draw, normal
from fedwon.common.privacy_settings import SitePrivacyConfig
from fedwon.server.aggregation import Averaged, Update
from fedwon.server.column_rules import Row
from fedwon.server.differences import Change, floating, norm
from fedwon.server.shortening import shortened_mean


def private_mean(
    updates: Sequence[Update],
    starts: Sequence[ArrayRecord],
    asked: SitePrivacyConfig,
    types: Mapping[str, str],
    draw: Draw = normal,
) -> ArrayRecord:
    """Make the next global model of a round's updates.

    Args:
        updates: the round's; all have the names and shapes of the first.
        starts: of the model that each started from, what the update has.
        asked: `run.privacy.sites`, with noise.
        types: what each floating-point tensor of the result is rounded to, by name.
        draw: the noise; tests give another.

    Returns:
        The model; tensors of integers stay as they were, for no noise fits them.

    Raises:
        ValueError: there is nothing to average, or no noise is asked for.
    """
    if asked.noise is None or not updates:
        raise ValueError("a private mean needs updates and noise")
    pairs = sorted(zip(updates, starts, strict=True), key=lambda pair: pair[0].site)
    updates, starts = [update for update, _ in pairs], [start for _, start in pairs]
    factors = [_factor(norm(Change(update.record, start)), asked.clip) for update, start in pairs]
    deviation = asked.noise * asked.clip / len(updates)

    def _noise(count: int) -> Row:
        return draw(count) * deviation

    mean = shortened_mean(updates, starts, [1 / len(updates)] * len(updates), factors, types, noise=_noise)
    kept = {name: Averaged(np.array(starts[0][name].numpy())) for name, array in mean.items() if not floating(array)}
    return ArrayRecord({**mean, **kept})


def _factor(length: float, clip: float) -> float:
    """How much is left of an update; nothing of one that is not finite."""
    if not math.isfinite(length):
        return 0.0
    return 1.0 if length <= clip else clip / length


def releases_of(updates: Sequence[Update]) -> dict[str, int]:
    """Return by site what one round costs it, in rounds: c updates of one site in a mean cost as c * c of one."""
    return {site: count * count for site, count in Counter(update.site for update in updates).items()}
