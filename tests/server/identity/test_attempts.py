"""Token buckets of the enrolment port."""

from __future__ import annotations

import pytest

from fedwon.server.identity import attempts
from fedwon.server.identity.attempts import Attempts, Bucket


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_a_bucket_empties_and_fills_again(clock):
    bucket = Bucket(6, clock)
    for _ in range(6):
        assert bucket.wait() == 0
        bucket.take()
    assert bucket.wait() == pytest.approx(10)
    clock.seconds += 4
    assert bucket.wait() == pytest.approx(6)
    clock.seconds += 6
    assert bucket.wait() == 0
    clock.seconds += 3600
    for _ in range(6):  # and never holds more than a minute's
        assert bucket.wait() == 0
        bucket.take()
    assert bucket.wait() > 0


def test_an_address_has_its_own_limit(clock):
    counted = Attempts(2, 100, clock)
    assert [counted.failed("10.0.0.1") > 0 for _ in range(4)] == [False, False, True, True]
    assert counted.failed("10.0.0.2") == 0


def test_all_together_have_one(clock):
    counted = Attempts(10, 3, clock)
    assert [counted.failed(f"10.0.0.{number}") > 0 for number in range(5)] == [False] * 3 + [True] * 2
    clock.seconds += 60
    assert counted.failed("10.0.0.9") == 0


def test_asking_while_it_is_empty_costs_nothing(clock):
    """However often somebody tries meanwhile, after the wait it is looked at again."""
    counted = Attempts(1, 100, clock)
    counted.failed("10.0.0.1")
    for _ in range(600):
        assert counted.failed("10.0.0.1") > 0
        clock.seconds += 0.1
    assert counted.failed("10.0.0.1") == 0


def test_one_network_of_ipv6_is_one_address(clock):
    counted = Attempts(1, 100, clock)
    assert counted.failed("2001:db8::1") == 0
    assert counted.failed("2001:db8::2") > 0
    assert counted.failed("2001:db8:0:1::1") == 0
    assert counted.failed("::ffff:10.0.0.1") == 0
    assert counted.failed("::ffff:10.0.0.2") == 0
    assert counted.failed("10.0.0.1") > 0


def test_addresses_are_not_remembered_without_end(clock, monkeypatch):
    monkeypatch.setattr(attempts, "ADDRESSES", 3)
    counted = Attempts(1, 10_000, clock)
    for number in range(100):
        counted.failed(f"10.0.0.{number}")
    assert list(counted._buckets) == ["10.0.0.97", "10.0.0.98", "10.0.0.99"]
