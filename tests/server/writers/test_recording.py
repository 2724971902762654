"""Figures on their way: nothing is lost, doubled or waited for, whatever a writer does."""

from __future__ import annotations

import logging
import threading

import pytest

from fedwon.common.config import parse
from fedwon.common.errors import ConfigError, MissingExtra
from fedwon.server.config import ServerConfig
from fedwon.server.rounds.events import RunStarted
from fedwon.server.writers import choosing, recording
from fedwon.server.writers.choosing import recorders_of
from fedwon.server.writers.recording import Recorder
from fedwon.server.writers.rows import WriterRow
from tests.server.server_kit import make_home, rows
from tests.server.writers.writing_kit import SITES, begun, finish, rounds, until


class Notebook:
    """A writer that keeps everything in memory, and fails when it is told to."""

    name, place = "notebook", "memory"

    def __init__(self):
        self.broken, self.calls, self.figures, self.held = False, [], {}, threading.Event()
        self.held.set()

    def _call(self, *call):
        self.held.wait(60)
        if self.broken:
            raise OSError(28, "No space left on device")
        self.calls.append(call)

    def begin(self, facts, reference, done):
        self._call("begin", facts.id, reference, done)
        return f"there/{facts.id}"

    def write(self, figures):
        self._call("write", figures.number)
        self.figures[figures.number] = figures.values

    def end(self, facts):
        self._call("end", facts.state, facts.digest)

    def close(self):
        pass

    @property
    def written(self):
        return [call[1] for call in self.calls if call[0] == "write"]


@pytest.fixture
def home(tmp_path):
    made = make_home(tmp_path / "server")
    yield made
    made.store.close()


@pytest.fixture
def notebook():
    return Notebook()


def recorder(home, writer):
    return Recorder(home.store, home.folder, writer, retry_seconds=0.02)


def state(home):
    return [(row.reference, row.round, row.state) for row in rows(home.store, WriterRow)]


def test_every_round_once_with_its_figures(home, notebook):
    run, one = begun(home), recorder(home, notebook)
    with recording.recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, tuple(SITES)))
        rounds(run, 1, 3, listener)
        until(lambda: notebook.written == [0, 1, 2], "three rounds")  # the model of the third is not measured yet
        rounds(run, 4, 4, listener)
        finish(run, 4)
    assert [call[0] for call in notebook.calls] == ["begin", *["write"] * 5, "end"]
    assert notebook.written == [0, 1, 2, 3, 4]
    assert notebook.calls[-1] == ("end", "finished", run.last()[1].blob.digest)
    assert notebook.figures[0] == {
        "accuracy/mean": 0.7,
        "accuracy/worst": 0.6,
        "accuracy/site/press-1": 0.6,
        "accuracy/site/press-2": 0.8,
        "loss/mean": 1.0,
    }
    second = notebook.figures[2]
    assert second["accuracy/site/press-1"] == 0.8
    assert (second["bytes/down"], second["bytes/up/site/press-2"]) == (400, 20)
    assert (second["seconds/round"], second["seconds/site/press-1"]) == (1.5, 0.5)
    assert (second["updates"], second["refused"], second["train_loss/site/press-1"]) == (2, 0, 1.0)
    assert notebook.figures[4]["test_accuracy/worst"] == 0.75
    assert state(home) == [(f"there/{run.id}", 4, "finished")]


def test_a_writer_that_fails_says_so_once_and_catches_up(home, notebook, caplog):
    caplog.set_level(logging.INFO)
    run, one = begun(home), recorder(home, notebook)
    notebook.broken = True
    with recording.recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 3, listener)
        until(lambda: one._failing, "the failure")
        tries = one._try
        again = threading.Event()
        one._try = lambda: (tries(), again.set())
        again.wait(60)  # at least one further attempt
        notebook.broken = False
        until(lambda: notebook.written == [0, 1, 2], "what was missing")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]
    assert "notebook works again; 3 rounds were written" in caplog.text


def test_a_run_never_waits_for_a_writer_that_hangs(home, notebook, monkeypatch, caplog):
    monkeypatch.setattr(recording, "END_SECONDS", 0.05)
    run, one = begun(home), recorder(home, notebook)
    notebook.held.clear()
    with recording.recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 4, listener)
        finish(run, 4)
    assert notebook.calls == []
    assert "not all figures are in notebook yet" in caplog.text
    notebook.held.set()
    one._thread.join(60)
    assert notebook.written == [0, 1, 2, 3, 4]  # it went on by itself; a server would have ended


def test_another_server_goes_on_behind_the_last_round(home, notebook):
    run, one = begun(home), recorder(home, notebook)
    with recording.recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 2, listener)
        run.finish("stopped")
        listener(RunStarted(run.id, 4, 2, ()))
    assert notebook.calls[-1][:2] == ("end", "stopped")
    run.set_state("running")
    two = recorder(home, notebook)
    with recording.recording([two]) as [listener]:
        listener(RunStarted(run.id, 4, 2, ()))
        rounds(run, 3, 4, listener)
        finish(run, 4)
    assert notebook.written == [0, 1, 2, 3, 4]
    assert ("begin", run.id, f"there/{run.id}", 1) in notebook.calls
    assert state(home) == [(f"there/{run.id}", 4, "finished")]


def test_what_an_earlier_run_lacks_is_written_with_the_next(home, notebook):
    first, one = begun(home), recorder(home, notebook)
    with recording.recording([one]) as [listener]:
        listener(RunStarted(first.id, 4, 0, ()))
        until(lambda: state(home), "the first word of it")
        notebook.broken = True
        rounds(first, 1, 4, listener)
        finish(first, 4)
    notebook.broken = False
    second, two = begun(home), recorder(home, notebook)
    with recording.recording([two]) as [listener]:
        listener(RunStarted(second.id, 4, 0, ()))
    assert {row.run: row.state for row in rows(home.store, WriterRow)} == {first.id: "finished", second.id: ""}
    assert notebook.written == [0, 1, 2, 3, 4]
    assert [call[0] for call in notebook.calls[-2:]] == ["end", "begin"]


def test_another_place_gets_everything(home, notebook):
    run, one = begun(home), recorder(home, notebook)
    with recording.recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 2, listener)
    elsewhere = Notebook()
    elsewhere.place = "other memory"
    two = recorder(home, elsewhere)
    with recording.recording([two]) as [listener]:
        listener(RunStarted(run.id, 4, 2, ()))
    assert elsewhere.written == [0, 1]
    assert elsewhere.calls[0] == ("begin", run.id, "", -1)


def test_a_run_under_way_is_left_alone_until_it_goes_on(home, notebook):
    """A server that was killed leaves its run as it was; a new run beside it does not take it up."""
    left = begun(home)
    one = recorder(home, notebook)
    with recording.recording([one]) as [listener]:
        listener(RunStarted(left.id, 4, 0, ()))
    other, two = begun(home), recorder(home, notebook)
    with recording.recording([two]) as [listener]:
        listener(RunStarted(other.id, 4, 0, ()))
    assert [call[1] for call in notebook.calls if call[0] == "begin"] == [left.id, other.id]


class TestConfiguration:
    @pytest.mark.parametrize(
        "uri",
        [
            "file:///x",
            "http://user:secret@host",
            "databricks",
            "sqlite://",
            "postgresql://x/y",
            "https://",
            "http://a b",
        ],
    )
    def test_addresses_that_are_refused(self, uri):
        with pytest.raises(ConfigError):
            parse(ServerConfig, {"writers": {"mlflow": {"uri": uri}}}, "test")

    def test_nothing_is_written_unless_it_is_named(self, home):
        assert recorders_of(home) == []

    def test_a_library_that_is_missing_is_told_before_the_run(self, home, monkeypatch):
        home.config = parse(ServerConfig, {"writers": {"mlflow": {}, "tensorboard": {}}}, "test")
        assert [one._writer.name for one in recorders_of(home)] == ["mlflow", "tensorboard"]
        monkeypatch.setattr(choosing, "find_spec", lambda name: None if name == "mlflow" else object())
        with pytest.raises(MissingExtra, match="needs mlflow, which"):
            recorders_of(home)
