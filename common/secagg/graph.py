"""Who masks with whom: a random graph in which every site has the same number of neighbours.

With all sites as neighbours, as Bonawitz et al. have it, each site handles n - 1 masks and the server n squared of
them. Bell et al. show that log n neighbours are enough where the graph is random; the numbers here follow from their
conditions (section 3.3) with what we ask of chance: what may not happen happens once in 2**40 sittings, and that a
sitting fails though no more than a third of the sites are lost, once in 2**20.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from secrets import SystemRandom

HOSTILE = LOST = 1 / 3
"""Shares of the sites that may tell the server all they know, and that may be lost."""
_UNSAFE, _FAILING = 40, 20

FEWEST = 3
"""Sites without which there is no sitting: in a sum of two each learns the other's update."""
FEWEST_COUNTED = 2
"""Updates without which there is no sum: of one it would be that update."""

Shuffle = Callable[[list[str]], None]
"""Puts names into a random order, in place."""
RANDOM: Shuffle = SystemRandom().shuffle


def neighbours(sites: Sequence[str], degree: int, shuffle: Shuffle = RANDOM) -> dict[str, tuple[str, ...]]:
    """Draw the graph: sites stand in a circle in random order, each with half of its neighbours on either side.

    Args:
        sites: their names.
        degree: neighbours of a site; an odd number counts as the next even one, and more than there are as all.
        shuffle: puts the sites into a random order.

    Returns:
        The names of each site's neighbours, sorted.
    """
    order = sorted(sites)
    shuffle(order)
    count, reach = len(order), (degree + 1) // 2
    found = {}
    for place, site in enumerate(order):
        around = {order[(place + step) % count] for step in range(-reach, reach + 1)}
        found[site] = tuple(sorted(around - {site}))
    return found


def threshold(holders: int) -> int:
    """Return how many of a secret's holders give it back: more than half, so the server cannot ask for both secrets.

    A site reveals one of a peer's two secrets. Whoever is told by the server that the peer was lost reveals the one,
    whoever is told that it was not, the other: only one of the two groups can be more than half.
    """
    return holders // 2 + 1


def enough_neighbours(sites: int) -> int:
    """Return the fewest neighbours that are safe and survive the loss of a third of the sites, at most all others.

    Below 164 sites that is all others: chance needs many to rely on. Of 1000 sites it is 338.
    """
    return next((degree for degree in range(2, sites - 1, 2) if _suffices(sites, degree)), sites - 1)


def _suffices(sites: int, degree: int) -> bool:
    hostile, lost, needed = int(HOSTILE * sites), int(LOST * sites), threshold(degree + 1)
    cut = sites * (HOSTILE + LOST) ** (degree // 2)  # honest sites that are left fall apart into two groups
    told = sites * _at_least(sites - 1, hostile, degree, needed)
    gone = sites * _at_least(sites - 1, lost, degree, degree + 2 - needed)
    return max(cut, told) < 2.0**-_UNSAFE and gone < 2.0**-_FAILING


def _at_least(total: int, marked: int, drawn: int, least: int) -> float:
    """Return the chance that of `drawn` out of `total` at least so many are of the `marked` (hypergeometric)."""
    ways = sum(
        math.comb(marked, hits) * math.comb(total - marked, drawn - hits)
        for hits in range(least, min(marked, drawn) + 1)
        if drawn - hits <= total - marked
    )
    return ways / math.comb(total, drawn)
