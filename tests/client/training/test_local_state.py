"""What stays at a site, in memory and on the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedwon.client.training import local_state
from fedwon.client.training.local_state import FEEDBACK, KEPT_ROUNDS, KEPT_RUNS, LAYERS, LocalStates, recall, remember
from fedwon.common.arrays import StoredRecord
from fedwon.common.errors import StorageError


def tensors(value: float) -> ArrayRecord:
    return ArrayRecord({"norm.weight": Array(np.full(3, value, np.float32)), "norm.count": Array(np.array(7))})


def value(record: ArrayRecord | None) -> float | None:
    return None if record is None else float(record["norm.weight"].numpy()[0])


@pytest.fixture
def states(tmp_path: Path) -> LocalStates:
    return LocalStates(tmp_path / "local")


def test_a_round_starts_from_the_newest_before_it() -> None:
    state = RecordDict()
    assert recall(state, "run", before=9) is None
    remember(state, "run", 1, tensors(1))
    remember(state, "run", 4, tensors(4))  # a site need not take part in every round
    assert [value(recall(state, "run", before=number)) for number in (1, 2, 4, 5, 99)] == [None, 1, 1, 4, 4]
    assert recall(state, "another", before=99) is None


def test_a_round_done_again_replaces_itself_and_what_came_after() -> None:
    state = RecordDict()
    for number in (1, 2, 3):
        remember(state, "run", number, tensors(number))
    remember(state, "run", 2, tensors(20))
    assert value(recall(state, "run", before=99)) == 20
    assert value(recall(state, "run", before=2)) is None  # two rounds are kept, and the first had gone


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "a.r0002", "b", "c-20261124", "d", "e"]), st.integers(1, 12_000)), max_size=30
    )
)
def test_against_a_slow_twin(steps: list[tuple[str, int]]) -> None:
    state, known = RecordDict({"other": ConfigRecord({"x": 1})}), dict[str, dict[int, float]]()
    for index, (run, number) in enumerate(steps):
        remember(state, run, number, tensors(index))
        rounds = {other: kept for other, kept in known.pop(run, {}).items() if other < number} | {number: float(index)}
        known[run] = dict(sorted(rounds.items())[-KEPT_ROUNDS:])
        while len(known) > KEPT_RUNS[LAYERS]:
            del known[next(iter(known))]  # the one that was trained longest ago
    for run in {run for run, _ in steps}:
        rounds = known.get(run, {})
        for before in (1, *rounds, 99_999):
            expected = [rounds[number] for number in sorted(rounds) if number < before]
            assert value(recall(state, run, before=before)) == (expected[-1] if expected else None)
    assert len(state) == sum(map(len, known.values())) + 1
    assert "other" in state


def test_what_updates_owe_lies_beside_the_layers_and_of_one_run_only(states: LocalStates) -> None:
    state = RecordDict()
    for number in (1, 2, 3):
        remember(state, "a", number, tensors(number))
        remember(state, "a", number, tensors(10 * number), FEEDBACK)
    states.keep(state)
    again = LocalStates(states.folder).load()
    assert [value(recall(again, "a", before=4, kind=kind)) for kind in (LAYERS, FEEDBACK)] == [3, 30]
    assert [value(recall(again, "a", before=3, kind=kind)) for kind in (LAYERS, FEEDBACK)] == [2, 20]
    remember(again, "b", 1, tensors(7), FEEDBACK)
    assert recall(again, "a", before=9, kind=FEEDBACK) is None
    assert value(recall(again, "a", before=9)) == 3
    assert recall(again, "a.feedback", before=9) is None


def test_the_disk_holds_what_the_state_holds(states: LocalStates) -> None:
    state = RecordDict({"other": tensors(9)})
    for number in (1, 2, 3):
        remember(state, "run", number, tensors(number))
        states.keep(state)
        assert isinstance(recall(state, "run", before=99), StoredRecord)  # a file, no longer memory
    assert sorted(path.name.split("@")[0] for path in states.folder.iterdir()) == ["run.r0002", "run.r0003"]
    again = LocalStates(states.folder).load()
    assert [value(recall(again, "run", before=number)) for number in (2, 3, 4)] == [None, 2, 3]
    assert again["run.r0003"]["norm.count"].numpy().dtype == np.int64
    states.keep(again)
    assert len(list(states.folder.iterdir())) == 2


def test_a_round_done_again_on_the_disk(states: LocalStates) -> None:
    state = RecordDict()
    for number, content in ((1, 1), (2, 2), (2, 22)):
        remember(state, "run", number, tensors(content))
        states.keep(state)
    assert value(recall(LocalStates(states.folder).load(), "run", before=99)) == 22
    assert len(list(states.folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_left_out_and_said(
    states: LocalStates, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = RecordDict()
    for number in (1, 2):
        remember(state, "run", number, tensors(number))
    states.keep(state)
    [path] = states.folder.glob("run.r0002@*")
    content = path.read_bytes()
    path.write_bytes({"flip": content[:-1] + bytes([content[-1] ^ 1]), "cut": content[:-1], "empty": b""}[damage])
    assert value(recall(LocalStates(states.folder).load(), "run", before=99)) == 1
    assert "run.r0002" in caplog.text


def test_leftovers_and_strange_files_do_no_harm(states: LocalStates) -> None:
    state = RecordDict()
    remember(state, "run", 1, tensors(1))
    states.keep(state)
    (states.folder / ".fedwon-12.tmp").write_bytes(b"half")
    (states.folder / "notes.txt").write_text("mine")
    (states.folder / "unnamed").write_bytes(b"half")
    again = LocalStates(states.folder)
    state = again.load()
    remember(state, "run", 2, tensors(2))
    again.keep(state)
    names = {path.name.split("@")[0] for path in states.folder.iterdir()}
    assert names == {"run.r0001", "run.r0002", "notes.txt"}


def test_a_full_disk_loses_nothing_that_was_kept(states: LocalStates, monkeypatch: pytest.MonkeyPatch) -> None:
    state = RecordDict()
    for number in (1, 2):
        remember(state, "run", number, tensors(number))
        states.keep(state)

    def full(*_: object) -> None:
        raise StorageError("full") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(local_state, "write_record", full)
    remember(state, "run", 3, tensors(3))
    with pytest.raises(StorageError, match="full"):
        states.keep(state)
    assert value(recall(LocalStates(states.folder).load(), "run", before=3)) == 2


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "local").write_text("a file")
    with pytest.raises(StorageError, match="local"):
        LocalStates(tmp_path / "local")
