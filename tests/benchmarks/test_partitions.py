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
from fedwon.client.images.domains import discover
from fedwon.client.images.listing import FolderSource, list_site


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


@given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 400), st.integers(0, 2**32))
def test_even_parts_of_some_rows_share_so_many(count: int, parts: int, most: int, seed: int) -> None:
    dealt = even_parts(count, parts, np.random.default_rng(seed), most)
    rows = np.concatenate(dealt).tolist()
    assert len(rows) == len(set(rows)) == min(most, count)
    assert set(rows) <= set(range(count))
    sizes = [len(part) for part in dealt]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_a_seed_is_a_split_and_another_seed_another(one: int, other: int) -> None:
    labels = np.arange(120) % 4
    for deal in (
        lambda rng: even_parts(120, 5, rng),
        lambda rng: dirichlet_parts(labels, 5, 0.5, rng, fewest=1),
    ):
        first, again, second = ([part.tolist() for part in deal(np.random.default_rng(s))] for s in (one, one, other))
        assert first == again
        assert (first == second) == (one == other)


def test_alpha_must_be_positive() -> None:
    with pytest.raises(ValueError, match="alpha must be positive, found 0"):
        dirichlet_parts(np.arange(100) % 2, 2, 0.0, np.random.default_rng(0))


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


def test_so_many_training_images_of_a_domain(domains: dict[str, DataConfig], tmp_path: Path) -> None:
    sites = SitesADomain(4, most=20).sites(domains, 1, tmp_path)
    assert [len(rows(data.path)[0]) for data in sites.values()] == [5] * 8
    assert sum(len(rows(data.test)[0]) for data in sites.values()) == 66
    assert sum(len(rows(data.path)[0]) for data in SitesADomain(4).sites(domains, 1, tmp_path).values()) == 140


@pytest.mark.parametrize("partition", [SitesADomain(3), LabelSkew(3, 0.5)], ids=str)
def test_image_files_are_dealt_out_as_links(tmp_path: Path, partition: SitesADomain | LabelSkew) -> None:
    for domain in ("left", "right"):
        for part, count in (("train", 40), ("val", 5), ("test", 7)):
            for number in range(count):
                image = tmp_path / "set" / domain / part / "ab"[number % 2] / f"{number}.png"
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(b"")
    sites = partition.sites(discover(tmp_path / "set"), 1, tmp_path / "cache")
    assert len(sites) == 6
    found = []
    for name, data in sites.items():
        for part, listed in list_site(data, tmp_path).items():
            assert isinstance(listed.source, FolderSource)
            found += [path.resolve() for path in listed.source.paths]
            for path, label in zip(listed.source.paths, listed.classes, strict=True):
                assert path.resolve().parts[-4:-1] == (domain_of(name), part.removesuffix("idation"), label)
    assert sorted(found) == sorted((tmp_path / "set").rglob("*.png"))


def test_another_set_of_the_same_names_is_dealt_out_anew(domains: dict[str, DataConfig], tmp_path: Path) -> None:
    partition = SitesADomain(2)
    partition.sites(domains, 1, tmp_path / "cache")
    np.savez(domains["one"].path, images=np.zeros((30, 8, 8, 1), np.uint8), labels=np.arange(30) % 3)
    sites = partition.sites(domains, 1, tmp_path / "cache")
    assert sum(len(rows(data.path)[0]) for name, data in sites.items() if domain_of(name) == "one") == 30


def test_names_of_classes_stay(tmp_path: Path) -> None:
    for part in ("train", "test"):
        labels, names = np.arange(20) % 2, np.array(["cat", "dog"])
        np.savez(tmp_path / f"all_{part}.npz", images=np.zeros((20, 4, 4, 3), np.uint8), labels=labels, classes=names)
    for data in SitesADomain(2).sites(discover(tmp_path), 1, tmp_path / "cache").values():
        assert set(list_site(data, tmp_path)["train"].classes) == {"cat", "dog"}


def test_a_set_without_test_images_cannot_be_dealt_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((20, 4, 4, 3), np.uint8), labels=np.arange(20) % 2)
    with pytest.raises(ValueError, match="one has no test images of its own"):
        SitesADomain(2).sites({"one": DataConfig(path=str(tmp_path / "x.npz"))}, 1, tmp_path)


def test_no_site_without_images(domains: dict[str, DataConfig], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one has too few test images \(33\) for 50 sites"):
        SitesADomain(50).sites(domains, 1, tmp_path)
    assert list(tmp_path.glob("*-seed*")) == []
