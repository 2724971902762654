"""Robust rules against slow twins and against Flower's own strategies, and what cannot be asked for."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwon.common.config import parse
from fedwon.common.errors import ConfigError
from fedwon.common.run_config import RunConfig
from fedwon.common.update_settings import AggregationConfig
from fedwon.server.aggregation import differences
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.aggregation.krum import choose_nearest, squared_distances
from fedwon.server.aggregation.robust import aggregate
from fedwon.server.relays.joining import check_rule
from tests.server.rounds.test_strategy import reasons, start
from tests.server.server_kit import FakeGrid, answering, make_home, record, same, small_run, stored

TYPES = {"w": "float32", "b": "float32"}
ROBUST = ("median", "trimmed_mean", "krum", "multi_krum", "bulyan", "norm_clipping")


def made(count, seed, folder=None):
    """Updates around a common start; some share values, so that there are ties."""
    rng = np.random.default_rng(seed)
    begun = record(w=rng.normal(size=(2, 3)).astype(np.float32), b=np.zeros(5, np.float32), n=np.int64(1))
    updates = []
    for site in range(count):
        arrays = record(
            w=rng.normal(size=(2, 3)).astype(np.float32), b=rng.integers(-2, 3, 5).astype(np.float32), n=np.int64(site)
        )
        updates.append(Update(f"s{site}", int(rng.integers(1, 50)), arrays))
    if folder is not None:
        updates = [Update(one.site, one.examples, stored(folder / one.site, one.record)) for one in updates]
    return updates, [begun] * count


def matrix(updates, name):
    return np.stack([one.record[name].numpy().astype(float).ravel() for one in updates])


def slow_median(updates, starts, rules):
    return {name: [sorted_middle(column) for column in matrix(updates, name).T] for name in TYPES}


def sorted_middle(column):
    ordered = sorted(column)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def slow_trimmed(updates, starts, rules):
    cut = int(rules.trim * len(updates))
    return {
        name: [sum(sorted(c)[cut : len(updates) - cut]) / (len(updates) - 2 * cut) for c in matrix(updates, name).T]
        for name in TYPES
    }


def slow_scores(updates, hostile):
    flat = np.concatenate([matrix(updates, name) for name in TYPES], axis=1)
    found = []
    for i, one in enumerate(flat):
        others = sorted(float(((one - other) ** 2).sum()) for j, other in enumerate(flat) if j != i)
        found.append(sum(others[: max(1, len(flat) - hostile - 2)]))
    return found


def slow_nearest(updates, hostile, count):
    found = slow_scores(updates, hostile)
    chosen = sorted(range(len(updates)), key=lambda i: (round(found[i], 9), i))[:count]
    return [updates[i] for i in sorted(chosen)]


def slow_mean(updates):
    weights = np.array([one.examples for one in updates], float)
    weights = np.minimum(weights, 10 * np.median(weights))
    return {name: (weights / weights.sum()) @ matrix(updates, name) for name in TYPES}


def slow_krum(updates, starts, rules):
    count = 1 if rules.rule == "krum" else rules.selected or len(updates) - rules.hostile
    return slow_mean(slow_nearest(updates, rules.hostile, count))


def slow_bulyan(updates, starts, rules):
    chosen = slow_nearest(updates, rules.hostile, len(updates) - 2 * rules.hostile)
    kept, found = len(chosen) - 2 * rules.hostile, {}
    for name in TYPES:
        found[name] = [
            sum(sorted(column, key=lambda value: abs(value - sorted_middle(column)))[:kept]) / kept
            for column in matrix(chosen, name).T
        ]
    return found


def slow_clipping(updates, starts, rules):
    base = {name: starts[0][name].numpy().astype(float).ravel() for name in TYPES}
    moves = [{name: matrix([one], name)[0] - base[name] for name in TYPES} for one in updates]
    norms = [np.sqrt(sum((move[name] ** 2).sum() for name in TYPES)) for move in moves]
    limit = rules.clip_norm or np.median(norms)
    weights = np.minimum([one.examples for one in updates], 10 * np.median([one.examples for one in updates]))
    shares = weights / weights.sum()
    return {
        name: base[name] + sum(s * min(1, limit / n) * m[name] for s, n, m in zip(shares, norms, moves, strict=True))
        for name in TYPES
    }


SLOW = {
    "median": slow_median,
    "trimmed_mean": slow_trimmed,
    "krum": slow_krum,
    "multi_krum": slow_krum,
    "bulyan": slow_bulyan,
    "norm_clipping": slow_clipping,
}


@pytest.mark.parametrize("rule", ROBUST)
@given(count=st.integers(7, 9), seed=st.integers(0, 999), cells=st.sampled_from([9, 2**20]))
@settings(max_examples=20)
def test_the_obvious_ones(rule, count, seed, cells):
    if rule == "bulyan":  # its second step breaks ties of distance as it likes; continuous values have none
        updates, starts = made(count, seed)
        rng = np.random.default_rng(seed)
        for one in updates:
            one.record["b"] = record(b=rng.normal(size=5).astype(np.float32))["b"]
    else:
        updates, starts = made(count, seed)
    rules = AggregationConfig(rule=rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differences, "CELLS", cells)
        found = aggregate(updates, starts, rules, TYPES)
    for name, expected in SLOW[rule](updates, starts, rules).items():
        np.testing.assert_allclose(found[name].numpy().ravel(), expected, rtol=1e-5, atol=1e-6)
        assert found[name].numpy().dtype == np.float32


THEIRS = {
    "median": FedMedian(),
    "trimmed_mean": FedTrimmedAvg(beta=0.2),
    "krum": Krum(num_malicious_nodes=1),
    "multi_krum": MultiKrum(num_malicious_nodes=1, num_nodes_to_select=6),
    "bulyan": Bulyan(num_malicious_nodes=1),
}


@pytest.mark.parametrize("rule", THEIRS)
def test_they_are_flowers(rule):
    rng = np.random.default_rng(3)
    updates = [
        Update(
            f"s{site}",
            10 + site,
            record(w=rng.normal(size=(2, 3)).astype(np.float32), b=rng.normal(size=5).astype(np.float32)),
        )
        for site in range(7)
    ]
    replies = []
    for one in updates:
        metrics = MetricRecord({"num-examples": one.examples, "loss": 1.0})
        message = Message(RecordDict(), dst_node_id=1, message_type="train", group_id="1")
        copied = ArrayRecord(dict(one.record.items()))  # theirs takes them apart
        replies.append(Message(RecordDict({"arrays": copied, "m": metrics}), reply_to=message))
    theirs, _ = THEIRS[rule].aggregate_train(1, replies)
    ours = aggregate(updates, [one.record for one in updates], AggregationConfig(rule=rule), TYPES)
    for name in TYPES:
        np.testing.assert_allclose(ours[name].numpy(), theirs[name].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["mean", *ROBUST])
def test_the_order_of_arrival_does_not_matter_and_files_are_as_good(rule, tmp_path):
    rules = AggregationConfig(rule=rule)
    updates, starts = made(7, 5)
    filed, _ = made(7, 5, tmp_path)
    expected = aggregate(updates, starts, rules, TYPES)
    for order in itertools.islice(itertools.permutations(filed), 0, 5040, 1009):
        assert same(aggregate(list(order), starts, rules, TYPES), expected)


def test_the_mean_is_the_average(tmp_path):
    updates, starts = made(4, 1, tmp_path)
    assert same(aggregate(updates, starts, AggregationConfig(), TYPES), average(updates))
    far = AggregationConfig(rule="norm_clipping", clip_norm=1e9)
    assert same(aggregate(updates, starts, far, TYPES), average(updates))


@pytest.mark.parametrize("rule", ROBUST)
def test_one_hostile_update_does_not_get_far(rule):
    updates, starts = made(7, 2)
    far = record(w=np.full((2, 3), 1e6, np.float32), b=np.full(5, -1e6, np.float32), n=np.int64(0))
    hostile = [*updates[:6], Update("s6", 1000, far)]
    rules = AggregationConfig(rule=rule, hostile=1)
    for name in TYPES:
        honest = matrix(updates[:6], name)
        found = aggregate(hostile, starts, rules, TYPES)[name].numpy().ravel()
        assert (found >= honest.min(0) - 5).all()
        assert (found <= honest.max(0) + 5).all()


def test_distances_of_near_updates_do_not_cancel():
    updates = [record(w=np.float32([1000 + step / 1024])) for step in (0, 1, 3)]
    found = squared_distances(updates) * 1024**2
    np.testing.assert_array_equal(found, [[0, 1, 9], [1, 0, 4], [9, 4, 0]])
    assert choose_nearest(updates, 0, 1) == [0]
    assert choose_nearest(updates[:1], 0, 1) == [0]


@pytest.mark.parametrize("rule", ROBUST)
def test_memory_does_not_grow_with_the_sites(tmp_path, monkeypatch, rule):
    monkeypatch.setattr(differences, "CELLS", 2**13)
    rng = np.random.default_rng(0)
    updates = [
        Update(f"s{site:02}", 1, stored(tmp_path / f"{site}", record(w=rng.normal(size=2**15).astype(np.float32))))
        for site in range(28)
    ]
    peaks = {}
    for count in (7, 28):
        some = updates[:count]
        tracemalloc.start()
        aggregate(some, [some[0].record] * count, AggregationConfig(rule=rule), {"w": "float32"})
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[28] < 1.5 * peaks[7] + 300_000


# ---- what cannot be


@pytest.mark.parametrize(
    ("rules", "minimum", "needs"),
    [
        ({"rule": "median"}, 2, 3),
        ({"rule": "trimmed_mean"}, 4, 5),
        ({"rule": "trimmed_mean", "trim": 0.1}, 9, 10),
        ({"rule": "krum"}, 4, 5),
        ({"rule": "multi_krum", "hostile": 2}, 6, 7),
        ({"rule": "multi_krum", "selected": 8}, 7, 8),
        ({"rule": "bulyan", "hostile": 2}, 10, 11),
        ({"rule": "norm_clipping"}, 2, 3),
    ],
)
def test_too_few_updates_for_a_rule(rules, minimum, needs):
    with pytest.raises(ConfigError, match=rf"needs {needs} updates in each round, and `participation` is content with"):
        parse(RunConfig, {"aggregation": rules, "participation": {"minimum": minimum}}, "test")
    parse(RunConfig, {"aggregation": rules, "participation": {"minimum": needs}}, "test")
    with pytest.raises(ConfigError, match="needs"):
        parse(RunConfig, {"aggregation": rules, "participation": {"minimum": needs, "fraction": 0.5}}, "test")
    updates, starts = made(needs - 1, 1)
    with pytest.raises(ValueError, match=f"needs {needs} updates"):
        aggregate(updates, starts, AggregationConfig(**rules), TYPES)


def test_a_relay_has_the_mean(tmp_path):
    config = {"aggregation": AggregationConfig(rule="norm_clipping", clip_norm=1.0)}
    home = make_home(tmp_path / "fed", run=small_run().model_copy(update=config))
    with pytest.raises(ConfigError, match="is not for a relay"):
        check_rule(home)
    home.store.close()


def test_a_rule_that_tells_sites_apart_takes_no_relay(make_run, store, tmp_path):
    run = make_run(minimum=3)
    run.reconfigure(run.config.model_copy(update={"aggregation": AggregationConfig(rule="median")}))
    honest = {site: answering(0.1) for site in "abc"}
    start(run, FakeGrid({**honest, "r": answering(0.1, **{"sites-behind": 4})}))
    assert reasons(store)["r"].startswith("it is the mean of 4 sites behind a relay")
