"""A round with too few answers: the run pauses, says why, and goes on by itself; it never averages nothing."""

from __future__ import annotations

import pytest

from fedwon.common.errors import Stopped, TooFewUpdates
from fedwon.server import report
from fedwon.server.rounds.events import RoundCommitted, RunPaused
from fedwon.server.rounds.strategy import choose
from fedwon.server.store import AuditRow, RunRow
from tests.server.rounds.test_strategy import failing, in_turn, start, states
from tests.server.server_kit import FakeGrid, answering, rows


class Patient(FakeGrid):
    """A grid in which something happens during a pause."""

    def __init__(self, behaviours, during):
        super().__init__(behaviours)
        self.during, self.paused = iter(during), []

    def wait_for_arrival(self, seconds):
        self.paused.append(seconds)
        return next(self.during)(self)


def over(grid):
    return True


def test_after_its_repetitions_the_run_pauses_and_asks_again(make_run, store):
    events = []
    run = make_run([events.append], minimum=2, retries=1, pause_seconds=30)
    grid = Patient({"a": answering(), "b": in_turn(failing, failing, failing, failing, answering())}, [over, over])
    start(run, grid)
    assert grid.paused == [30, 30]
    assert grid.asked == [["a", "b"], ["b"], ["b"], ["b"], ["b"]]
    assert states(store) == dict.fromkeys("ab", "averaged")
    assert [type(event) for event in events if isinstance(event, RunPaused | RoundCommitted)] == [
        RunPaused,
        RunPaused,
        RoundCommitted,
    ]


def test_meanwhile_the_operator_sees_why(make_run, store):
    seen = []

    def look(grid):
        [shown] = report.runs(store)
        seen.append((shown["state"], shown["reason"], shown["waiting_for"], shown["ended"]))
        return True

    run = make_run(minimum=2, retries=0)
    start(run, Patient({"a": answering(), "b": in_turn(failing, answering())}, [look]))
    [(state, reason, waiting, ended)] = seen
    assert (state, waiting, ended) == ("paused", [], None)
    assert reason == (
        f"Round 1 of {run.id} has 1 usable updates of 2 needed (0 repetitions); missing: b (data: no images)."
    )
    [row] = rows(store, RunRow)
    assert (row.state, row.reason) == ("running", "")
    assert [(row.subject, row.detail) for row in rows(store, AuditRow) if row.action == "run paused"] == [
        (run.id, reason)
    ]


def test_a_site_that_comes_during_the_pause_takes_part(make_run, store):
    def arrives(grid):
        grid.behaviours["c"] = answering()
        grid.here = ["a", "c"]  # and b has left for good
        return True

    run = make_run(minimum=2, retries=0)
    grid = Patient({"a": answering(), "b": failing}, [arrives])
    start(run, grid)
    assert grid.asked == [["a", "b"], ["b", "c"]]
    assert states(store) == {"a": "averaged", "b": "failed", "c": "averaged"}


def test_who_was_not_drawn_is_asked_before_the_run_pauses(make_run, store):
    """With a fraction, or when a site came after the round had begun."""
    run = make_run(minimum=1, retries=0, fraction=0.5)
    [drawn] = choose(["a", "b"], 0.5, run.config.seed, 1)
    [other] = {"a", "b"} - {drawn}
    grid = Patient({drawn: failing, other: answering()}, [])
    start(run, grid)
    assert [sorted(asked) for asked in grid.asked] == [[drawn], ["a", "b"]]
    assert states(store) == {drawn: "failed", other: "averaged"}
    assert grid.paused == []


def test_without_any_answer_nothing_is_averaged(make_run):
    run = make_run(minimum=1, retries=1, pause_seconds=None)
    grid = Patient({"a": failing}, [])
    with pytest.raises(TooFewUpdates, match="0 usable updates of 1 needed"):
        start(run, grid)
    assert run.last()[0] == 0
    assert grid.paused == []


def test_where_nobody_can_come_the_run_ends(make_run):
    run = make_run(minimum=1, retries=0)
    with pytest.raises(TooFewUpdates):
        start(run, FakeGrid({"a": failing}))


def test_a_pause_can_be_stopped(make_run, store):
    def stop(grid):
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        start(make_run(minimum=1, retries=0), Patient({"a": failing}, [stop]))
    [row] = rows(store, RunRow)
    assert row.state == "paused"  # federate notes that it was stopped
