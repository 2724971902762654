"""How a command ends and what it prints: three lines for an error, never a traceback for a user; plain tables."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedwon.common.errors import DiskFull, FedwonError
from fedwon.common.logs import json_output, one_line
from fedwon.common.system_errors import storage_error

DEBUG_VARIABLE = "FEDWON_DEBUG"
_INTERRUPTED = 130
# How a full disk reads where a library has made text of it: SQLite, and safetensors' Rust code.
_DISK_FULL = ("database or disk is full", "No space left on device")


def run_command(app: typer.Typer) -> NoReturn:
    """Run a command to its end and exit, for the entry points in pyproject.toml; see `run_to_end`.

    Args:
        app: the command; exits with 2 for a wrong command line.
    """
    run_to_end(typer.main.get_command(app))


def run_to_end(command: Callable[[], object]) -> NoReturn:
    """Run something to its end and exit.

    Exit codes: 0, or the command's own; the error's own `code`; 130 for Ctrl-C; 1 for a bug, with the traceback kept
    (see `report_bug`).

    Args:
        command: what to run.
    """
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # the last place that can say it in words
        known = known_error(error)
        if known is None:
            report_bug(error)
            sys.exit(FedwonError.code)
        report(known)
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exception(error)
        sys.exit(known.code)
    sys.exit(0)


def known_error(error: BaseException) -> FedwonError | None:
    """Return the error that a user can act on, or None for a bug.

    That is the error itself, the first one of a group (asyncio's TaskGroup), or DiskFull for a full disk in whatever
    clothes it comes.
    """
    if isinstance(error, FedwonError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(known_error, error.exceptions)), None)
    if isinstance(error, OSError):
        ours = storage_error(error, f"writing {error.filename or 'a file'}")
        if isinstance(ours, DiskFull):
            return ours
    if any(sign in str(error) for sign in _DISK_FULL):
        return DiskFull("No space left on the disk.")
    return None


def report(error: FedwonError) -> None:
    """Print an error to standard error: three lines, or one JSON object where the log is JSON."""
    content = _content(error)
    if json_output():
        _print_json(content)
        return
    _print_line("error", str(content["message"]), "bold red")
    _print_line("hint", str(content["hint"]), "bold")
    _print_line("see", str(content["page"]), "bold")


def report_bug(error: BaseException) -> None:
    """Print one line about an error that nobody foresaw, and keep its traceback.

    The traceback goes to standard error with FEDWON_DEBUG=1 and wherever standard error is kept anyway (a service, a
    container, JSON). At a terminal it goes to a file in the temporary folder, whose name is printed.
    """
    lines = "".join(traceback.format_exception(error))
    message = one_line(f"unexpected error, this is a bug in fedwon: {type(error).__name__}: {error}")
    unknown = FedwonError(message, hint="Please report it with the traceback.")
    if json_output():
        _print_json({**_content(unknown), "traceback": lines})
        return
    kept = _keep(lines) if sys.stderr.isatty() and not os.environ.get(DEBUG_VARIABLE) else None
    unknown.hint = "Please report it with the traceback" + (f", kept in {kept}." if kept else " below.")
    report(unknown)
    if kept is None:
        sys.stderr.write(lines)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print a table to standard output: framed at a terminal, elsewhere plain columns two spaces apart.

    Args:
        columns: the headings.
        rows: one cell a column; None shows as `-`.
        title: printed above at a terminal only, so that every other line of plain output is a row.
    """
    cells = [["-" if cell is None else one_line(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        table = Table(title=title or None, title_justify="left")
        for column in columns:
            table.add_column(column)
        for line in cells:
            table.add_row(*map(Text, line))  # Text: a name such as [red] is no markup
        Console().print(table)
        return
    table_rows = [list(columns), *cells]
    widths = [max(map(len, column)) for column in zip(*table_rows, strict=True)]
    for line in table_rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_health(check: Callable[[], Mapping[str, object]], as_json: bool) -> None:
    """Run a health check and print what it found: a line, or one JSON object also where it failed.

    Raises:
        FedwonError: what the check raised; with JSON its object has been printed, and nothing else is.
    """
    try:
        found = check()
    except FedwonError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"healthy": False, **_content(error)}))
        raise typer.Exit(error.code) from None
    if as_json:
        typer.echo(json.dumps({"healthy": True, **found}))
        return
    typer.echo("healthy: " + ", ".join(f"{key} {_word(value)}" for key, value in found.items()))


def _word(value: object) -> object:
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _content(error: FedwonError) -> dict[str, object]:
    hint = one_line(error.hint) or "The page below tells more."
    message = one_line(error.message)
    return {"error": error.slug, "code": error.code, "message": message, "hint": hint, "page": error.page}


def _print_line(label: str, text: str, style: str) -> None:
    # soft_wrap: a line is a line, however narrow the terminal.
    Console(stderr=True, highlight=False).print(Text.assemble((f"{label}:", style), " ", text), soft_wrap=True)


def _print_json(content: dict[str, object]) -> None:
    sys.stderr.write(json.dumps(content, ensure_ascii=False) + "\n")


def _keep(text: str) -> Path | None:
    with suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix="fedwon-traceback-", suffix=".txt", text=True)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return Path(name)
    return None
