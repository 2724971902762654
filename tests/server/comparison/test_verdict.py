# ruff: noqa: E501 - a case a line
"""Made-up results that point each way."""

import pytest

from fedwon.server.comparison.outcomes import Outcomes
from fedwon.server.comparison.verdict import decide, recommend
from tests.server.comparison.lines_kit import change

METHODS = ("fedavg", "fedbn", "fedwon")


def verdict(gains, ours, validation=None):
    """Gains over alone by method, and FedWon's lead over each other, as (mean, half) in points."""
    differences = {name: change(*row) for name, row in gains.items()}
    pairs = {("fedwon", name): change(*row) for name, row in ours.items()}
    return decide(differences, pairs, validation or {"fedavg": 0.5, "fedbn": 0.6, "fedwon": 0.7})


@pytest.mark.parametrize(
    ("gains", "ours", "code", "method"),
    [
        # ahead of everything
        ({"fedavg": (2, 1), "fedbn": (3, 1), "fedwon": (8, 2)}, {"fedavg": (6, 2), "fedbn": (5, 2)}, "fedwon", "fedwon"),
        # nobody is ahead by two points
        ({"fedavg": (2, 1), "fedbn": (5, 1), "fedwon": (5, 1)}, {"fedavg": (3, 1), "fedbn": (0, 1.5)}, "fedwon_level", "fedwon"),
        # FedBN is ahead for sure
        ({"fedavg": (1, 2), "fedbn": (9, 2), "fedwon": (4, 2)}, {"fedavg": (3, 4), "fedbn": (-5, 3)}, "keep_batch_norm", "fedbn"),
        # both others are ahead: the better one
        ({"fedavg": (9, 2), "fedbn": (8, 2), "fedwon": (2, 1)}, {"fedavg": (-7, 2), "fedbn": (-6, 2)}, "keep_batch_norm", "fedavg"),
        # only batch norm is shown to be worth it
        ({"fedavg": (1, 2), "fedbn": (4, 2), "fedwon": (3, 5)}, {"fedavg": (2, 5), "fedbn": (-1, 5)}, "keep_batch_norm", "fedbn"),
        # worth it, but the methods cannot be told apart
        ({"fedavg": (4, 3), "fedbn": (6, 3), "fedwon": (5, 3)}, {"fedavg": (1, 5), "fedbn": (-1, 5)}, "undecided", "fedwon"),
        # narrow intervals around nothing
        ({"fedavg": (-1, 1), "fedbn": (0.5, 1), "fedwon": (0.2, 1)}, {"fedavg": (1, 1), "fedbn": (0, 1)}, "alone", None),
        # harm, for sure
        ({"fedavg": (-9, 1), "fedbn": (-5, 1), "fedwon": (-7, 1)}, {"fedavg": (2, 1), "fedbn": (-2, 1)}, "alone", None),
        # wide intervals
        ({"fedavg": (1, 9), "fedbn": (4, 8), "fedwon": (3, 9)}, {"fedavg": (2, 9), "fedbn": (-1, 9)}, "not_enough_data", None),
    ],
)  # fmt: skip
def test_each_answer(gains, ours, code, method):
    answer = verdict(gains, ours)
    assert (answer.code, answer.method) == (code, method)


def test_the_validation_images_say_what_to_begin_with():
    gains = {"fedavg": (4, 3), "fedbn": (6, 3), "fedwon": (5, 3)}
    ours = {"fedavg": (1, 5), "fedbn": (-1, 5)}
    assert verdict(gains, ours, {"fedavg": 0.9, "fedbn": 0.2, "fedwon": 0.3}).method == "fedavg"


def test_a_method_without_batch_norm_that_is_ahead_is_named_as_such():
    gains = {"fedavg_gn": change(6, 2), "fedwon": change(1, 3)}
    assert decide(gains, {("fedwon", "fedavg_gn"): change(-5, 2)}, {}).code == "other_method"


def test_one_seed_decides_nothing():
    assert decide({"fedwon": change(20, 1, seeds=1)}, {}, {}).code == "not_enough_time"
    assert decide({}, {}, {}).code == "not_enough_time"


def test_how_many_images_would_show_it():
    answer = decide({"fedwon": change(4, 8)}, {}, {})
    assert answer.code == "not_enough_data"
    assert answer.images_factor == pytest.approx(4)


def test_runs_that_scatter_want_time_and_not_images():
    assert decide({"fedwon": change(4, 8, by_images=2)}, {}, {}).code == "not_enough_time"


def outcomes(gain, mean):
    by_line = {"standalone": {"a": mean}, "fedwon": {"a": mean}}
    return Outcomes((1, 2, 3), by_line, {"fedwon": gain}, {}, {}, {}, {}, {}, {}, {})


@pytest.mark.parametrize(
    ("mean", "rounds", "rising", "code"),
    [
        (0.9, 20, False, "alone"),
        (0.9, 4, False, "not_enough_time"),
        (0.52, 20, False, "not_enough_time"),
        (0.9, 20, True, "not_enough_time"),
    ],
)
def test_of_no_use_is_said_of_trained_models_only(mean, rounds, rising, code):
    found = outcomes(change(0, 1), mean)
    assert recommend(found, rounds=rounds, classes=2, rising=rising).code == code


def test_a_gain_is_a_gain_however_short_the_training():
    found = outcomes(change(9, 2), 0.6)
    assert recommend(found, rounds=4, classes=2, rising=True).code == "fedwon"
