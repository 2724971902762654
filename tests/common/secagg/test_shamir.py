"""Shares of secrets, against a slow twin that solves the equations of the polynomial."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.secagg.shamir import PRIME, SECRET_BYTES, SHARE_BYTES, join, split

SECRETS = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


def solved(shares):
    """The polynomial's value at 0, by Gaussian elimination of its Vandermonde equations modulo the prime."""
    points = [(int.from_bytes(share[:2], "big"), int.from_bytes(share[2:], "big")) for share in shares]
    rows = [[pow(x, power, PRIME) for power in range(len(points))] + [y] for x, y in points]
    for column in range(len(rows)):
        pivot = next(row for row in range(column, len(rows)) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, PRIME)
        rows[column] = [value * inverse % PRIME for value in rows[column]]
        for row in range(len(rows)):
            if row != column:
                factor = rows[row][column]
                rows[row] = [(a - factor * b) % PRIME for a, b in zip(rows[row], rows[column], strict=True)]
    return rows[0][-1]


def is_prime(number):
    """Miller and Rabin, with the first bases."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        powers = [pow(base, odd << step, number) for step in range(twos)]
        if powers[0] != 1 and number - 1 not in powers:
            return False
    return True


def test_the_field_is_one_and_holds_every_secret():
    assert is_prime(PRIME)
    assert PRIME > 2 ** (8 * SECRET_BYTES)


@given(SECRETS, st.integers(1, 9), st.data())
def test_any_that_are_enough_give_the_secret_back(secret, holders, data):
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, holders, threshold)
    assert {len(share) for share in shares} == {SHARE_BYTES}
    chosen = data.draw(st.permutations(shares))[:threshold]
    assert join(chosen) == secret
    assert solved(chosen) == int.from_bytes(secret, "big")


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_ends_of_the_field(secret):
    for chosen in combinations(split(secret, 5, 3), 3):
        assert join(chosen) == secret


def test_fewer_fit_any_secret():
    """For each other secret there are shares that begin with the same ones: those say nothing."""
    one = split(b"\x01" * 32, 3, 3, draw=lambda _: 5)
    for wanted in (b"\x00" * 32, b"\xff" * 32):
        last = 3
        numbers = [(place, int.from_bytes(share[2:], "big")) for place, share in enumerate(one[:2], 1)]
        # the third value that makes the three points' polynomial have that secret
        weights = {1: 3, 2: PRIME - 3, 3: 1}  # Lagrange's factors at 0 for places 1, 2, 3
        value = int.from_bytes(wanted, "big") - sum(weights[place] * value for place, value in numbers)
        share = last.to_bytes(2, "big") + (value % PRIME).to_bytes(33, "big")
        assert join([*one[:2], share]) == wanted


def test_a_changed_share_gives_another_secret_or_none():
    shares = split(b"\x07" * 32, 3, 2)
    changed = shares[0][:-1] + bytes([shares[0][-1] ^ 1])
    assert solved([changed, shares[1]]) != int.from_bytes(b"\x07" * 32, "big")


@pytest.mark.parametrize(
    "shares",
    [[], [bytes(35)], [b"\x00\x01" + b"\xff" * 33], [b"\x00\x01"], [*split(bytes(32), 2, 2)[:1]] * 2],
    ids=["none", "place 0", "beyond the field", "short", "twice"],
)
def test_what_is_no_set_of_shares(shares):
    with pytest.raises(ValueError):
        join(shares)


@pytest.mark.parametrize(("secret", "holders", "threshold"), [(b"x", 3, 2), (bytes(32), 2, 3), (bytes(32), 2, 0)])
def test_what_cannot_be_shared(secret, holders, threshold):
    with pytest.raises(ValueError):
        split(secret, holders, threshold)
