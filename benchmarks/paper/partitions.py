"""How a set of domains becomes sites: one domain a site, many sites a domain, skewed labels, a domain left out.

Partitions are drawn with the run's seed and kept as small `.npz` files below the cache folder, so that a site of a
benchmark reads its images as any other site does. A domain's test images are dealt out to its sites as well: each site
is scored, with its own layers if it has such, on its part, and the parts add up to the domain's test set.

Sources: many sites a domain as in FedStein's account of the cross-device protocol (7,438 images a domain over 20
sites); label skew by Dirichlet draws as in Hsu et al., "Measuring the effects of non-identical data distribution",
2019 (arXiv 1909.06335).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedwon.client.config import DataConfig
from fedwon.client.domains import discover

SEPARATOR = "--"
"""Between a domain and the number of one of its sites, in the site's name."""
FEWEST = 10
_DRAWS = 1000

Rows = NDArray[np.int64]


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


def domain_of(site: str) -> str:
    """The domain that a site's images come from."""
    return site.split(SEPARATOR, maxsplit=1)[0]


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
    """The images of each domain, which must be `.npz` files, are dealt out to so many sites, alike but for one image.

    Attributes:
        count: sites a domain.
    """

    count: int

    def sites(self, domains: Mapping[str, DataConfig], seed: int, cache: Path) -> dict[str, DataConfig]:
        """As `Partition`."""
        rng = np.random.default_rng(seed)

        def parts(labels: NDArray[Any]) -> list[Rows]:
            return even_parts(len(labels), self.count, rng)

        return _kept(cache / f"{'-'.join(domains)}-{self.count}-seed{seed}", domains, parts, parts)

    def unseen(self, domains: Mapping[str, DataConfig]) -> dict[str, DataConfig]:
        """As `Partition`."""
        del domains
        return {}


@dataclass(frozen=True)
class LabelSkew:
    """The images of each domain, which must be `.npz` files, are dealt out class by class in unequal shares.

    Attributes:
        count: sites a domain.
        alpha: concentration of the Dirichlet distribution; None: all sites alike (IID).
    """

    count: int
    alpha: float | None

    def sites(self, domains: Mapping[str, DataConfig], seed: int, cache: Path) -> dict[str, DataConfig]:
        """As `Partition`."""
        rng = np.random.default_rng(seed)

        def alike(labels: NDArray[Any]) -> list[Rows]:
            return even_parts(len(labels), self.count, rng)

        def skewed(labels: NDArray[Any]) -> list[Rows]:
            return dirichlet_parts(labels, self.count, self.alpha or 0, rng)

        name = f"{'-'.join(domains)}-{self.count}-alpha{self.alpha}-seed{seed}"
        return _kept(cache / name, domains, skewed if self.alpha else alike, alike)

    def unseen(self, domains: Mapping[str, DataConfig]) -> dict[str, DataConfig]:
        """As `Partition`."""
        del domains
        return {}


def even_parts(count: int, parts: int, rng: np.random.Generator) -> list[Rows]:
    """Deal out rows 0 to count - 1 at random; the parts differ by at most one row, and each is sorted."""
    return [np.sort(part) for part in np.array_split(rng.permutation(count), parts)]


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
        ValueError: there are too few rows, or no draw gave each part enough.
    """
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


def _kept(folder: Path, domains: Mapping[str, DataConfig], train: Any, test: Any) -> dict[str, DataConfig]:
    """The sites of a partition, from its folder; made first if it is not there."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
            unfinished = Path(scratch) / folder.name
            unfinished.mkdir()
            for domain, data in domains.items():
                if data.test is None:
                    raise ValueError(f"{domain} has no test images of its own, and only `.npz` pairs can be dealt out")
                for path, part, deal in ((data.path, "train", train), (data.test, "test", test)):
                    _deal(unfinished, domain, Path(path), part, deal)
            with suppress(OSError):  # another process was faster, with the same draws
                unfinished.rename(folder)
    return discover(folder)


def _deal(folder: Path, domain: str, path: Path, part: str, deal: Any) -> None:
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    rows: Sequence[Rows] = deal(labels)
    for number, chosen in enumerate(rows):
        name = f"{domain}{SEPARATOR}{number:02d}_{part}.npz"
        np.savez(folder / name, images=images[chosen], labels=labels[chosen])
