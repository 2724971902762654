"""How hard one update may pull at the mean, whatever its site says of its images."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.update_settings import AdmissionConfig, AggregationConfig
from fedwon.server.admission.outliers import Candidate, refuse_outliers
from fedwon.server.admission.pull import held_back
from fedwon.server.admission.rows import QuarantineRow
from fedwon.server.admission.rules import Past
from fedwon.server.aggregation.averaging import Update, average, weigh
from fedwon.server.auditing import trail
from tests.server.admission.test_quarantine import HONEST, SURVEYS
from tests.server.rounds.test_strategy import start
from tests.server.server_kit import FakeGrid, answering, record, rows, same, shifted, stored

RULES, WEIGHING = AdmissionConfig(), AggregationConfig()
ALONE = 0.11
"""How far `HONEST` move the model without anybody else; it is also the median's."""


def bent(run, by, declared, rounds=1):
    """How far the model's first number goes with a site that says the same in its survey and in its answers."""
    surveys = {**SURVEYS, "x": {"bad": {"train": declared, "validation": 4}}}
    begun = next(iter(run.last()[1].values())).numpy().reshape(-1)[0]
    start(run, FakeGrid({**HONEST, "x": answering(by, declared)}, surveys), rounds=rounds)
    return abs(next(iter(run.last()[1].values())).numpy().reshape(-1)[0] - begun)


@pytest.mark.parametrize(
    ("weights", "by", "declared"),
    [("examples", 1.0, 10**9), ("examples", 5.0, 1000), ("examples", 10.0, 10**9), ("uniform", 10.0, 10**9)],
)
def test_who_lies_in_survey_and_count_gets_no_further(make_run, store, weights, by, declared):
    assert bent(make_run(weights=weights), by, declared) <= ALONE + 10 * ALONE / 3 + 1e-6
    assert rows(store, QuarantineRow) == []  # its site may really have them
    [said] = [line["detail"] for line in trail(store, site="x") if line["action"] == "update held back"]
    assert "10 times is allowed (`run.admission.norm`)" in said


def test_a_site_that_is_held_back_in_every_round_is_told_of_once(make_run, store):
    bent(make_run(rounds=3), 5.0, 1000, rounds=3)
    assert [line["action"] for line in trail(store, site="x")] == ["update held back"]


def test_what_pulls_no_harder_than_it_may_counts_to_the_bit(make_run, store):
    run = make_run()
    initial = run.last()[1]
    bent(run, 0.1, 200)
    steps = {"a": (0.10, 10), "b": (0.11, 10), "c": (0.12, 10), "x": (0.1, 200)}
    updates = [Update(site, count, shifted(initial, by)) for site, (by, count) in steps.items()]
    assert same(run.last()[1], average(updates))
    assert trail(store, site="x") == []


def candidate(site, examples, norm):
    return Candidate(site, examples, None, norm)  # nothing here looks at its tensors


def past(site, examples=10, norm=1.0):
    return Past(site, 1, examples, norm, "")


SMALL = [candidate(site, 10, norm) for site, norm in (("a", 0.9), ("b", 1.0), ("c", 1.2))]


@pytest.mark.parametrize("steps", [1.0, 20**0.5, 20.0])
def test_an_honest_site_with_twenty_times_the_images_is_never_refused(steps):
    """It takes twenty times the steps of the others and so moves the model up to twenty times as far."""
    everyone = [*SMALL, candidate("large", 200, steps)]
    assert refuse_outliers(everyone, (), RULES) == {}
    held = held_back(everyone, (), RULES, WEIGHING)
    assert {site: one.portion for site, one in held.items()} == pytest.approx(
        {"large": 10 * 11 / (100 * steps)} if steps > 1 else {}
    )


def test_the_small_site_among_large_ones_holds_nobody_back():
    everyone = [candidate("small", 1, 0.05), *(candidate(f"s{number}", 400, 2.0) for number in range(3))]
    assert held_back(everyone, (), RULES, WEIGHING) == {}


def test_whoever_lets_sites_weigh_more_lets_them_pull_more():
    everyone = [*SMALL, candidate("relay", 1000, 1.1), candidate("x", 1000, 9.0)]
    assert list(held_back(everyone, (), RULES, AggregationConfig(weight_cap=100))) == ["x"]
    alike = AggregationConfig(weight_cap=100, weights="uniform")
    assert held_back(everyone, (), RULES, alike) == {}
    assert list(held_back([*SMALL, candidate("x", 1000, 12.0)], (), RULES, alike)) == ["x"]


def test_when_nothing_is_held_back():
    liar = candidate("x", 1000, 9.0)
    assert list(held_back([*SMALL, liar], (), RULES, WEIGHING)) == ["x"]
    assert held_back([*SMALL, liar], (), AdmissionConfig(norm=None), WEIGHING) == {}
    assert held_back([SMALL[0], liar], (), RULES, WEIGHING) == {}  # of two, nobody can tell
    assert list(held_back([SMALL[0], liar], [past("b"), past("c"), past("c")], RULES, WEIGHING)) == ["x"]
    assert held_back([], [past("a"), past("b"), past("c")], RULES, WEIGHING) == {}
    still = [candidate(site, 10, 0.0) for site in "defgh"]
    assert held_back(still, (), RULES, WEIGHING) == {}
    assert list(held_back([*still, *SMALL, liar], (), RULES, WEIGHING)) == ["x"]  # whoever idles hides nobody


@given(
    honest=st.lists(st.tuples(st.integers(1, 10**4), st.floats(1e-3, 1e3)), min_size=3, max_size=8),
    lies=st.lists(st.tuples(st.integers(1, 2**53), st.floats(1e-6, 1e9)), max_size=2),
    weights=st.sampled_from(["examples", "uniform"]),
    cap=st.floats(1, 1e6),
)
def test_nobody_pulls_harder_than_the_limit(tmp_path_factory, honest, lies, weights, cap):
    """The slow twin: every weight by `weigh` with all of it, and with the portion that is left."""
    sizes = [*honest, *lies]
    weighing = AggregationConfig(weights=weights, weight_cap=cap)
    everyone = [candidate(f"s{number}", *size) for number, size in enumerate(sizes)]
    held = held_back(everyone, (), RULES, weighing)
    file = stored(tmp_path_factory.getbasetemp() / "any", record(w=np.zeros(1, np.float32)))
    whole = [Update(one.site, int(one.examples), file) for one in everyone]
    less = [
        Update(one.site, one.examples, one.record, portion=held[one.site].portion if one.site in held else 1.0)
        for one in whole
    ]
    before, after = weigh(whole, weights, cap), weigh(less, weights, cap)
    times = max(10, cap) if weights == "examples" else 10
    limit = times * statistics.median(weight * one.norm for weight, one in zip(before, everyone, strict=True))
    for one, full, left in zip(everyone, before, after, strict=True):
        assert 0 < left * one.norm <= limit * (1 + 1e-9)
        assert left == full or full * one.norm > limit
