"""A run on disk: what counts, what a kill leaves, what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from datetime import timedelta

import pytest

from fedwon.common.arrays import open_record
from fedwon.common.errors import BrokenFile, DiskFull, RunMissing, StorageError
from fedwon.common.model_file import read_model
from fedwon.common.version import VERSION
from fedwon.server.rounds.events import RoundCommitted, RunEnded
from fedwon.server.rounds.site_grid import Traffic
from fedwon.server.runs import checkpoints
from fedwon.server.runs.run import Run
from fedwon.server.store import AuditRow, MetricRow, RoundRow, RunRow, TaskRow, now
from tests.server.server_kit import CLASSES, rows, same, shifted, small_run


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_new_run_begins_with_its_initial_model(make_run, store):
    events = []
    run = make_run([events.append])
    number, model = run.last()
    assert number == 0
    assert tree(run.folder) == ["round-0000.json", "round-0000.safetensors"]
    assert (run.spool.is_dir(), run.quarantine.is_dir()) == (True, True)
    row = rows(store, RunRow)[0]
    assert (row.id, row.state, row.classes) == (run.id, "running", list(CLASSES))
    assert read_model(model.blob.path)[0] == run.task(0)
    assert events == []


def test_the_seed_gives_the_initial_model(make_run):
    assert same(make_run().last()[1], make_run().last()[1])


def test_a_round_counts_once_it_is_committed(make_run, store):
    events = []
    run = make_run([events.append])
    new = shifted(run.last()[1], 1.0)
    stored = run.commit(1, new, seconds=2.5, sites=("a", "b"))
    assert same(stored, new)
    assert run.last()[0] == 1
    assert same(run.last()[1], new)
    assert same(run.model(0), shifted(new, 0)) is False
    row = rows(store, RoundRow)[1]
    assert (row.number, row.path, row.digest, row.size) == (
        1,
        "round-0001.safetensors",
        stored.blob.digest,
        stored.blob.size,
    )
    assert events == [RoundCommitted(1, 2.5, run.model_path(1), ("a", "b"))]


def test_the_manifest(make_run):
    run = make_run()
    stored = run.commit(1, run.last()[1], seconds=2.5, sites=("b", "a"))
    manifest = json.loads((run.folder / "round-0001.json").read_bytes())
    assert manifest == {
        "run": run.id,
        "round": 1,
        "digest": stored.blob.digest,
        "size": stored.blob.size,
        "sites": ["b", "a"],
        "version": VERSION,
        "config": run.config.model_dump(mode="json"),
        "classes": list(CLASSES),
    }


def test_a_kill_between_file_and_row_leaves_the_round_before(make_run, monkeypatch):
    run = make_run()
    monkeypatch.setattr(run.store, "session", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.commit(1, shifted(open_record(run.model_path(0)), 1.0), seconds=0, sites=())
    monkeypatch.undo()
    assert run.model_path(1).exists()
    number, model = run.last()
    assert number == 0
    again = run.commit(1, shifted(model, 2.0), seconds=0, sites=())
    assert same(run.last()[1], again)


def test_a_full_disk_leaves_the_round_before(make_run, monkeypatch):
    run = make_run()
    before = tree(run.folder)

    def full(*arguments, **named):
        raise DiskFull("No space left.")

    monkeypatch.setattr(checkpoints, "write_record", full)
    with pytest.raises(DiskFull):
        run.commit(1, run.last()[1], seconds=0, sites=())
    assert run.last()[0] == 0
    assert tree(run.folder) == before


@pytest.mark.parametrize("broken", ["write_record", "write_atomic"])
def test_a_run_that_cannot_begin_leaves_nothing(store, tmp_path, monkeypatch, broken):
    def full(*arguments, **named):
        raise DiskFull("No space left.")

    monkeypatch.setattr(checkpoints, broken, full)
    with pytest.raises(DiskFull):
        Run.create(store, tmp_path, small_run(), CLASSES)
    assert rows(store, RunRow) == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_the_database_does_not_take_leaves_nothing(store, tmp_path, monkeypatch):
    foreign = RoundRow(run="other", number=0, path="", digest="", size=0, seconds=0)
    monkeypatch.setattr(checkpoints.Checkpoints, "row", lambda *_: foreign)
    with pytest.raises(StorageError):
        Run.create(store, tmp_path, small_run(), CLASSES)
    assert rows(store, RunRow) == rows(store, RoundRow) == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_folder_that_cannot_be_made(store, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StorageError):
        Run.create(store, tmp_path, small_run(), CLASSES)
    assert rows(store, RunRow) == []


def test_a_checkpoint_that_was_changed(make_run):
    run = make_run()
    path = run.model_path(0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match="not the file that was committed"):
        run.last()
    path.write_bytes(content[:-1])
    with pytest.raises(BrokenFile, match="cut short"):
        run.model(0)
    path.unlink()
    with pytest.raises(StorageError, match="There is no file"):
        run.last()


def test_rounds_that_are_not_there(make_run, store, tmp_path):
    run = make_run()
    with pytest.raises(RunMissing, match="no committed round 7"):
        run.model(7)
    other = Run(store, tmp_path, "none", run.config, CLASSES)
    with pytest.raises(RunMissing, match="no committed round\\."):
        other.last()


def test_the_newest_unfinished_run_is_resumed(make_run, store, tmp_path):
    with pytest.raises(RunMissing, match="no unfinished run"):
        Run.unfinished(store, tmp_path)
    first, second, third = make_run(), make_run(rounds=7), make_run()
    third.finish("finished")
    found = Run.unfinished(store, tmp_path)
    assert (found.id, found.config, found.classes) == (second.id, second.config, CLASSES)
    second.finish("failed", "too few")
    assert Run.unfinished(store, tmp_path).id == second.id
    second.finish("finished")
    assert Run.unfinished(store, tmp_path).id == first.id


def test_opening_a_run_by_name(make_run, store, tmp_path):
    first, second = make_run(), make_run()
    assert Run.open(store, tmp_path).id == second.id
    assert Run.open(store, tmp_path, first.id).id == first.id
    with pytest.raises(RunMissing, match="`nope`"):
        Run.open(store, tmp_path, "nope")


def test_a_finished_run_has_its_model(make_run, store):
    events = []
    run = make_run([events.append])
    last = run.commit(1, shifted(run.last()[1], 1.0), seconds=0, sites=())
    (run.spool / "left.part").write_bytes(b"x")
    path = run.finish("finished")
    assert path == run.folder / "model.safetensors"
    assert path.read_bytes() == last.blob.path.read_bytes()
    assert list(run.spool.iterdir()) == []
    assert events[-1] == RunEnded(run.id, "finished", "", path)
    row = rows(store, RunRow)[0]
    assert row.state == "finished"
    assert row.ended is not None
    assert run.finish("finished") == path  # once more, after a crash in between


def test_a_file_system_without_hard_links(make_run, monkeypatch):
    run = make_run()

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert run.finish("finished").read_bytes() == run.model_path(0).read_bytes()
    assert "model.tmp" not in tree(run.folder)


def test_a_disk_that_does_not_take_the_model(make_run, monkeypatch):
    run = make_run()

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(DiskFull):
        run.finish("finished")


def test_a_run_that_breaks_off_keeps_what_sites_have_sent(make_run, store):
    run = make_run()
    (run.spool / "half.part").write_bytes(b"x")
    assert run.finish("stopped", "by the operator") is None
    assert (run.spool / "half.part").exists()
    assert not (run.folder / "model.safetensors").exists()
    row = rows(store, RunRow)[0]
    assert (row.state, row.reason) == ("stopped", "by the operator")
    run.set_state("running")
    row = rows(store, RunRow)[0]
    assert (row.state, row.reason, row.ended) == ("running", "", None)


def test_what_a_kill_left_half_written_goes_at_the_next_start(make_run):
    run = make_run()
    for folder in (run.folder, run.spool):
        (folder / ".fedwon-0123456789abcdef.tmp").write_bytes(b"half")
    run.make_folders()
    assert tree(run.folder) == ["round-0000.json", "round-0000.safetensors"]


def test_clearing_the_spool(make_run):
    run = make_run()
    for name in ("a.safetensors", "b.part"):
        (run.spool / name).write_bytes(b"x")
    run.clear_spool()
    assert list(run.spool.iterdir()) == []
    run.spool.rmdir()
    run.clear_spool()


def test_the_quarantine(make_run):
    run = make_run()
    for content in (b"1", b"2"):
        (run.spool / "a").write_bytes(content)
        kept = run.quarantined(run.spool / "a")
        assert kept == run.quarantine / "a"
        assert kept.read_bytes() == content
    with pytest.raises(StorageError, match="moving"):
        run.quarantined(run.spool / "gone")


def test_the_course_of_a_task(make_run, store):
    run = make_run()

    def state():
        row = rows(store, TaskRow)[0]
        return row.state, row.reason, (row.bytes_down, row.bytes_up, row.seconds)

    run.sent("t", 1, "a", "train")
    assert state() == ("sent", "", (0, 0, 0.0))
    run.settled("t", "refused", reason="not finite")
    assert state() == ("refused", "not finite", (0, 0, 0.0))
    run.sent("t", 1, "a", "train")
    assert state() == ("sent", "", (0, 0, 0.0))
    run.settled("t", "received", cost=Traffic(1, 2, 3.5))
    run.settled("t", "averaged")
    assert state() == ("averaged", "", (1, 2, 3.5))
    run.settled("unknown", "late")
    assert len(rows(store, TaskRow)) == 1


def test_measurements_are_kept_once(make_run, store):
    run = make_run()
    run.measured(1, "a", {"loss": 1.0, "n": 3})
    run.measured(1, "a", {"loss": 0.5})
    assert {row.key: row.value for row in rows(store, MetricRow)} == {"loss": 0.5, "n": 3.0}


def test_what_is_noted_together_stands_together(make_run, store):
    run = make_run()

    def broken_off():
        with run.together():
            run.sent("t", 1, "a", "train")
            run.measured(1, "a", {"loss": 1.0})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    assert (rows(store, TaskRow), rows(store, MetricRow)) == ([], [])
    with run.together():
        for name in ("a", "b"):
            run.sent(f"t-{name}", 1, name, "train")
            run.settled(f"t-{name}", "received", cost=Traffic(1, 2, 3.5))
            run.measured(1, name, {"loss": 1.0})
    assert [(row.id, row.state, row.bytes_up) for row in rows(store, TaskRow)] == [
        ("t-a", "received", 2),
        ("t-b", "received", 2),
    ]
    assert len(rows(store, MetricRow)) == 2
    run.settled("t-a", "averaged")  # and afterwards each stands for itself again
    assert rows(store, TaskRow)[0].state == "averaged"


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


class TestTakingUp:
    @pytest.fixture
    def run(self, make_run):
        run = make_run()
        for number in (1, 2, 3):
            run.commit(number, shifted(run.last()[1], 1.0), seconds=0, sites=("a",))
        run.finish("failed", "cut")
        return run

    def test_a_whole_run_is_left_as_it_is(self, run, store):
        run.take_up()
        assert run.last()[0] == 3
        assert len(rows(store, RoundRow)) == 4
        assert rows(store, AuditRow) == []
        assert rows(store, RunRow)[0].state == "running"

    @pytest.mark.parametrize("harm", [flip, lambda path: os.truncate(path, 100), os.unlink, lambda path: flip(path, 9)])
    def test_a_damaged_model_gives_way_to_the_one_before(self, run, store, caplog, harm):
        harm(run.model_path(3))
        whole = open_record(run.model_path(2))
        run.take_up()
        number, model = run.last()
        assert number == 2
        assert same(model, whole)
        [line] = rows(store, AuditRow)
        assert (line.action, line.subject) == ("checkpoint damaged", run.id)
        assert "back to round 2" in line.detail
        assert "round-0003" in line.detail
        assert "round-0003" in caplog.text
        assert run.commit(3, shifted(model, 5.0), seconds=0, sites=())
        assert run.last()[0] == 3

    def test_several_damaged_ones(self, run, store):
        flip(run.model_path(3))
        flip(run.model_path(2))
        run.take_up()
        assert run.last()[0] == 1

    def test_none_left(self, run, store):
        for number in range(4):
            flip(run.model_path(number))
        with pytest.raises(BrokenFile, match=r"No model of run .* is whole") as caught:
            run.take_up()
        assert "backup" in caught.value.hint
        assert len(rows(store, RoundRow)) == 4  # nothing is given up: a backup may bring the files back

    def test_a_manifest_that_is_gone_is_no_matter(self, run):
        for path in run.folder.glob("*.json"):
            path.unlink()
        run.take_up()
        assert run.last()[0] == 3


def test_the_newest_run_is_the_one_made_last_whatever_the_clock_said(make_run, store, tmp_path):
    make_run()
    second = make_run()
    with store.session() as session:
        session.get_one(RunRow, second.id).made = now() - timedelta(hours=1)  # the clock went back between the two
    assert Run.unfinished(store, tmp_path).id == second.id
    assert Run.open(store, tmp_path).id == second.id
