"""What a run keeps and what it lets go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.errors import RunMissing
from fedwon.common.round_settings import ParticipationConfig, RetentionConfig
from fedwon.server.runs.retention import best_round, stride, superseded
from fedwon.server.runs.run import Run
from fedwon.server.store import MetricRow, RoundRow, TaskRow
from tests.server.server_kit import CLASSES, rows, shifted, small_run


@pytest.mark.parametrize(
    ("here", "newest", "keep", "best", "gone"),
    [
        ([0, 1, 2], 2, 5, None, []),
        (range(8), 7, 5, None, [0, 1, 2]),
        (range(8), 7, 5, 1, [0, 2]),
        (range(8), 7, 5, 6, [0, 1, 2]),
        ([2, 6, 7, 8], 7, 2, None, [2]),  # 8: written and never committed, it is written again
        ([0, 1, 2], 2, 2, 0, []),
    ],
)
def test_which_models_may_go(here, newest, keep, best, gone):
    assert superseded(here, newest, keep, best) == gone


def test_which_model_is_the_best():
    assert best_round({}) is None
    assert best_round({1: [], 2: [0.5, 0.7], 3: [0.9, 0.1]}) == 2
    assert best_round({1: [0.5], 2: [0.5]}) == 2


def make(store, folder, *, rounds=2, refused=2, refused_mb=1000, history=1000, **participation) -> Run:
    settings = {
        "retention": RetentionConfig(rounds=rounds, refused=refused, refused_mb=refused_mb, history=history),
        "participation": ParticipationConfig(minimum=1, **participation),
    }
    return Run.create(store, folder, small_run().model_copy(update=settings), CLASSES)


def go_on(run: Run, number: int, accuracy: float) -> None:
    """Commit a round; the sites then say how good the model before it was."""
    run.measured(number - 1, "a", {"validation-correct": 100 * accuracy, "validation-examples": 100})
    run.commit(number, shifted(run.last()[1], 1.0), seconds=0, sites=("a",))


def here(run: Run) -> list[int]:
    return run.checkpoints.here()


def test_the_newest_and_the_best_stay(store, tmp_path):
    run = make(store, tmp_path)
    seen = []
    for number, accuracy in enumerate([0.1, 0.5, 0.9, 0.6, 0.7, 0.95, 0.2], start=1):  # of the models 0, 1, 2...
        go_on(run, number, accuracy)
        seen.append(here(run))
    assert seen == [[0, 1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [5, 6, 7]]
    assert run.last()[0] == 7
    assert [row.number for row in rows(store, RoundRow)] == list(range(8))
    assert len(list(run.folder.glob("round-*.json"))) == 8
    assert len({row.round for row in rows(store, MetricRow)}) == 7


def test_all_stay_where_that_is_asked_for(store, tmp_path):
    run = make(store, tmp_path, rounds=None)
    for number in range(1, 5):
        go_on(run, number, 0.5)
    assert here(run) == [0, 1, 2, 3, 4]


def ask(run: Run, number: int) -> None:
    run.sent(f"t{number}", number, "a", "train")


def test_old_records_go_but_for_a_few(store, tmp_path):
    run = make(store, tmp_path, history=20)
    for number in range(1, 55):
        ask(run, number)
        go_on(run, number, 0.9 if number == 4 else 0.1)  # model 3 is the best and stays
    kept = [0, 3, 32, *range(31, 54)]  # as thinned after round 50, whose model was looked at in round 51
    assert sorted({row.round for row in rows(store, MetricRow)}) == sorted({*kept})
    assert sorted({row.round for row in rows(store, TaskRow)}) == sorted({*kept, 54} - {0})
    assert sorted(row.number for row in rows(store, RoundRow)) == sorted({*kept, 54})
    assert run.last()[0] == 54
    with pytest.raises(RunMissing, match=r"round 16 of .* is not kept any more"):
        run.model(16)
    with pytest.raises(RunMissing, match="no committed round 55"):
        run.model(55)


@given(history=st.integers(10, 3000), rounds=st.integers(1, 50_000))
def test_old_records_stop_growing_and_stay_evenly_spread(history, rounds):
    now, before = stride(rounds, history), stride(max(rounds - 1, 1), history)
    assert rounds // now <= max(history // 10, 1)
    assert now % before == 0  # what stays now had stayed before
    assert now == 1 or rounds // (now // 2) >= max(history // 10, 1)  # no fewer than need be


@pytest.mark.parametrize("history", [None, 1000])
def test_records_stay_where_that_is_asked_for(store, tmp_path, history):
    run = make(store, tmp_path, history=history)
    for number in range(1, 35):
        ask(run, number)
        go_on(run, number, 0.1)
    assert len({row.round for row in rows(store, TaskRow)}) == 34


def test_what_a_late_task_starts_from_stays(store, tmp_path):
    run = make(store, tmp_path, late_rounds=2)
    for number in range(1, 7):
        go_on(run, number, number / 10)
    assert here(run) == [3, 4, 5, 6]


def test_a_model_that_was_let_go_is_said_so(store, tmp_path):
    run = make(store, tmp_path)
    for number in range(1, 5):
        go_on(run, number, number / 10)
    with pytest.raises(RunMissing, match=r"round 1 of .* is not kept any more; there are those of rounds 3, 4") as told:
        run.model(1)
    assert "run.retention.rounds" in told.value.hint


def test_a_file_that_cannot_be_deleted_does_not_stop_the_run(store, tmp_path, monkeypatch, caplog):
    run = make(store, tmp_path)

    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    for number in range(1, 4):
        go_on(run, number, 0.5)
    assert run.last()[0] == 3
    assert "cannot be deleted" in caplog.text


def refuse_one(run: Run, name: str, size: int, age: int) -> None:
    (run.spool / name).write_bytes(b"x" * size)
    os.utime(run.spool / name, (10**9 - age, 10**9 - age))
    run.quarantined(run.spool / name)


def test_only_the_newest_refused_updates_stay(store, tmp_path):
    run = make(store, tmp_path, refused=2)
    for age, name in enumerate(["d", "c", "b", "a"]):
        refuse_one(run, name, 10, 100 - age)
    assert {path.name for path in run.quarantine.iterdir()} == {"a", "b"}


def test_refused_updates_take_no_more_than_their_share(store, tmp_path):
    run = make(store, tmp_path, refused=10, refused_mb=1)
    for age, name in enumerate(["c", "b", "a"]):
        refuse_one(run, name, 450_000, 100 - age)
    assert {path.name for path in run.quarantine.iterdir()} == {"a", "b"}
    refuse_one(run, "huge", 2_000_000, 0)
    assert {path.name for path in run.quarantine.iterdir()} == {"huge"}
