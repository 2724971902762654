"""The climb over the grid of learning rates, and what a row's settings are."""

import json

import pytest

from benchmarks.paper.protocol import FINE_RATES, RATES, SMALL_BATCH_RATES
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.spec import result_path
from benchmarks.paper.tuning import chosen, next_rates, pending, trials


@pytest.mark.parametrize("best", range(5))
def test_the_climb_finds_a_single_top_and_looks_at_both_of_its_sides(best):
    scores = {}
    while wanted := next_rates(scores, RATES):
        scores |= {lr: -abs(RATES.index(lr) - best) for lr in wanted}
    assert max(scores, key=scores.get) == RATES[best]
    assert set(RATES[max(best - 1, 0) : best + 2]) <= set(scores)


def test_it_starts_in_the_middle_and_prefers_the_lower_of_equals():
    assert next_rates({}, RATES) == [0.1]
    assert next_rates({0.1: 0.5}, RATES) == [0.03, 0.3]
    assert next_rates({0.03: 0.6, 0.1: 0.6, 0.3: 0.5}, RATES) == [0.01]


def test_all_methods_of_a_protocol_have_one_grid():
    assert PROTOCOLS["digits"].rates(32) == RATES
    assert {plan.rates(1) for plan in PROTOCOLS.values()} == {SMALL_BATCH_RATES}


def write(spec, results, correct):
    score = {"site": {"validation": {"correct": correct, "examples": 100}}}
    path = result_path(spec, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"scores": {} if correct is None else {"8": score}}), encoding="utf-8")


def test_a_row_is_tuned_rate_by_rate_on_validation_images(tmp_path):
    row = ("digits_small", "fedavg", 32)
    assert PROTOCOLS["digits_small"].rates(32) == FINE_RATES
    assert pending(*row, tmp_path) == trials(*row, 0.3)
    reached = {0.3: (65, None), 0.6: (9, 9), 0.1: (60, 70), 0.03: (40, 50)}  # without and with clipping; None: diverged
    for lr, (plain, clipped) in reached.items():
        assert chosen(*row, tmp_path) is None
        for spec, correct in zip(trials(*row, lr), (plain, clipped), strict=True):
            write(spec, tmp_path, correct)
    assert pending(*row, tmp_path) == []
    assert chosen(*row, tmp_path) == (0.1, 0.16)


def test_a_protocol_can_take_over_anothers_tuning(tmp_path):
    for lr, correct in ((0.03, 1), (0.1, 2), (0.3, 1), (0.6, 0)):
        for spec in trials("digits_small", "fedbn", 32, lr):
            write(spec, tmp_path, correct)
    assert PROTOCOLS["digits_without_svhn"].tuned_as == "digits_small"
    assert chosen("digits_without_svhn", "fedbn", 32, tmp_path) == (0.1, None)


def test_what_takes_over_tuning_takes_it_from_a_protocol_with_such_rows():
    for plan in PROTOCOLS.values():
        if plan.tuned_as:
            source = PROTOCOLS[plan.tuned_as]
            assert not source.tuned_as
            assert all(set(batches) <= set(source.rows[name]) for name, batches in plan.rows.items())


def test_an_unclipped_row_shares_the_unclipped_tuning_runs_of_its_method(tmp_path):
    shared = trials("digits", "fedbn_unclipped", 32, 0.1)
    assert shared == [spec for spec in trials("digits", "fedbn", 32, 0.1) if spec.clipping is None]
    for lr, correct in ((0.03, 1), (0.1, 2), (0.3, 1)):
        for spec in trials("digits", "fedbn_unclipped", 32, lr):
            write(spec, tmp_path, correct)
    assert chosen("digits", "fedbn_unclipped", 32, tmp_path) == (0.1, None)
    assert chosen("digits", "fedbn", 32, tmp_path) is None
