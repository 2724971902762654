"""Profiles of training steps: own times that add up, medians over turns, and which operators the page shows."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from benchmarks.stepping import profiling
from benchmarks.stepping.profiling import OUTSIDE, profile_of, summary, table

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_operators_that_were_called_are_counted(monkeypatch):
    monkeypatch.setenv("KINETO_LOG_LEVEL", "6")
    weight = torch.randn(200, 200, requires_grad=True)

    def step():
        for _ in range(3):
            weight.grad = None
            (weight @ weight).sum().backward()

    found = profile_of(step)
    assert found["aten::mm"][1] == 9  # one forward and two back, three times
    assert found["aten::matmul"][1] == 3
    assert found[OUTSIDE][1] == 1
    assert all(milliseconds >= 0 for milliseconds, _ in found.values())


def test_an_operator_counts_without_those_that_it_calls(monkeypatch):
    event = SimpleNamespace(key="op", self_cpu_time_total=1500.0, cpu_time_total=9000.0, count=2)
    profiler = nullcontext(SimpleNamespace(key_averages=lambda: [event]))
    monkeypatch.setattr(profiling, "profile", lambda **_: profiler)
    assert profile_of(lambda: None) == {"op": (1.5, 2)}


def profiles(ours, theirs):
    return {"standardized": [{name: (ms, 1) for name, ms in one.items()} for one in ours], "plain": theirs}


def test_a_summary_takes_medians_and_leaves_out_what_hardly_takes_time():
    turns = [{"a": 10.0, "b": 0.01}, {"a": 90.0, "b": 0.01}, {"a": 20.0}]
    found = summary(profiles(turns, [{"a": (5.0, 2), "c": (4.0, 1)}] * 3))
    assert found["turns"] == 3
    assert found["whole"] == {"standardized": pytest.approx(20.0), "plain": 9.0}
    assert found["operators"]["a"] == {
        "standardized": {"milliseconds": 20.0, "calls": 1},
        "plain": {"milliseconds": 5.0, "calls": 2},
    }
    assert found["operators"]["c"]["standardized"] == {"milliseconds": 0.0, "calls": 0}
    assert set(found["operators"]) == {"a", "c"}


def test_the_table_shows_the_largest_and_what_sets_apart_and_adds_up():
    large = {f"large {i}": 100.0 - i for i in range(5)}
    ours = {**large, OUTSIDE: 3.0, "ours": 9.0}
    theirs = {name: (ms, 1) for name, ms in {**large, OUTSIDE: 3.0, "theirs": 8.0}.items()}
    found = {"networks": {"net": {"1": summary(profiles([ours], [theirs]))}}}
    lines = table(found, 1, "plain").splitlines()
    assert lines[0] == "| own time, ms: WSConv, plain | net |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        *(f"`large {i}`" for i in range(4)),
        *("`ours`", "`theirs`", "all others", "the whole step"),
    ]
    assert lines[-3:] == ["| `theirs` | -, 8.0 |", "| all others | 99.0, 99.0 |", "| the whole step | 502.0, 501.0 |"]


def test_each_network_is_profiled_in_turn_with_what_it_stands_beside(monkeypatch):
    taken = []
    monkeypatch.setattr(profiling, "network_of", lambda name, form: form)
    monkeypatch.setattr(profiling, "step_of", lambda model, name, form, batch: (form, batch))
    monkeypatch.setattr(profiling, "profile_of", lambda step: taken.append(step) or {"op": (float(len(taken)), 1)})
    found = profiling.measure(["net"], 0)["networks"]["net"]
    assert taken[:4] == [("standardized", 1), ("plain", 1)] * 2
    assert taken[-2:] == [("standardized", 2), ("batch norm", 2)]
    assert found["1"]["turns"] == len(taken) / 4 - 1  # the first is left out
    assert found["1"]["whole"]["plain"] == found["1"]["whole"]["standardized"] + 1
