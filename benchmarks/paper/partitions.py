"""How a set of domains becomes sites: one domain a site, many sites a domain, skewed labels, a domain left out.

Partitions are drawn with the run's seed and kept below the cache folder (`dealing`). A domain's test images are dealt
out to its sites as well: each site is scored, with its own layers if it has such, on its part, and the parts add up to
the domain's test set, which no site has trained on and which is dealt out alike whatever the training labels are.

Sources: many sites a domain as in FedStein's account of the cross-device protocol (7,438 images a domain over 20
sites); label skew by Dirichlet draws as in Hsu et al., "Measuring the effects of non-identical data distribution",
2019 (arXiv 1909.06335). Why not flwr-datasets: docs/decisions/0011-partitioners.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.dealing import kept_sites
from fedwon.client.config import DataConfig
from fedwon.server.engines.dealing import SEPARATOR, Rows, domain_of

__all__ = [
    "SEPARATOR",
    "DomainASite",
    "LabelSkew",
    "Partition",
    "SitesADomain",
    "dirichlet_parts",
    "domain_of",
    "even_parts",
]

FEWEST = 10
_DRAWS = 1000


class Partition(Protocol):
    """Makes sites of domains."""

    def sites(self, domains: Mapping[str, DataConfig], seed: int, cache: Path) -> dict[str, DataConfig]:
        """The data of each site that trains, by name.

        Args:
            domains: the set.
            seed: of the draws.
            cache: where files are kept.
        """

    def unseen(self, domains: Mapping[str, DataConfig]) -> dict[str, DataConfig]:
        """Domains that no site has, and that the model is scored on."""


@dataclass(frozen=True)
class DomainASite:
    """Each domain is a site.

    Attributes:
        without: a domain that is left out of the training and scored; "": none.
    """

    without: str = ""

    def sites(self, domains: Mapping[str, DataConfig], seed: int, cache: Path) -> dict[str, DataConfig]:
        """As `Partition`."""
        del seed, cache
        return {name: data for name, data in domains.items() if name != self.without}

    def unseen(self, domains: Mapping[str, DataConfig]) -> dict[str, DataConfig]:
        """As `Partition`."""
        return {self.without: domains[self.without]} if self.without else {}


@dataclass(frozen=True)
class SitesADomain:
    """The images of each domain are dealt out to so many sites at random, whatever their class.

    Sites of a domain differ by at most one image.

    Attributes:
        count: sites a domain.
        most: training images of a domain that are dealt out, drawn from all; None: all.
    """

    count: int
    most: int | None = None

    def sites(self, domains: Mapping[str, DataConfig], seed: int, cache: Path) -> dict[str, DataConfig]:
        """As `Partition`."""
        rng = np.random.default_rng(seed)

        def _some(labels: NDArray[Any]) -> list[Rows]:
            return even_parts(len(labels), self.count, rng, self.most)

        def _parts(labels: NDArray[Any]) -> list[Rows]:
            return even_parts(len(labels), self.count, rng)

        most = f"-most{self.most}" if self.most else ""
        return kept_sites(cache, f"{'-'.join(domains)}-{self.count}{most}-seed{seed}", domains, _some, _parts)

    def unseen(self, domains: Mapping[str, DataConfig]) -> dict[str, DataConfig]:
        """As `Partition`."""
        del domains
        return {}


@dataclass(frozen=True)
class LabelSkew:
    """The images of each domain are dealt out class by class in unequal shares; a single domain is the pooled set.

    The test images are dealt out alike (IID): they stand for the pooled test set, not for what a site trains on.

    Attributes:
        count: sites a domain.
        alpha: concentration of the Dirichlet distribution; None: all sites alike (IID).
    """

    count: int
    alpha: float | None

    def sites(self, domains: Mapping[str, DataConfig], seed: int, cache: Path) -> dict[str, DataConfig]:
        """As `Partition`."""
        rng = np.random.default_rng(seed)

        def _alike(labels: NDArray[Any]) -> list[Rows]:
            return even_parts(len(labels), self.count, rng)

        def _skewed(labels: NDArray[Any]) -> list[Rows]:
            return dirichlet_parts(labels, self.count, self.alpha or 0.0, rng)

        name = f"{'-'.join(domains)}-{self.count}-alpha{self.alpha}-seed{seed}"
        return kept_sites(cache, name, domains, _alike if self.alpha is None else _skewed, _alike)

    def unseen(self, domains: Mapping[str, DataConfig]) -> dict[str, DataConfig]:
        """As `Partition`."""
        del domains
        return {}


def even_parts(count: int, parts: int, rng: np.random.Generator, most: int | None = None) -> list[Rows]:
    """Deal out rows 0 to count - 1 at random, or `most` of them; parts differ by at most one row, and are sorted."""
    return [np.sort(part) for part in np.array_split(rng.permutation(count)[:most], parts)]


def dirichlet_parts(
    labels: NDArray[Any], parts: int, alpha: float, rng: np.random.Generator, fewest: int = FEWEST
) -> list[Rows]:
    """Deal out rows so that each class goes to the parts in shares drawn from Dirichlet(alpha, ..., alpha).

    Drawn anew until each part has `fewest` rows.

    Args:
        labels: class of each row.
        parts: how many.
        alpha: > 0; the smaller, the more a class is with few parts.
        rng: of the draws.
        fewest: rows that each part must have.

    Raises:
        ValueError: alpha is not positive, there are too few rows, or no draw gave each part enough.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, found {alpha}")
    for _ in range(_DRAWS if len(labels) >= parts * fewest else 0):
        dealt: list[list[Rows]] = [[] for _ in range(parts)]
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            ends = np.cumsum(rng.dirichlet([alpha] * parts))[:-1] * len(rows)
            for part, chunk in zip(dealt, np.split(rows, ends.round().astype(int)), strict=True):
                part.append(chunk)
        found = [np.sort(np.concatenate(part)) for part in dealt]
        if min(map(len, found)) >= fewest:
            return found
    raise ValueError(f"{len(labels)} rows cannot be dealt out to {parts} parts of {fewest} or more at alpha {alpha}")
