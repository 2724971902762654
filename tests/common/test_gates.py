"""Acceptance gates against a slow, obvious count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.errors import ConfigError
from fedwon.common.gates import Figures, Gates, figures, shortcomings
from fedwon.common.wire.release_orders import answer_to_wire, gates_from_wire, gates_to_wire, said_from_wire

CLASSES = ("dent", "good", "scratch")
shares = st.none() | st.floats(0, 1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=30), st.sets(st.sampled_from(CLASSES)))
def test_figures_count_what_they_say(judged, defects):
    confusion = np.zeros((3, 3), np.int64)
    for true, said in judged:
        confusion[true, said] += 1
    found = figures(confusion, CLASSES, tuple(defects))
    bad = [(CLASSES[true] in defects, CLASSES[said] in defects) for true, said in judged]
    assert (found.images, found.correct) == (len(judged), sum(true == said for true, said in judged))
    assert (found.defective, found.escaped) == (sum(t for t, _ in bad), sum(t and not s for t, s in bad))
    if defects:
        assert (found.good, found.overkilled) == (sum(not t for t, _ in bad), sum(s and not t for t, s in bad))


@given(st.builds(Gates, accuracy=shares, escape=shares, overkill=shares, images=st.none() | st.integers(1, 2**40)))
def test_gates_and_answers_survive_the_wire(gates):
    gates = gates.model_copy(update={"defects": ("dent",)})
    assert gates_from_wire(gates_to_wire(gates)) == gates
    found = Figures(images=3, correct=2, defective=1)
    answer = {"state": "in use", "release": "r", "figures": found.model_dump()}
    said = said_from_wire(answer_to_wire("id", answer))
    assert said == {"order": "id", "state": "in use", "release": "r", "reason": "", "figures": found}
    assert said_from_wire(answer_to_wire("id", {"state": "failed", "release": None}))["figures"] is None


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        (Gates(), []),
        (Gates(accuracy=0.9), []),
        (Gates(accuracy=0.91), ["accuracy 90.0% below 91.0%"]),
        (Gates(escape=0.2, defects=("dent",)), []),
        (Gates(escape=0.19, defects=("dent",)), ["escape 20.0% above 19.0%"]),
        (Gates(overkill=0.0, defects=("dent",)), ["overkill 10.0% above 0.0%"]),
        (Gates(images=20), []),
        (Gates(images=21), ["20 validation images, and 21 are needed"]),
    ],
)
def test_gates_open_at_their_own_value(gates, said):
    found = Figures(images=20, correct=18, defective=10, escaped=2, good=10, overkilled=1)
    assert shortcomings(gates, found) == said


def test_what_was_not_seen_was_not_shown():
    nothing = Figures(images=0, correct=0)
    assert shortcomings(Gates(defects=("dent",)), nothing) == []
    assert shortcomings(Gates(accuracy=0.0), nothing) == ["0 validation images, and 1 are needed"]
    only_good = Figures(images=5, correct=5, good=5)
    assert "no defective part" in shortcomings(Gates(escape=1.0, defects=("dent",)), only_good)[0]


@pytest.mark.parametrize("gates", [Gates(defects=("x",)), Gates(defects=CLASSES), Gates(escape=0.1), Gates(overkill=0)])
def test_gates_go_with_the_classes(gates):
    with pytest.raises(ConfigError):
        gates.check(CLASSES)


def test_good_gates():
    Gates(accuracy=0.5).check(CLASSES)
    Gates(escape=0.1, defects=("dent",)).check(CLASSES)
