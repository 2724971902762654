"""The server's step, against a slow and obvious twin, bit for bit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwon.common.arrays import write_record
from fedwon.common.update_settings import AggregationConfig
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.aggregation.differences import WIDEST
from fedwon.server.aggregation.momentum import caught_up, step
from fedwon.server.aggregation.robust import aggregate
from tests.server.server_kit import record, same, stored

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def drawn(shape, dtype, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def slow_steps(model, means, momentum, lr):
    """FedAvgM number by number; yields model and velocity after each round."""
    velocity = np.zeros_like(model)
    for mean in means:
        model, velocity, before = model.copy(), velocity.copy(), model
        for place in np.ndindex(model.shape):
            direction = float(before[place]) - float(mean[place])
            velocity[place] = momentum * float(velocity[place]) + direction
            model[place] = float(before[place]) - lr * float(velocity[place])
        yield model, velocity


@settings(max_examples=30, deadline=None)
@given(
    shape=shapes,
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    momentum=st.floats(0, 0.999),
    lr=st.floats(0.01, 2),
    seed=st.integers(0, 99),
)
def test_it_is_the_obvious_step(tmp_path_factory, shape, dtype, momentum, lr, seed):  # noqa: PLR0917
    folder = tmp_path_factory.mktemp("steps")
    first, means = drawn(shape, dtype, seed), [drawn(shape, dtype, (seed, turn)) for turn in range(3)]
    model, velocity = stored(folder / "0", record(w=first)), None
    for turn, (expected, moving) in enumerate(slow_steps(first, means, momentum, lr)):
        made = step(model, record(w=means[turn]), velocity, {"w"}, momentum=momentum, lr=lr)
        velocity = stored(folder / f"{turn}.velocity", made.velocity)
        model = stored(folder / f"{turn}.model", made.model)
        assert same(velocity, record(w=moving))
        assert same(model, record(w=expected))


def test_tensors_of_many_blocks(tmp_path):
    size = 2 * WIDEST + 7
    first, mean, before = (drawn((size,), "float32", seed) for seed in (1, 2, 3))
    made = step(
        stored(tmp_path / "m", record(w=first)),
        record(w=mean),
        stored(tmp_path / "v", record(w=before)),
        {"w"},
        momentum=0.9,
        lr=0.5,
    )
    velocity = (0.9 * before.astype(np.float64) + (first.astype(np.float64) - mean)).astype(np.float32)
    assert same(made.velocity, record(w=velocity))
    assert same(made.model, record(w=(first - 0.5 * velocity.astype(np.float64)).astype(np.float32)))


def test_what_training_does_not_move_takes_the_mean(tmp_path):
    """A variance that falls from 1 to 0.1 would be below zero at the next step."""
    model = record(w=np.float32([1.0]), running_var=np.float32([1.0]), counter=np.int64([3]))
    mean = record(w=np.float32([0.5]), running_var=np.float32([0.1]), counter=np.int64([4]))
    before = record(w=np.float32([1.0]))
    made = step(model, mean, before, {"w", "counter"}, momentum=0.5, lr=1.0)
    assert list(made.model) == ["w", "running_var", "counter"]
    assert same(made.velocity, record(w=np.float32([1.0])))
    assert same(made.model, record(w=np.float32([0.0]), running_var=np.float32([0.1]), counter=np.int64([4])))


def test_memory_holds_one_tensor_at_a_time(tmp_path):
    size, tensors = 2**19, 8  # 2 MiB each
    names = [f"w{number}" for number in range(tensors)]
    model, mean, before = (
        stored(tmp_path / f"{seed}", record(**{name: drawn((size,), "float32", seed) for name in names}))
        for seed in (1, 2, 3)
    )
    made = step(model, mean, before, set(names), momentum=0.9, lr=1.0)
    tracemalloc.start()
    try:
        write_record(made.velocity, tmp_path / "velocity")
        write_record(made.model, tmp_path / "model")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 4 * size  # of eight tensors, and of none of the three files


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean", "krum", "multi_krum", "bulyan", "norm_clipping"])
def test_a_late_update_counts_by_what_it_changed(tmp_path, rule):
    """All moved their start by the same; the late one's start was elsewhere, and that must not be seen."""
    old, model = (record(w=drawn((5, 3), "float32", seed), s=np.float32([seed])) for seed in (1, 2))
    moved = drawn((5, 3), "float32", 3)

    def update(site, start, late=0):
        arrays = record(w=start["w"].numpy().astype(np.float64) + moved, s=np.float64([7.0]))
        return Update(site, 10, stored(tmp_path / site, arrays), late, portion=0.25 if late else 1.0)

    late = update("late", old, 2)
    pairs = [(update(f"s{number}", model), model) for number in range(6)]
    pairs.append(caught_up(late, old, model, {"w"}))
    assert (pairs[-1][0].rounds_late, pairs[-1][0].portion) == (2, 0.25), "held back by admission, it stays so"
    assert pairs[-1][0].record.blob == late.record.blob
    np.testing.assert_array_equal(pairs[-1][1]["w"].numpy(), model["w"].numpy())
    np.testing.assert_array_equal(pairs[-1][1]["s"].numpy(), old["s"].numpy())
    made = aggregate(
        [update for update, _ in pairs],
        [start for _, start in pairs],
        AggregationConfig(rule=rule, clip_norm=1e3),
        {"w": "float64", "s": "float64"},
    )
    np.testing.assert_allclose(made["w"].numpy(), model["w"].numpy().astype(np.float64) + moved, rtol=1e-12)
    np.testing.assert_allclose(made["s"].numpy(), [7.0], rtol=1e-12)


def test_a_late_update_in_a_mean_of_many_blocks(tmp_path):
    size = 2 * WIDEST + 7
    old, model, moved = (record(w=drawn((size,), "float32", seed)) for seed in (1, 2, 3))
    late = Update("late", 10, stored(tmp_path / "late", moved), 1)
    there = Update("there", 10, stored(tmp_path / "there", model))
    made = average([caught_up(late, old, model, {"w"})[0], there], element_types={"w": "float64"}, staleness=0.0)
    w, o, m = (one["w"].numpy().astype(np.float64) for one in (model, old, moved))
    np.testing.assert_allclose(made["w"].numpy(), w + (m - o) / 2, rtol=1e-12, atol=1e-12)
