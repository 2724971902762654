"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import sys

import pytest
from sqlalchemy import update

from fedwon.server.rounds.events import RunStarted
from fedwon.server.writers.config import TensorboardConfig
from fedwon.server.writers.recording import Recorder, recording
from fedwon.server.writers.rows import WriterRow
from fedwon.server.writers.tensorboard_writer import TensorboardWriter
from tests.server.server_kit import make_home
from tests.server.writers.writing_kit import begun, finish, rounds, until


@pytest.fixture
def home(tmp_path):
    made = make_home(tmp_path / "server")
    yield made
    made.store.close()


def recorder(home, folder="tensorboard"):
    writer = TensorboardWriter(TensorboardConfig(folder=folder), home.folder)
    return Recorder(home.store, home.folder, writer, retry_seconds=0.02)


def read(home, run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(home.folder / "tensorboard" / run.id), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(home, run, tag):
    return [(event.step, round(event.value, 4)) for event in read(home, run).Scalars(tag)]


def text(home, run, tag):
    return read(home, run).Tensors(tag)[0].tensor_proto.string_val[0].decode()


def written(home, run, first, last, *, done=None, folder="tensorboard"):
    one = recorder(home, folder)
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, first - 1, ()))
        rounds(run, first, last, listener)
        if done:
            finish(run, last)
        one.end()
        assert one.ended(60)


def test_a_whole_run_and_no_tensorflow(home, tmp_path, monkeypatch):
    package = tmp_path / "packages" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    run = begun(home)
    written(home, run, 1, 4, done=True)
    assert "tensorflow" not in sys.modules
    monkeypatch.undo()
    assert scalars(home, run, "accuracy/worst") == [(0, 0.6), (1, 0.7), (2, 0.8), (3, 0.9)]
    assert scalars(home, run, "bytes/up/site/press-1") == [(1, 10.0), (2, 20.0), (3, 30.0), (4, 40.0)]
    assert scalars(home, run, "test_accuracy/mean") == [(4, 0.75)]
    assert "| training.batch_size | `2` |" in text(home, run, "configuration")
    assert run.last()[1].blob.digest in text(home, run, "ended")


def test_a_server_that_was_killed_doubles_no_step(home):
    run = begun(home)
    written(home, run, 1, 3)
    with home.store.session() as session:
        session.execute(update(WriterRow).values(round=0))  # rounds 1 and 2 are there, and that was not noted
    written(home, run, 4, 4, done=True)
    assert len(list((home.folder / "tensorboard" / run.id).iterdir())) == 2
    for tag, first in (("accuracy/mean", 0), ("seconds/round", 1)):
        steps = [step for step, _ in scalars(home, run, tag)]
        assert steps == list(range(first, first + 4)), tag


def test_a_record_that_was_cut_short_hides_nothing_that_follows(home):
    run = begun(home)
    written(home, run, 1, 3)
    [file] = (home.folder / "tensorboard" / run.id).iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    with home.store.session() as session:
        session.execute(update(WriterRow).values(round=1))
    written(home, run, 4, 4, done=True)
    assert scalars(home, run, "accuracy/mean") == [(0, 0.7), (1, 0.8), (2, 0.9), (3, 0.95)]


def test_a_folder_that_cannot_be_written_stops_nothing(home, caplog):
    (home.folder / "tensorboard").write_text("a file stands in the way")
    run, one = begun(home), recorder(home)
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 3, listener)
        until(lambda: one._failing, "the failure")
        (home.folder / "tensorboard").unlink()
        until(lambda: not one._failing, "it to work")
    assert [step for step, _ in scalars(home, run, "accuracy/mean")] == [0, 1, 2]
    assert caplog.text.count("figures cannot be written") == 1
