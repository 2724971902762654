"""The protocol without wires: any third of the sites lost at any step gives the exact sum, and never a wrong one."""

from __future__ import annotations

import random
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwon.client import sitting as seat
from fedwon.common.errors import NotASum, TooFewUpdates
from fedwon.common.secagg import shamir
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.masking import apply_masks
from fedwon.server.secure.sitting import MOST_TRIES, Sitting

SIZES = (5, 1, 7)
STEPS = ("keys", "shares", "update", "opening")


class Party:
    """One site: its secrets and its numbers."""

    def __init__(self, name):
        self.name, self.state = name, RecordDict()
        rng = np.random.default_rng(list(name.encode()))
        self.values = rng.normal(size=sum(SIZES))

    def words(self, order):
        return FixedPoint(4.0, order.sites).encode(self.values)

    def upload(self, order):
        taken = seat.take_order(self.state, order, self.name)
        words = self.words(order)
        apply_masks(np.split(words, np.cumsum(SIZES)[:-1]), seat.masks(taken, self.name))
        seat.note_masked(self.state, taken)
        return words


def parties(count):
    return {f"s{number:02}": Party(f"s{number:02}") for number in range(count)}


def held(sites, lost=(), degree=None, seed=0, tamper=lambda answers: answers):
    """A whole sitting, `lost` naming for each step who is gone from it on; the sum and the plain one."""
    gone = [set(), set(), set(), set()]
    for place, names in enumerate(lost):
        for later in gone[place:]:
            later |= set(names)
    server = Sitting(degree, random.Random(seed).shuffle)

    def there(asked, step):
        return {name: message for name, message in asked.items() if name not in gone[step]}

    begun = there(dict.fromkeys(sites, server.setup), 0)
    circles = server.circles({name: seat.set_up(sites[name].state, one, name) for name, one in begun.items()})
    shares = {name: seat.share_keys(sites[name].state, one, name) for name, one in there(circles, 1).items()}
    orders = server.orders(shares, clip_norm=4.0, largest_weight=1.0, by_examples=False)
    uploads = {name: sites[name].upload(one) for name, one in there(orders, 2).items()}
    openings = there(server.openings(uploads), 3)
    answers = {name: seat.reveal(sites[name].state, one, name, lambda *_: None) for name, one in openings.items()}
    masks = server.masks(tamper(answers))
    total, plain = np.zeros(sum(SIZES), dtype=np.uint32), np.zeros(sum(SIZES), dtype=np.int64)
    for name, words in uploads.items():
        total += words
        plain += sites[name].words(orders[name]).view(np.int32)
    apply_masks(np.split(total, np.cumsum(SIZES)[:-1]), masks)
    return total.view(np.int32).tolist(), plain.tolist(), sorted(uploads)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.sampled_from(range(4)), st.data())
def test_any_third_lost_at_any_step_gives_the_exact_sum(count, step, data):
    sites = parties(count)
    third = data.draw(st.permutations(sorted(sites)))[: count // 3]
    if count - len(third) < 3 and step < 2:
        third = third[: count - 3]
    total, plain, uploaded = held(sites, [[]] * step + [third])
    assert total == plain
    assert uploaded == sorted(set(sites) - (set(third) if step < 3 else set()))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.sampled_from([None, 2, 4, 6]), st.data())
def test_whoever_is_lost_whenever_the_sum_is_exact_or_there_is_none(count, degree, data):
    sites = parties(count)
    when = data.draw(st.lists(st.integers(0, 7), min_size=count, max_size=count))  # from 4 on: never
    lost = [[name for name, step in zip(sites, when, strict=True) if step == place] for place in range(4)]
    try:
        total, plain, uploaded = held(sites, lost, degree, seed=count)
    except TooFewUpdates:
        if degree is None:  # all are neighbours: then more than half suffice, of those that shared
            sharing = count - len(lost[0]) - len(lost[1])
            keyed = count - len(lost[0])
            left = sharing - len(lost[2]) - len(lost[3])
            assert left < keyed // 2 + 1 or sharing < 3
    else:
        assert total == plain
        assert len(uploaded) >= 2


@pytest.mark.parametrize("step", range(4), ids=STEPS)
def test_a_random_graph_of_few_neighbours(step):
    sites = parties(24)
    total, plain, _ = held(sites, [[]] * step + [["s03", "s11", "s17"]], degree=10)
    assert total == plain


def test_more_than_half_lost_is_told_with_numbers():
    with pytest.raises(TooFewUpdates, match=r"of the 4 sites that must help to take a mask of s0\d off, 3 are left"):
        held(parties(6), [[], [], ["s00", "s01", "s02"]])
    with pytest.raises(TooFewUpdates, match="3 shares are here of 4"):
        held(parties(6), [[], [], [], ["s00", "s01", "s02"]])


def test_two_are_no_sitting_and_one_is_no_sum():
    with pytest.raises(TooFewUpdates, match="0 masked updates"):
        held(parties(2))
    with pytest.raises(TooFewUpdates, match="1 masked updates"):
        held(parties(3), [[], [], ["s00", "s01"]])


def test_what_the_server_sees_of_one_update_is_noise():
    sites = parties(3)
    server = Sitting()
    circles = server.circles({name: seat.set_up(one.state, server.setup, name) for name, one in sites.items()})
    shares = {name: seat.share_keys(sites[name].state, one, name) for name, one in circles.items()}
    orders = server.orders(shares, clip_norm=4.0, largest_weight=1.0, by_examples=False)
    first = sites["s00"].upload(orders["s00"])
    assert (first != sites["s00"].words(orders["s00"])).all()


def false(share):
    return share[:-1] + bytes([share[-1] ^ 1])


def lying(*names):
    """What makes these sites' shares false."""

    def forged(bad):
        of_counted, of_lost = (tuple(map(false, shares)) for shares in (bad.counted_shares, bad.lost_shares))
        return seat.Revealed(bad.sitting, bad.counted, of_counted, bad.lost, of_lost)

    return lambda answers: {name: forged(one) if name in names else one for name, one in answers.items()}


def test_a_site_that_gives_false_shares_is_made_up_for():
    total, plain, _ = held(parties(7), [[], [], ["s00"]], tamper=lying("s01"))
    assert total == plain


@pytest.mark.parametrize("liars", [(0, 3), (2, 5), (1, 2)], ids=str)
def test_so_are_two_as_long_as_enough_others_are_true(liars):
    total, plain, _ = held(parties(7), tamper=lying(*(f"s{number:02}" for number in liars)))
    assert total == plain


def test_of_many_sites_a_few_that_lie_are_found_and_named_once(caplog):
    liars = ("s02", "s03", "s09", "s17")
    total, plain, _ = held(parties(24), tamper=lying(*liars))
    assert total == plain
    said = [record.getMessage() for record in caplog.records if "false share" in record.getMessage()]
    assert len(said) == 1
    assert all(name in said[0] for name in liars)


def test_the_search_among_false_shares_ends(monkeypatch):
    tried = Mock(side_effect=shamir.join)
    monkeypatch.setattr("fedwon.server.secure.sitting.shamir.join", tried)
    with pytest.raises(NotASum, match="cannot be taken off"):
        held(parties(24), tamper=lying(*(f"s{number:02}" for number in range(12))))
    assert tried.call_count <= MOST_TRIES + 1


def test_too_many_false_shares_give_no_sum_and_no_wrong_one():
    def tamper(answers):
        return {
            name: seat.Revealed(
                one.sitting, one.counted, tuple(map(false, one.counted_shares)), one.lost, one.lost_shares
            )
            for name, one in answers.items()
        }

    with pytest.raises(NotASum, match="cannot be taken off"):
        held(parties(5), tamper=tamper)
