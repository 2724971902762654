"""Masks, against the plain stream; and numbers in fixed point, against whole numbers of any size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.masking import BLOCK, Mask, apply_masks, pair_sign


def stream(seed, count):
    """The whole stream at once, number by number."""
    raw = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(4 * count))
    return [int.from_bytes(raw[4 * place : 4 * place + 4], "little") for place in range(count)]


def test_a_mask_runs_over_all_tensors_whatever_their_sizes():
    sizes = (3, 0, BLOCK + 5, 1)
    tensors = [np.arange(size, dtype=np.uint32) for size in sizes]
    before = np.concatenate(tensors).tolist()
    apply_masks(tensors, [Mask(b"a" * 32, 1), Mask(b"b" * 32, -1)])
    plus, minus = stream(b"a" * 32, sum(sizes)), stream(b"b" * 32, sum(sizes))
    expected = [(value + a - b) % 2**32 for value, a, b in zip(before, plus, minus, strict=True)]
    assert np.concatenate(tensors).tolist() == expected


def test_what_is_put_on_is_taken_off():
    values = np.arange(1000, dtype=np.uint32)
    masked = values.copy()
    apply_masks([masked], [Mask(b"k" * 32, pair_sign("a", "b"))])
    assert (masked != values).mean() > 0.99
    apply_masks([masked], [Mask(b"k" * 32, pair_sign("b", "a"))])
    assert (masked == values).all()


FLOATS = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20)


@given(FLOATS, st.integers(1, 2**16), st.floats(0, 1))
def test_each_number_is_the_nearest_within_the_bound(values, sites, factor):
    numbers = FixedPoint(1.5, sites)
    words = numbers.encode(np.array(values, dtype=np.float32), factor).view(np.int32)
    for value, word in zip(values, words.tolist(), strict=True):
        assert abs(word) <= numbers.levels
        exact = Fraction(value) * Fraction(factor) / Fraction(numbers.step)
        clipped = min(max(exact, -numbers.levels), numbers.levels)
        assert abs(word - clipped) <= Fraction(1, 2) + Fraction(1, 10**6)


@given(st.lists(FLOATS.map(lambda row: (row * 20)[:8]), min_size=1, max_size=9))
def test_the_sum_modulo_is_the_plain_sum(rows):
    numbers = FixedPoint(2.0, len(rows))
    words = [numbers.encode(np.array(row)) for row in rows]
    total = np.zeros(8, dtype=np.uint32)
    for row in words:
        total += row
    plain = [sum(column) for column in zip(*(row.view(np.int32).tolist() for row in words), strict=True)]
    assert total.view(np.int32).tolist() == plain
    assert numbers.decode(total).tolist() == pytest.approx([value * numbers.step for value in plain])


def test_all_at_the_bound_still_fit():
    for sites in (1, 2, 3, 64, 2**16):
        numbers = FixedPoint(1.0, sites)
        word = numbers.encode(np.array([-1e9, 1e9]))
        total = (word * np.uint32(sites)).astype(np.uint32)
        assert total.view(np.int32).tolist() == [-sites * numbers.levels, sites * numbers.levels]


@pytest.mark.parametrize(("bound", "sites"), [(0.0, 1), (float("nan"), 1), (float("inf"), 1), (1.0, 0), (1.0, 2**17)])
def test_what_cannot_be_added_up(bound, sites):
    with pytest.raises(ValueError):
        FixedPoint(bound, sites)
