"""How a command ends: words, codes, no tracebacks."""

import errno
import json
import sys

import pytest
import typer

from fedwon.common import console, logs
from fedwon.common.errors import (
    BrokenFile,
    DiskFull,
    FedwonError,
    RunError,
    StorageError,
    Unreachable,
    all_errors,
)


def end_with(error, monkeypatch, *arguments):
    """Run a command that raises, and return its exit code."""
    app = typer.Typer()

    @app.command()
    def main(number: int = 0):
        if error is not None:
            raise error

    monkeypatch.setattr(sys, "argv", ["fedwon-test", *arguments])
    with pytest.raises(SystemExit) as ended:
        console.run_command(app)
    return ended.value.code


@pytest.fixture
def as_json(monkeypatch):
    monkeypatch.setattr(console, "json_output", lambda: True)


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch):
    monkeypatch.delenv("FEDWON_DEBUG", raising=False)


def test_success(monkeypatch, capsys):
    assert end_with(None, monkeypatch) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.slug)
def test_three_lines_and_the_code(kind, monkeypatch, capsys):
    error = kind("It is [red]broken[/red] at /x/y" + " and long" * 30 + ".")
    assert end_with(error, monkeypatch) == kind.code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"error: {error.message}",
        f"hint: {kind.default_hint or 'The page below tells more.'}",
        f"see: docs/errors/{kind.slug}.md",
    ]


def test_a_message_stays_one_line(monkeypatch, capsys):
    end_with(RunError("one\ntwo\x1b[2J", hint="a\nb"), monkeypatch)
    assert capsys.readouterr().err.splitlines()[:2] == ["error: one two\\x1b[2J", "hint: a b"]


def test_json(monkeypatch, capsys, as_json):
    assert end_with(BrokenFile("ü\nx"), monkeypatch) == 53
    assert json.loads(capsys.readouterr().err) == {
        "error": "broken-file",
        "code": 53,
        "message": "ü x",
        "hint": BrokenFile.default_hint,
        "page": "docs/errors/broken-file.md",
    }


def test_the_log_format_decides(capsys):
    logs.setup("json", stream=sys.stderr)
    try:
        console.report(RunError("x"))
    finally:
        logs.setup("text")
    assert json.loads(capsys.readouterr().err)["error"] == "run"


def test_debug_adds_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("FEDWON_DEBUG", "1")
    assert end_with(RunError("x"), monkeypatch) == 60
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_quiet(monkeypatch, capsys):
    assert end_with(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr() == ("", "")


def test_wrong_command_line(monkeypatch, capsys):
    assert end_with(None, monkeypatch, "--number", "x") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_may_choose_its_code(monkeypatch):
    assert end_with(typer.Exit(5), monkeypatch) == 5


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/x/y"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "/x/y"),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
        ExceptionGroup("tasks", [ValueError("x"), OSError(errno.ENOSPC, "No space left on device", "/x/y")]),
    ],
)
def test_a_full_disk_in_any_clothes(error, monkeypatch, capsys):
    assert end_with(error, monkeypatch) == DiskFull.code
    assert capsys.readouterr().err.startswith("error: No space left on the disk")


def test_the_first_known_error_of_a_group():
    inner = ExceptionGroup("inner", [ValueError("x"), Unreachable("No answer.")])
    assert isinstance(console.known_error(ExceptionGroup("outer", [KeyError(1), inner])), Unreachable)
    assert console.known_error(ExceptionGroup("outer", [KeyError(1)])) is None
    assert console.known_error(PermissionError(errno.EACCES, "Permission denied")) is None
    error = StorageError("x")
    assert console.known_error(error) is error


def test_a_bug_in_a_service_leaves_its_traceback_in_the_log(monkeypatch, capsys):
    assert end_with(ValueError("odd\nthing"), monkeypatch) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: unexpected error, this is a bug in fedwon: ValueError: odd thing"
    assert lines[1] == "hint: Please report it with the traceback below."
    assert lines[2] == "see: docs/errors/error.md"
    assert lines[3] == "Traceback (most recent call last):"


def test_a_bug_at_a_terminal_leaves_its_traceback_in_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert end_with(ValueError("odd"), monkeypatch) == 1
    (kept,) = tmp_path.iterdir()
    assert "ValueError: odd" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    captured = capsys.readouterr().err
    assert len(captured.splitlines()) == 3
    assert f"kept in {kept}." in captured


def test_a_bug_at_a_terminal_without_a_temporary_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert end_with(ValueError("odd"), monkeypatch) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_as_json(monkeypatch, capsys, as_json):
    assert end_with(ValueError("odd"), monkeypatch) == 1
    content = json.loads(capsys.readouterr().err)
    assert set(content) == {"error", "code", "message", "hint", "page", "traceback"}
    assert content["code"] == FedwonError.code
    assert "ValueError: odd" in content["traceback"]


def test_plain_table(capsys):
    console.show_table(["site", "seen"], [["a", None], ["[red]b\x1b", 3]], title="Sites")
    assert capsys.readouterr().out == "site        seen\na           -\n[red]b\\x1b  3\n"


def test_plain_table_without_rows(capsys):
    console.show_table(["site", "seen"], [])
    assert capsys.readouterr().out == "site  seen\n"


def test_framed_table_at_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.show_table(["site"], [["[red]b"]], title="Sites")
    out = capsys.readouterr().out
    assert "Sites" in out
    assert "[red]b" in out
    assert "┃" in out
