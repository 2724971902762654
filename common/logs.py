"""One way of logging for both commands: for people at a terminal, as plain lines, or as JSON.

Modules log through `logging.getLogger(__name__)` and pass fields as `extra={"round": 3}`. What holds for the whole
process (the site's name) is set once with `bind`; what holds for a piece of work (run, round, task) with `bound`.
Every line goes to standard error; standard output belongs to what a command was asked for.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from fedwon.common.errors import ConfigError

Format = Literal["auto", "text", "json"]
Level = Literal["debug", "info", "warning", "error"]

_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "_ray_timestamp_ns"}
# Libraries whose INFO lines say nothing to an operator.
_TALKATIVE = ("alembic", "asyncio", "grpc", "httpx", "PIL", "py.warnings", "ray", "sqlalchemy", "urllib3", "filelock")
_process: dict[str, object] = {}
_context: ContextVar[dict[str, object] | None] = ContextVar("fedwon_log_fields", default=None)
_installed: list[logging.Handler] = []


def setup(format: Format = "auto", level: str = "info", *, stream: TextIO | None = None) -> None:  # noqa: A002
    """Send all logging of this process to standard error in one form. A second call replaces the first.

    Args:
        format: "json" for one object a line; "text" for plain lines `2026-11-23T10:00:00Z INFO logger message k=v`;
            "auto" for colours at a terminal and plain lines elsewhere.
        level: "debug", "info", "warning" or "error": lines below it are dropped.
        stream: where to write instead of standard error.

    Raises:
        ConfigError: the format or the level is none of these.
    """
    if format not in get_args(Format):
        raise ConfigError(f"There is no log format {format!r}; use one of {', '.join(get_args(Format))}.")
    if level.lower() not in get_args(Level):
        raise ConfigError(f"There is no log level {level!r}; use one of {', '.join(get_args(Level))}.")
    stream = sys.stderr if stream is None else stream
    handler = _handler(format, stream)
    number = logging.getLevelNamesMapping()[level.upper()]
    handler.setLevel(number)
    handler.addFilter(_add_fields)
    root = logging.getLogger()
    for old in (*_installed, *(h for h in root.handlers if type(h) is logging.StreamHandler)):
        root.removeHandler(old)
    _installed[:] = [handler]
    root.addHandler(handler)
    root.setLevel(number)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(number, logging.WARNING) if number > logging.DEBUG else logging.INFO)
    logging.captureWarnings(capture=True)
    _tame_flower()


def terminal() -> Console | None:
    """Return the terminal that lines go to, for whoever draws there as well, or None where there is none."""
    return next((handler.console for handler in _installed if isinstance(handler, RichHandler)), None)


def json_output() -> bool:
    """Tell whether the last `setup` chose JSON, so that an error that ends the command takes that form, too."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in _installed)


def bind(**fields: object) -> None:
    """Add fields to every line of this process from now on, in all threads; None takes a field away again."""
    for name, value in fields.items():
        if value is None:
            _process.pop(name, None)
        else:
            _process[name] = value


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Add fields to every line of a `with` block: of this thread or asyncio task, and of tasks started in it."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


@contextmanager
def hushed(name: str | None, level: int = logging.WARNING) -> Iterator[None]:
    """Keep lines below a level back that would bury the rest.

    Args:
        name: of the logger; None: all that have no level of their own.
        level: that still gets through.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def one_line(text: str) -> str:
    r"""Make text safe to print: one line, and no control character that could steer a terminal or forge a line.

    Line breaks become spaces, other control characters their escape (`\x1b`). Peers choose parts of what is printed.
    """
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in " ".join(text.split()))


def _visible(character: str) -> str:
    # Cc: control; Cf: invisible, such as the marks that reverse the direction of writing; Cs: half a surrogate pair.
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return character.encode("unicode_escape", "backslashreplace").decode("ascii")
    return character


class TextFormatter(logging.Formatter):
    """Plain lines: time in UTC, level, logger, message, fields as `key=value`; a traceback follows, indented.

    Args:
        head: begin with time, level and logger; off where the handler prints them itself.
    """

    def __init__(self, *, head: bool = True) -> None:
        super().__init__()
        self.head = head

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        parts = [_time(record, "seconds"), record.levelname, record.name] if self.head else []
        parts.append(one_line(record.getMessage()))
        parts += [f"{key}={_quoted(value)}" for key, value in _extras(record).items()]
        trace = _trace(self, record)
        # Indented, so that no line of a traceback can be taken for a log line.
        return "\n  ".join([" ".join(parts), *("".join(map(_visible, line)) for line in trace.splitlines())])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, the fields, `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        content: dict[str, object] = {
            "time": _time(record, "milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        trace = _trace(self, record)
        if trace:
            content["exception"] = trace
        for key, value in _extras(record).items():
            content[f"{key}_" if key in content else key] = _plain(value)
        return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _handler(format: Format, stream: TextIO) -> logging.Handler:  # noqa: A002
    if format == "auto" and stream.isatty():
        console = Console(file=stream)
        terminal = RichHandler(
            console=console,
            show_path=False,
            omit_repeated_times=False,
            log_time_format="%H:%M:%S",
            highlighter=NullHighlighter(),  # colours belong to the level; a coloured number says nothing
        )
        terminal.setFormatter(TextFormatter(head=False))
        return terminal
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    return handler


def _tame_flower() -> None:
    """Let Flower's logger speak through ours only, its INFO (a banner for every round) as DEBUG.

    Flower puts a handler of its own on the logger when it is imported, before or after this. So a filter of the
    logger, which runs on each record before its handlers do, takes away whatever has been put there meanwhile.
    """
    logger = logging.getLogger("flwr")
    if _flower_filter not in logger.filters:
        logger.addFilter(_flower_filter)


def _flower_filter(record: logging.LogRecord) -> bool:
    logger = logging.getLogger("flwr")
    logger.handlers.clear()
    logger.propagate = True
    if record.levelno == logging.INFO:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return record.levelno >= logging.getLogger().level


def _add_fields(record: logging.LogRecord) -> bool:
    for name, value in {**_process, **(_context.get() or {})}.items():
        if not hasattr(record, name):  # what the line itself says comes first
            setattr(record, name, value)
    return True


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _KNOWN and value is not None}


def _time(record: logging.LogRecord, precision: str) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    return "\n".join([*parts, *([record.stack_info] if record.stack_info else [])])


def _quoted(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if text and text.isprintable() and not set(text) & set(' "='):
        return text
    return json.dumps(one_line(text), ensure_ascii=False)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # NaN is no JSON
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)
