"""Epsilon: against Opacus's two accountants, against the definition, and what adds up to what."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwon.common import noise
from fedwon.common.accounting import Spent, gaussian_epsilon, gaussian_noise, sampled_epsilon
from fedwon.common.errors import MissingExtra


def opacus(kind: str, rows, delta=1e-5, **more) -> float:
    from opacus.accountants import PRVAccountant, RDPAccountant

    accountant = {"rdp": RDPAccountant, "prv": PRVAccountant}[kind]()
    accountant.history = [(row.noise, row.rate, row.steps) for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, **more))


@pytest.mark.parametrize(
    "rows",
    [
        [Spent(1.0, 0.01, 1000)],
        [Spent(0.6, 0.1, 50), Spent(2.0, 0.3, 40)],
        [Spent(4.0, 1.0, 20)],
    ],
)
def test_steps_cost_what_opacus_says(rows):
    epsilon = sampled_epsilon(rows, 1e-5)
    assert epsilon == pytest.approx(opacus("rdp", rows), rel=0.02)
    exact = opacus("prv", rows, eps_error=0.1)
    assert exact - 0.1 <= epsilon <= 1.5 * exact + 0.3  # an upper bound, and not a wild one


def test_nothing_costs_nothing_and_more_costs_more():
    assert sampled_epsilon([], 1e-5) == 0.0
    costs = [sampled_epsilon([Spent(1.0, 0.05, steps)], 1e-5) for steps in (1, 10, 100)]
    assert costs == sorted(costs)
    assert sampled_epsilon([Spent(1.0, 0.05, 10)] * 2, 1e-5) == pytest.approx(
        sampled_epsilon([Spent(1.0, 0.05, 20)], 1e-5)
    )
    assert math.isfinite(sampled_epsilon([Spent(0.1, 1.0, 1000)], 1e-5))


def test_without_opacus_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis", None)
    with pytest.raises(MissingExtra, match="Opacus") as caught:
        sampled_epsilon([Spent(1.0, 0.1, 1)], 1e-5)
    assert "fedwon[privacy]" in caught.value.hint


@pytest.mark.parametrize(("sigma", "releases"), [(1.0, 1), (2.0, 10), (5.0, 60), (0.3, 4)])
def test_noise_on_sums_costs_what_the_accountants_say(sigma, releases):
    epsilon = gaussian_epsilon(sigma, releases, 1e-5)
    assert epsilon <= opacus("rdp", [Spent(sigma, 1.0, releases)]) + 1e-6
    if sigma >= 1:
        assert epsilon == pytest.approx(opacus("prv", [Spent(sigma, 1.0, releases)], eps_error=0.05), abs=0.06)


def test_one_release_has_the_tail_that_the_definition_asks_for():
    """Slow twin: the privacy loss of a Gaussian, sampled."""
    sigma, delta = 1.5, 0.01
    epsilon = gaussian_epsilon(sigma, 1, delta)
    drawn = np.random.default_rng(1).normal(1.0, sigma, 2_000_000)  # with the member; 0 is without
    loss = (drawn**2 - (drawn - 1.0) ** 2) / (2 * sigma**2)
    assert np.maximum(1 - np.exp(epsilon - loss), 0).mean() == pytest.approx(delta, rel=0.03)


@given(st.floats(0.05, 100), st.integers(1, 2000), st.sampled_from([1e-9, 1e-5, 1e-2]))
def test_epsilon_is_finite_and_falls_with_the_noise(sigma, releases, delta):
    epsilon = gaussian_epsilon(sigma, releases, delta)
    assert 0 <= epsilon < math.inf
    assert gaussian_epsilon(2 * sigma, releases, delta) <= epsilon


@settings(max_examples=30)
@given(st.floats(0.05, 50), st.integers(1, 500))
def test_the_noise_that_an_epsilon_needs(epsilon, rounds):
    needed = gaussian_noise(epsilon, rounds, 1e-5)
    assert gaussian_epsilon(needed, rounds, 1e-5) <= epsilon
    assert gaussian_epsilon(needed * 0.999, rounds, 1e-5) > epsilon


def test_no_round_costs_nothing():
    assert gaussian_epsilon(1.0, 0, 1e-5) == 0.0


def test_noise_is_normal_and_never_the_same(monkeypatch):
    drawn = noise.normal(200_001)
    assert drawn.shape == (200_001,)
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)
    assert np.mean(np.abs(drawn) < 1) == pytest.approx(0.6827, abs=0.01)
    assert np.mean(np.abs(drawn) > 3) == pytest.approx(0.0027, abs=0.001)
    assert not (drawn[:100] == noise.normal(100)).any()
    monkeypatch.setattr(noise, "BLOCK", 3)
    assert len(set(noise.normal(10))) == 10
    assert noise.normal(0).shape == (0,)


def test_even_numbers_are_even():
    drawn = noise.uniform(100_000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.histogram(drawn, 10, (0, 1))[0].min() > 9_000


def test_noise_comes_from_the_operating_system(monkeypatch):
    """No seed of torch, NumPy or Python has a say."""
    asked = []
    monkeypatch.setattr(noise.os, "urandom", lambda count: asked.append(count) or bytes(count))
    assert noise.uniform(4).tolist() == [0.0] * 4
    assert np.isfinite(noise.normal(5)).all()
    assert asked == [32, 24, 24]
