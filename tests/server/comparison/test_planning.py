"""A budget is a time, a plan fits into it, and more time never plans less."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.errors import ConfigError
from fedwon.server.comparison.planning import MARGIN, Clock, Pace, choose, choose_rest, rungs, seconds_for, seconds_of

METHODS = ("standalone", "fedavg", "fedbn", "fedwon")


def pace(seconds=1.0, overhead=0.5):
    return Pace(dict.fromkeys(METHODS, seconds), overhead)


@pytest.mark.parametrize(("text", "seconds"), [("20m", 1200), ("90s", 90), ("1h30m", 5400), ("2h", 7200), ("0.5m", 30)])
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "soon", "-5m", "5m!", "0s", "m"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match="is no time"):
        seconds_of(text)


@given(st.floats(1, 1e6), st.floats(0.01, 50), st.integers(2, 12), st.integers(12, 1000))
def test_a_plan_fits_or_is_the_smallest(seconds, each, lines, images):
    plan = choose(pace(each), METHODS, [images] * lines, seconds)
    share = min(plan.max_train or images, images) / images
    cost = seconds_for(plan, pace(each * share), METHODS, lines)
    least = rungs(lines)[-1]
    assert cost <= seconds * MARGIN + 1e-6 or (plan.rounds, plan.seeds) == (least.rounds, least.seeds)


@given(st.floats(10, 1e5), st.floats(1, 100))
def test_more_time_never_plans_fewer_rounds(seconds, factor):
    counts = [300] * 4
    less, more = (choose(pace(), METHODS, counts, time) for time in (seconds, seconds * factor))
    assert more.rounds >= less.rounds
    assert (more.max_train or 1000) >= (less.max_train or 1000)


def test_of_two_lines_none_is_left_out():
    assert {plan.unseen for plan in rungs(2)} == {0}
    assert rungs(3)[0].unseen == 3


def test_the_rest_is_planned_anew_with_the_search_as_it_was():
    plan = choose(pace(), METHODS, [100] * 4, 100)
    rest = choose_rest(plan, pace(0.1, 0.1), METHODS, 4, 1000)
    assert rest.rounds > plan.rounds
    assert (rest.trials, rest.trial_rounds, rest.max_train) == (plan.trials, plan.trial_rounds, plan.max_train)


def test_a_clock_keeps_something_for_the_report():
    assert 90 < Clock(100).left <= 95
    assert Clock(100, since=time.monotonic() - 60).left < 40
    assert 0 < Clock(1).left <= 0.75
