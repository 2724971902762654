"""The average of updates, against a slow and obvious twin and against Flower's own."""

from __future__ import annotations

import os
import statistics
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwon.common.errors import BrokenFile
from fedwon.server.aggregation import averaging as aggregation
from fedwon.server.aggregation.averaging import Update, average, shares
from tests.server.server_kit import record, same, stored

FLOATS = ["float16", "float32", "float64"]


def update(folder, site, examples, **arrays):
    return Update(site, examples, stored(folder / f"{site}.safetensors", record(**arrays)))


def random_updates(folder, counts, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return [
        update(folder, f"s{i}", count, w=rng.normal(size=(3, 5)).astype(dtype), b=rng.normal(size=7).astype(dtype))
        for i, count in enumerate(counts)
    ]


def slow_average(updates, weights, cap):
    """What the average is, said as plainly as can be, in float64 from start to end."""
    counts = {u.site: 1.0 if weights == "uniform" else float(u.examples) for u in updates}
    limit = cap * statistics.median(counts.values())
    capped = {site: min(count, limit) for site, count in counts.items()}
    total = sum(capped.values())
    return {
        name: sum(u.record[name].numpy().astype(np.float64) * capped[u.site] / total for u in updates)
        for name in updates[0].record
    }


@given(
    counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=6),
    weights=st.sampled_from(["examples", "uniform"]),
    cap=st.floats(1, 100),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 99),
)
@settings(max_examples=50)
def test_the_average_is_the_obvious_one(tmp_path_factory, counts, weights, cap, dtype, seed):  # noqa: PLR0917
    updates = random_updates(tmp_path_factory.mktemp("u"), counts, dtype, seed)
    expected = slow_average(updates, weights, cap)
    result = average(updates, weights, cap)
    for name, wanted in expected.items():
        found = result[name].numpy()
        assert found.dtype == dtype
        # rounded once: within half a unit in the last place, and a little for the order of float64 additions
        assert np.all(
            np.abs(found.astype(np.float64) - wanted) <= 0.51 * np.spacing(np.abs(wanted).astype(dtype)) + 1e-15
        )


@settings(max_examples=25)
@given(order=st.permutations(range(5)), weights=st.sampled_from(["examples", "uniform"]))
def test_the_order_of_arrival_does_not_matter_bit_for_bit(tmp_path_factory, order, weights):
    updates = random_updates(tmp_path_factory.mktemp("u"), [3, 1000, 7, 7, 50])
    assert same(average([updates[i] for i in order], weights), average(updates, weights))


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_it_is_flowers_own_average(tmp_path, weights):
    updates = random_updates(tmp_path, [30, 10, 60])
    key = {u.site: u.examples if weights == "examples" else 1 for u in updates}
    contents = [
        RecordDict({"a": u.record, "m": MetricRecord({"num-examples": key[u.site], "loss": 1.0})}) for u in updates
    ]
    theirs = aggregate_arrayrecords(contents, "num-examples")
    ours = average(updates, weights, cap=1000)
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_allclose(ours[name].numpy(), theirs[name].numpy(), rtol=1e-6, atol=1e-7)


def test_blocks_do_not_show(tmp_path, monkeypatch):
    updates = random_updates(tmp_path, [3, 5])
    whole = average(updates)
    monkeypatch.setattr(aggregation, "BLOCK", 4)
    assert same(average(updates), whole)


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_site_keeps_its_bits(tmp_path, dtype):
    values = np.array([1 / 3, -0.0, 5e-8, 60000], dtype)
    result = average([update(tmp_path, "a", 17, w=values)])
    assert result["w"].numpy().tobytes() == (values + 0).tobytes()


def test_equal_updates_stay_what_they_are(tmp_path):
    values = np.float32([0.1, -3.7, 1e30])
    updates = [update(tmp_path, f"s{i}", 10 + i, w=values) for i in range(3)]
    np.testing.assert_array_equal(average(updates)["w"].numpy(), values)


def test_float16_does_not_overflow_on_the_way(tmp_path):
    updates = [update(tmp_path, f"s{i}", 1, w=np.float16([65504])) for i in range(4)]
    assert average(updates)["w"].numpy() == np.float16(65504)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_integers_are_taken_from_the_first_site(tmp_path, dtype):
    updates = [update(tmp_path, site, 1, n=np.array([value], dtype)) for site, value in (("b", 1), ("a", 0))]
    result = average(updates)["n"].numpy()
    assert result.dtype == dtype
    assert result == [0]


def test_shapes_and_order_are_kept(tmp_path):
    arrays = {"z": np.float32(2), "empty": np.zeros((0, 3), np.float32), "a": np.zeros((2, 1, 3), np.float64)}
    result = average([update(tmp_path, site, 1, **arrays) for site in "ab"])
    assert list(result) == ["z", "empty", "a"]
    assert {name: (array.dtype, tuple(array.shape)) for name, array in result.items()} == {
        "z": ("float32", ()),
        "empty": ("float32", (0, 3)),
        "a": ("float64", (2, 1, 3)),
    }


def test_records_in_memory_are_averaged_as_well(tmp_path):
    kept = random_updates(tmp_path, [1, 2])
    memory = [Update(u.site, u.examples, ArrayRecord(dict(u.record.items()))) for u in kept]
    assert same(average(memory), average(kept))


def counted(*examples):
    return [Update(f"s{i}", count, record()) for i, count in enumerate(examples)]


@pytest.mark.parametrize(
    ("examples", "weights", "cap", "expected"),
    [
        ([30, 10, 60], "examples", 10, [0.3, 0.1, 0.6]),
        ([30, 10, 60], "uniform", 10, [1 / 3, 1 / 3, 1 / 3]),
        ([1, 1, 10**9], "examples", 10, [1 / 12, 1 / 12, 10 / 12]),
        ([1, 1, 10**9], "examples", 1, [1 / 3, 1 / 3, 1 / 3]),
        ([5], "examples", 1, [1.0]),
        ([1, 3], "examples", 1, [1 / 3, 2 / 3]),  # the median of two is between them
    ],
)
def test_shares(examples, weights, cap, expected):
    assert shares(counted(*examples), weights, cap) == pytest.approx(expected)


@given(st.lists(st.integers(1, 2**63), min_size=1, max_size=20), st.floats(1, 1e6))
def test_shares_add_up_to_one_and_none_is_negative(examples, cap):
    found = shares(counted(*examples), "examples", cap)
    assert sum(found) == pytest.approx(1)
    assert min(found) > 0


@pytest.mark.parametrize("examples", [[], [0], [3, -1], [10, 0]])
@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_weights_that_cannot_be(examples, weights):
    with pytest.raises(ValueError):
        shares(counted(*examples), weights, 10)
    with pytest.raises(ValueError):
        average(counted(*examples), weights)


def test_memory_and_open_files_do_not_grow_with_the_number_of_sites(tmp_path, monkeypatch):
    tensor = np.ones(400_000, np.float32)
    updates = [update(tmp_path, f"s{i:02}", 1, a=tensor, b=tensor) for i in range(24)]

    def peak(count):
        tracemalloc.start()
        try:
            average(updates[:count])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(aggregation, "MOST_THREADS", 1)  # threads that overlap by chance would be counted
    few, many, opened, blocks = peak(2), peak(24), set(), aggregation._blocks
    before = len(list(Path("/proc/self/fd").iterdir()))

    def watched(*arguments):
        for block in blocks(*arguments):
            opened.add(len(list(Path("/proc/self/fd").iterdir())) - before)
            yield block

    monkeypatch.setattr(aggregation, "_blocks", watched)
    average(updates)
    assert many < few + tensor.nbytes / 2
    assert opened == {1}


@settings(max_examples=60)
@given(
    values=st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100),
                                       max_value=2.0**100), min_size=9, max_size=9), min_size=1, max_size=12),
    counts=st.data(),
)  # fmt: skip
def test_the_error_is_below_one_unit_in_the_last_place_of_the_largest(tmp_path_factory, values, counts):
    """Against exact fractions. Where large numbers cancel out, the unit is that of what was added up in float64."""
    examples = counts.draw(st.lists(st.integers(1, 10**5), min_size=len(values), max_size=len(values)))
    folder = tmp_path_factory.mktemp("u")
    updates = [
        update(folder, f"s{i:02}", n, w=np.float32(v)) for i, (n, v) in enumerate(zip(examples, values, strict=True))
    ]
    limit = 10 * Fraction(statistics.median(map(Fraction, examples)))
    weights = [min(Fraction(count), limit) for count in examples]
    found = average(updates)["w"].numpy()
    for place, got in enumerate(found):
        terms = [weight * Fraction(float(np.float32(row[place]))) for weight, row in zip(weights, values, strict=True)]
        exact, largest = sum(terms) / sum(weights), sum(map(abs, terms)) / sum(weights)
        room = float(np.spacing(np.float32(abs(float(exact))))) + len(values) * 2.0**-50 * float(largest)
        assert abs(Fraction(float(got)) - exact) < Fraction(room)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_and_spans_do_not_show(tmp_path, monkeypatch, threads):
    rng = np.random.default_rng(2)
    updates = [update(tmp_path, f"s{i}", i + 1, w=rng.normal(size=10_001).astype("f4")) for i in range(5)]
    memory = [Update(u.site, u.examples, ArrayRecord(dict(u.record.items()))) for u in updates]
    for one in memory:
        one.record["w"] = Array(one.record["w"].numpy())  # added up whole, one site after the other
    expected = average(memory)
    monkeypatch.setattr(aggregation, "SPAN", 640)
    monkeypatch.setattr(aggregation, "BLOCK", 64)
    monkeypatch.setattr(aggregation, "MOST_THREADS", threads)
    monkeypatch.setattr(aggregation.os, "cpu_count", lambda: 4)
    assert same(average(updates), expected)


def test_an_update_that_is_cut_short_later_is_told(tmp_path):
    updates = [update(tmp_path, site, 1, w=np.ones(100_000, np.float32)) for site in "ab"]
    path = updates[1].record.blob.path
    os.truncate(path, 300_000)
    with pytest.raises(BrokenFile, match="shorter"):
        average(updates)
    path.unlink()
    with pytest.raises(BrokenFile, match="cannot be read"):
        average(updates)


def test_the_average_is_an_array_of_flowers(tmp_path):
    result = average(random_updates(tmp_path, [1, 2]))["w"]
    theirs = Array(dtype=result.dtype, shape=result.shape, stype=result.stype, data=result.data)
    np.testing.assert_array_equal(theirs.numpy(), result.numpy())


def test_nobody_writes_into_an_average(tmp_path):
    update = Update("a", 1, stored(tmp_path / "a", record(w=np.float32([1, 2]), n=np.int64(3))))
    for array in average([update]).values():
        with pytest.raises(ValueError, match="read-only"):
            array.numpy()[...] = 0
