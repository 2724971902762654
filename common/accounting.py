"""How much privacy noisy releases have cost together: epsilon at a delta.

With epsilon and delta, whatever was released is at most e^epsilon times as likely with one image (or one site) as
without it, but for an event of probability delta. docs/privacy.md says it in plain words.

Two cases:

- Noisy steps on random batches (DP-SGD at a site): Opacus's accountant by Renyi divergences (Mironov, Talwar and
  Zhang 2019, arXiv:1908.10530), an upper bound for any sequence of steps with different noise and different batches.
  Its tighter numerical accountant (PRV) is not used: a budget that is kept for years needs a bound that always holds
  and is added up in a moment.
- Noise on a sum that the same member is in every time (site-level): exact, by Gaussian differential privacy (Dong,
  Roth and Su 2019, arXiv:1905.02383; Balle and Wang 2018, arXiv:1805.06530, theorem 8). Needs no package.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from fedwon.common.errors import MissingExtra

EXTRA = "pip install 'fedwon[privacy]'"
_ORDERS = (*(1 + step / 10 for step in range(1, 100)), *range(12, 64), 80, 96, 128, 192, 256, 512)


@dataclass(frozen=True)
class Spent:
    """Steps of one kind.

    Attributes:
        noise: standard deviation of the noise over the most that one example can add.
        rate: probability that an example is in a step's batch, each by itself (Poisson sampling).
        steps: how many.
    """

    noise: float
    rate: float
    steps: int


def sampled_epsilon(spent: Iterable[Spent], delta: float) -> float:
    """Return what noisy steps on random batches cost together; 0 for none.

    Raises:
        MissingExtra: Opacus is not installed.
    """
    rows = list(spent)
    if not rows:
        return 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            from opacus.accountants.analysis import rdp
    except ImportError:
        raise MissingExtra("Opacus is not installed, which counts what private training costs.", hint=EXTRA) from None
    total = sum(
        rdp.compute_rdp(q=row.rate, noise_multiplier=row.noise, steps=row.steps, orders=list(_ORDERS)) for row in rows
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at the last order the bound still holds, and only is not the lowest
        epsilon, _ = rdp.get_privacy_spent(orders=list(_ORDERS), rdp=total, delta=delta)
    return max(float(epsilon), 0.0)


def gaussian_epsilon(noise: float, releases: float, delta: float) -> float:
    """Return what noise on sums costs a member that is in all of them.

    Args:
        noise: standard deviation of the noise over the most that the member can add to a sum.
        releases: sums that it is in; one that it is in c times counts as c * c of them.
        delta: the probability.
    """
    if releases <= 0:
        return 0.0
    shift = math.sqrt(releases) / noise
    low, high = 0.0, 1.0
    while _delta_of(high, shift) > delta:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta_of(middle, shift) > delta else (low, middle)
    return high


def gaussian_noise(epsilon: float, releases: float, delta: float) -> float:
    """Return the least noise with which `gaussian_epsilon` stays at `epsilon`, to four digits, rounded up."""
    low, high = 1e-3, 1.0
    while gaussian_epsilon(high, releases, delta) > epsilon:
        low, high = high, 2 * high
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gaussian_epsilon(middle, releases, delta) > epsilon else (low, middle)
    return high


def _delta_of(epsilon: float, shift: float) -> float:
    """Delta of a Gaussian mechanism whose mean moves by `shift` standard deviations."""
    first, second = shift / 2 - epsilon / shift, -shift / 2 - epsilon / shift
    return _below(first) - math.exp(epsilon + _log_below(second))


def _below(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _log_below(x: float) -> float:
    """Logarithm of the standard normal distribution; by its series far down, where the value itself is too small."""
    if x > -25:
        return math.log(_below(x))
    return -x * x / 2 - math.log(-x) - math.log(2 * math.pi) / 2 + math.log1p(-1 / x**2 + 3 / x**4)
