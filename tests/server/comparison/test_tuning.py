"""The search: alike for all methods, pruned, and taken up where it was left."""

import math

import pytest

from fedwon.server.comparison import tuning
from fedwon.server.comparison.ledger import Ledger
from fedwon.server.comparison.tuning import FIRST, Search


@pytest.fixture
def url(tmp_path):
    return Ledger(tmp_path).url


@pytest.fixture
def tried(monkeypatch):
    """Trials that train nothing: a rate of 0.1 is best, and clipping is worth a little."""
    specs = []

    def carry_out(_ground, spec, heard):
        specs.append(spec)
        score = 1 / (1 + abs(math.log10(spec.lr / 0.1))) + (0.01 if spec.clipping else 0)
        for number in range(1, spec.rounds + 1):
            heard(number, score * number / spec.rounds)
        return {"failed": None}

    monkeypatch.setattr(tuning, "carry_out", carry_out)
    return specs


def search(url, method, count, rounds=3):
    found = Search(url, method, rounds)
    for _ in range(count):
        found.try_next(None, lambda _number: None)
    return found


def test_every_method_is_tried_with_the_same_settings_first(url, tried):
    for method in ("fedavg", "fedwon"):
        search(url, method, len(FIRST))
    settings = [(spec.lr, spec.clipping) for spec in tried]
    assert settings[: len(FIRST)] == settings[len(FIRST) :]
    assert settings[0] == (0.1, 0.16)
    assert {spec.kind for spec in tried} == {"trial"}, "test images are for runs"


def test_the_best_is_chosen(url, tried):
    choice = search(url, "fedwon", 8).best()
    assert choice.clipping is not None
    assert choice.lr == pytest.approx(0.1, rel=0.5)
    assert choice.trials + choice.pruned == 8


def test_what_is_worse_than_the_others_is_broken_off(url, tried):
    choice = search(url, "fedwon", 10, rounds=6).best()
    assert choice.pruned > 0


def test_a_search_goes_on_where_it_was_left(url, tried):
    search(url, "fedwon", 2)
    again = search(url, "fedwon", 1)
    assert again.done == 3
    assert [(spec.lr, spec.clipping or "off") for spec in tried] == [(lr, clipping) for lr, clipping in FIRST[:3]]


def test_a_trial_that_is_broken_off_from_outside_does_not_count(url, tried):
    found = Search(url, "fedwon", 3)

    def stop(_number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.try_next(None, stop)
    assert found.done == 0
    found.try_next(None, lambda _number: None)
    assert (tried[0].lr, tried[0].clipping) == (tried[1].lr, tried[1].clipping), "it is tried again"


def test_a_trial_of_a_process_that_was_killed_does_not_stay_open(url, tried):
    Search(url, "fedwon", 3)._study.ask()
    assert search(url, "fedwon", 1).done == 1


def test_nothing_that_trains(url, monkeypatch):
    monkeypatch.setattr(tuning, "carry_out", lambda *_args: {"failed": "the loss became nan"})
    choice = search(url, "fedavg", 2).best()
    assert (choice.lr, choice.clipping) == tuning.FALLBACK
    assert math.isnan(choice.score)
