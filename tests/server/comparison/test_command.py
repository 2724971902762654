"""The command in this process: folders that cannot be compared, wrong input, and a second call."""

from __future__ import annotations

import json
import signal
import sys

import pytest
import typer
from typer.testing import CliRunner

from fedwon.common.errors import ConfigError, DataError, DataMissing, FolderTaken, MissingExtra
from fedwon.server.commands import compare as cli_compare
from fedwon.server.comparison import comparing
from fedwon.server.comparison.planning import Plan
from tests.server.comparison.lines_kit import make_line, make_lines

TINY = "model: {name: digit_cnn, width: 0.05}\nimages: {size: 8, channels: 1}\ntraining: {batch_size: 8}\n"


def call(*arguments):
    app = typer.Typer()
    cli_compare.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def content(out):
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A configuration and a plan that take a moment."""
    (tmp_path / "run.yaml").write_text(TINY)
    plan = Plan(trials=1, trial_rounds=1, seeds=2, rounds=2, unseen=1, unseen_seeds=2)
    monkeypatch.setattr(comparing, "choose", lambda *_args: plan)
    monkeypatch.setattr(comparing, "choose_rest", lambda *_args: plan)
    monkeypatch.setattr("fedwon.server.comparison.agenda.MOST_SEEDS", 2)
    return ["--config", tmp_path / "run.yaml", "--budget", "10m", "--methods", "fedbn,fedwon"]


def test_all_of_a_small_plan_is_done_once(tmp_path, tiny, monkeypatch):
    data, out = make_lines(tmp_path / "lines", lines=3, count=12), tmp_path / "out"
    done = call("--data", data, "--out", out, *tiny)
    assert done.exit_code == 0, done.output
    report = content(out)
    assert report["outcomes"]["seeds"] == [1, 2]
    assert set(report["methods"]) == {"standalone", "fedbn", "fedwon"}
    assert set(report["outcomes"]["by_line"]) == {"standalone", "fedbn", "fedwon"}
    assert {len(lines) for name, lines in report["outcomes"]["unseen"].items() if name != "standalone"} == {1}
    assert len(report["outcomes"]["unseen"]["standalone"]) == 3
    assert report["cost"]["standalone"]["bytes_up"] == 0
    assert 0 < report["cost"]["fedbn"]["bytes_up"] < report["cost"]["fedbn"]["model_bytes"]

    monkeypatch.setattr(comparing, "carry_out", None)  # whatever trains again fails
    again = call("--data", data, "--out", out, *tiny, "--lang", "ja", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["outcomes"] == report["outcomes"]


def test_what_was_interrupted_goes_on(tmp_path, tiny, monkeypatch):
    data, out = make_lines(tmp_path / "lines", lines=2, count=12), tmp_path / "out"
    real, calls = comparing.carry_out, []

    def interrupted(ground, spec, heard):
        calls.append(spec.key)
        if len(calls) == 5:  # three measure the pace, one run is done
            signal.raise_signal(signal.SIGINT)
        return real(ground, spec, heard)

    monkeypatch.setattr(comparing, "carry_out", interrupted)
    done = call("--data", data, "--out", out, *tiny)
    assert done.exit_code == 130
    report = content(out)
    assert report["interrupted"]
    assert report["answer"]["code"] == "not_enough_time"
    again = call("--data", data, "--out", out, *tiny)
    assert again.exit_code == 0
    assert not content(out)["interrupted"]
    assert content(out)["outcomes"]["seeds"] == [1, 2]
    assert len(calls) == len(set(calls)) + 1, "only the run in hand was done again"


def test_no_time_at_all_still_gives_a_report(tmp_path):
    data = make_lines(tmp_path / "lines", lines=2, count=12)
    done = call("--data", data, "--out", tmp_path / "out", "--budget", "0.01s")
    assert done.exit_code == 0, done.output
    report = content(tmp_path / "out")
    assert report["answer"]["code"] == "not_enough_time"
    assert {"cut_everything"} == {row["code"] for row in report["cut"]}


def make_broken(root):
    for line in ("a", "b"):
        for name in ("good", "bad"):
            (root / line / name).mkdir(parents=True)
            (root / line / name / "x.jpg").write_bytes(b"\xff\xd8 not really")
    return root


def make_pair(root, count, classes=("good", "scratch"), others=None):
    make_line(root / "a", 100, count, classes=classes, seed=1)
    make_line(root / "b", 100, count, classes=others or classes, seed=2)
    return root


@pytest.mark.parametrize(
    ("make", "obstacle"),
    [
        (lambda root: make_lines(root, lines=1), "one_line"),
        (lambda root: make_pair(root, 20, ("good",)), "one_class"),
        (lambda root: make_pair(root, 3), "too_few"),
        (make_broken, "nothing_readable"),
        (lambda root: make_pair(root, 20, ("good", "bad"), ("ok", "ng")), "no_shared_class"),
    ],
)
def test_folders_that_cannot_be_compared_get_a_result(tmp_path, make, obstacle):
    done = call("--data", make(tmp_path / "lines"), "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert content(tmp_path / "out")["obstacle"] == obstacle
    for lang in ("en", "ja"):
        assert (tmp_path / "out" / f"report.{lang}.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--data", "nowhere"], DataMissing, "There is no folder"),
        (["--data", "empty"], DataError, "holds no domain"),
        (["--data", "lines/line-0"], DataError, "is the data of one site"),
        (["--data", "lines", "--budget", "soon"], ConfigError, "is no time"),
        (["--data", "lines", "--methods", "magic"], ConfigError, "There is no method `magic`"),
        (["--data", "lines", "--methods", "standalone"], ConfigError, "none to compare"),
        (["--data", "lines", "--config", "wrong.yaml"], ConfigError, "did you mean `training`"),
    ],
)
def test_wrong_input_is_told_in_words_and_leaves_nothing(tmp_path, monkeypatch, arguments, error, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    make_lines(tmp_path / "lines", lines=2, count=2)
    (tmp_path / "wrong.yaml").write_text("traning: {epochs: 2}\n")
    done = call(*arguments)
    assert isinstance(done.exception, error)
    assert says in str(done.exception)
    assert not (tmp_path / "comparison").exists()


def test_a_batch_of_one_does_not_go_with_batch_norm(tmp_path):
    (tmp_path / "one.yaml").write_text("training: {batch_size: 1}\n")
    data = make_lines(tmp_path / "lines", lines=2, count=12)
    done = call("--data", data, "--out", tmp_path / "out", "--config", tmp_path / "one.yaml")
    assert isinstance(done.exception, ConfigError)
    assert "cannot train on a batch of 1" in str(done.exception)


def test_a_folder_holds_one_comparison(tmp_path):
    data = make_pair(tmp_path / "lines", 3)
    assert call("--data", data, "--out", tmp_path / "out").exit_code == 0
    make_line(data / "a", 50, 5, seed=3)
    assert isinstance(call("--data", data, "--out", tmp_path / "out").exception, FolderTaken)


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = call("--data", tmp_path)
    assert isinstance(done.exception, MissingExtra)
    assert "fedwon[compare]" in done.exception.hint


def test_more_time_plans_anew_while_no_run_is_done(tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text(TINY)
    data, out = make_lines(tmp_path / "lines", lines=2, count=12), tmp_path / "out"
    plans = iter([Plan(1, 1, 2, 2, 0, 0), Plan(2, 1, 2, 3, 0, 0)])
    monkeypatch.setattr(comparing, "choose", lambda *_args: next(plans))
    monkeypatch.setattr(comparing, "choose_rest", lambda plan, *_args: plan)
    monkeypatch.setattr("fedwon.server.comparison.agenda.MOST_SEEDS", 2)
    monkeypatch.setattr(comparing, "carry_out", no_runs := NoRuns(comparing.carry_out))
    asked = ["--data", data, "--out", out, "--config", tmp_path / "run.yaml", "--methods", "fedwon"]
    assert call(*asked, "--budget", "10m").exit_code == 130
    assert content(out)["plan"]["rounds"] == 2
    no_runs.allowed = True
    assert call(*asked, "--budget", "20m").exit_code == 0
    assert content(out)["plan"]["rounds"] == 3
    assert content(out)["choices"]["fedwon"]["trials"] == 2
    assert call(*asked, "--budget", "30m").exit_code == 0, "a third plan would end the iterator"


class NoRuns:
    """Lets trials through, and runs once they are allowed."""

    def __init__(self, real):
        self.real, self.allowed = real, False

    def __call__(self, ground, spec, heard):
        if spec.kind == "run" and not self.allowed:
            signal.raise_signal(signal.SIGINT)
        return self.real(ground, spec, heard)
