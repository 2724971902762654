"""Which versions may talk to each other."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.version import VERSION, compatible

numbers = st.integers(0, 50)


def test_own_version():
    assert re.match(r"\d+\.\d+\.\d+", VERSION)
    assert compatible(VERSION, VERSION)


@given(st.tuples(numbers, numbers, numbers), st.tuples(numbers, numbers, numbers))
def test_same_major_and_minors_at_most_one_apart(one, other):
    ours, theirs = ".".join(map(str, one)), ".".join(map(str, other))
    assert compatible(ours, theirs) == (one[0] == other[0] and abs(one[1] - other[1]) <= 1)
    assert compatible(ours, theirs) == compatible(theirs, ours)


@pytest.mark.parametrize("theirs", ["0.1", "0.1.0.dev3", "0.2.0rc1", "0.0.9+local"])
def test_forms_of_a_version(theirs):
    assert compatible("0.1.0", theirs)


@pytest.mark.parametrize("theirs", ["", "0", "x.y", "v0.1.0", "0.1x", "-0.1.0", " 0.1.0", "0.10.0"])
def test_what_is_no_near_version(theirs):
    assert not compatible("0.1.0", theirs)


@given(st.text())
def test_any_text_is_answered(text):
    assert compatible("0.1.0", text) in {True, False}
