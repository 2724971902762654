"""Who gets which images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper.partitions import (
    DomainASite,
    LabelSkew,
    SitesADomain,
    dirichlet_parts,
    domain_of,
    even_parts,
)
from fedwon.client.config import DataConfig
from fedwon.client.domains import discover


@given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 2**32))
def test_even_parts_share_all_rows_alike(count: int, parts: int, seed: int) -> None:
    dealt = even_parts(count, parts, np.random.default_rng(seed))
    assert sorted(np.concatenate(dealt).tolist()) == list(range(count))
    sizes = [len(part) for part in dealt]
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1
    again = even_parts(count, parts, np.random.default_rng(seed))
    assert all(np.array_equal(*pair) for pair in zip(dealt, again, strict=True))


@given(
    st.lists(st.integers(0, 5), min_size=40, max_size=300),
    st.integers(1, 4),
    st.sampled_from([0.1, 0.5, 1.0, 100.0]),
    st.integers(0, 2**32),
)
def test_dirichlet_parts_share_all_rows_and_none_starves(
    labels: list[int], parts: int, alpha: float, seed: int
) -> None:
    dealt = dirichlet_parts(np.array(labels), parts, alpha, np.random.default_rng(seed), fewest=2)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(labels)))
    assert len(dealt) == parts
    assert min(len(part) for part in dealt) >= 2


def entropy(alpha: float) -> float:
    """Mean over parts of the entropy of the classes, in nats; log 10 is the most."""
    labels = np.arange(4000) % 10
    found = []
    for part in dirichlet_parts(labels, 10, alpha, np.random.default_rng(3)):
        shares = np.bincount(labels[part], minlength=10) / len(part)
        found.append(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    return float(np.mean(found))


def test_the_smaller_alpha_the_more_a_class_is_with_few() -> None:
    values = [entropy(alpha) for alpha in (0.1, 1.0, 100.0)]
    assert values == sorted(values)
    assert values[0] < 1.3
    assert values[2] > 0.98 * np.log(10)


def test_too_few_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="19 rows cannot be dealt out to 2 parts of 10"):
        dirichlet_parts(np.zeros(19), 2, 1.0, np.random.default_rng(0))


@pytest.fixture
def domains(tmp_path: Path) -> dict[str, DataConfig]:
    folder = tmp_path / "set"
    folder.mkdir()
    for index, name in enumerate(("one", "two")):
        for part, count in (("train", 70), ("test", 33)):
            images = np.full((count, 8, 8, 1), index, np.uint8)
            images[:, 0, 0, 0] = np.arange(count)
            np.savez(folder / f"{name}_{part}.npz", images=images, labels=np.arange(count) % 3)
    return discover(folder)


def rows(path: str | None) -> tuple[list[int], list[int]]:
    assert path is not None
    with np.load(path) as arrays:
        return arrays["images"][:, 0, 0, 0].tolist(), arrays["labels"].tolist()


@pytest.mark.parametrize("partition", [SitesADomain(4), LabelSkew(4, 0.5), LabelSkew(4, None)], ids=str)
def test_every_image_is_at_one_site_of_its_domain(
    domains: dict[str, DataConfig], tmp_path: Path, partition: SitesADomain | LabelSkew
) -> None:
    sites = partition.sites(domains, 1, tmp_path / "cache")
    assert len(sites) == 8
    assert partition.unseen(domains) == {}
    for domain in domains:
        mine = [data for name, data in sites.items() if domain_of(name) == domain]
        for part, count in (("path", 70), ("test", 33)):
            pairs = [rows(getattr(data, part)) for data in mine]
            assert sorted(row for found, _ in pairs for row in found) == list(range(count))
            assert all(label == row % 3 for found, labels in pairs for row, label in zip(found, labels, strict=True))


def test_a_seed_says_it_all(domains: dict[str, DataConfig], tmp_path: Path) -> None:
    partition = SitesADomain(3)
    first, again, other = (
        [rows(data.path) for data in partition.sites(domains, seed, tmp_path / cache).values()]
        for seed, cache in ((1, "a"), (1, "b"), (2, "a"))
    )
    assert first == again
    assert first != other
    kept = partition.sites(domains, 1, tmp_path / "a")
    assert [rows(data.path) for data in kept.values()] == first


def test_a_domain_left_out(domains: dict[str, DataConfig], tmp_path: Path) -> None:
    partition = DomainASite(without="two")
    assert set(partition.sites(domains, 1, tmp_path)) == {"one"}
    assert partition.unseen(domains) == {"two": domains["two"]}
    assert set(DomainASite().sites(domains, 1, tmp_path)) == {"one", "two"}
    assert DomainASite().unseen(domains) == {}


def test_a_set_without_test_files_cannot_be_dealt_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one has no test images of its own"):
        SitesADomain(2).sites({"one": DataConfig(path="x.npz")}, 1, tmp_path)
