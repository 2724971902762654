"""From scores to means and differences."""

import pytest

from fedwon.server.comparison.agenda import nothing_right
from fedwon.server.comparison.outcomes import outcomes
from tests.server.comparison.lines_kit import score

SIZES = [4, 2]


def run(a, b, failed=None):
    """A run with so many of four and two rightly classified images on lines a and b."""
    test = {} if failed else {"a": bits(*a), "b": bits(*b)}
    return {"failed": failed, "test": test, "validation": dict(test)}


def bits(first, second):
    return score([1] * first + [0] * (4 - first) + [1] * second + [0] * (2 - second), SIZES)


FACTS = {"lines": {name: {"test_classes": {"x": 4, "y": 2}} for name in "ab"}}
TESTS = nothing_right(FACTS, ("x", "y"), ["a", "b"])


def test_means_gains_and_the_worst_line():
    runs = {
        "standalone": {1: run((4, 0), (2, 1)), 2: run((4, 0), (2, 1))},
        "fedwon": {1: run((4, 2), (2, 1)), 2: run((4, 1), (3, 1)), 3: run((0, 0), (0, 0))},
    }
    found = outcomes(runs, {}, TESTS)
    assert found.seeds == (1, 2), "only what all methods have finished"
    assert found.by_line["fedwon"] == pytest.approx({"a": (1 + 0.75) / 2, "b": (0.5 + 0.625) / 2})
    assert found.gains["fedwon"].mean == pytest.approx(((1 + 0.75) / 2 - 0.5 + (0.5 + 0.625) / 2 - 0.5) / 2)
    assert found.line_gains["fedwon"]["a"].mean == pytest.approx(0.375)
    assert found.worst["fedwon"].mean == pytest.approx(((0.5 - 0.5) + (0.625 - 0.5)) / 2)
    assert found.pairs == {}


def test_a_run_that_broke_down_is_wrong_throughout():
    runs = {
        "standalone": {1: run((4, 2), (4, 2)), 2: run((4, 2), (4, 2))},
        "fedavg": {1: run((4, 2), (4, 2)), 2: run((), (), "the loss became nan")},
    }
    found = outcomes(runs, {}, TESTS)
    assert found.diverged == {"standalone": 0, "fedavg": 1}
    assert found.by_line["fedavg"]["a"] == pytest.approx(0.5)


def test_lines_that_took_no_part():
    unseen = {
        "standalone": {"a": {1: bits(2, 1), 2: bits(2, 1)}, "b": {1: bits(4, 2), 2: bits(4, 2)}},
        "fedwon": {"a": {1: bits(4, 2), 2: bits(4, 1), 3: bits(0, 0)}},
    }
    found = outcomes({}, unseen, TESTS)
    assert found.unseen["standalone"] == pytest.approx({"a": 0.5, "b": 1.0})
    assert found.unseen_gains["fedwon"].mean == pytest.approx((1 + 0.75) / 2 - 0.5)
    assert found.unseen_gains["fedwon"].seeds == 2


def test_nothing_at_all():
    found = outcomes({}, {}, {})
    assert found.seeds == ()
    assert found.gains == {}


def test_what_is_stored_is_json():
    runs = {"standalone": {1: run((4, 2), (4, 2))}, "fedwon": {1: run((4, 2), (4, 2))}}
    row = outcomes(runs, {}, TESTS).as_dict()["gains"]["fedwon"]
    assert row["low"] is None
    assert row["high"] is None
    assert row["mean"] == 0
