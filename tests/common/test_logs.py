"""What a log line looks like, what it carries, and what it cannot be made to carry."""

import io
import json
import logging
import math
import subprocess
import sys
import threading
import unicodedata
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedwon.common import logs
from fedwon.common.errors import ConfigError


@pytest.fixture(autouse=True)
def _as_before():
    """Undo what setup does to the logging of the test process."""
    root, flower = logging.getLogger(), logging.getLogger("flwr")
    before = root.level, list(root.handlers), list(flower.handlers), flower.level
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    flower.handlers[:], flower.level = before[2], before[3]
    flower.filters.clear()
    logging.captureWarnings(capture=False)
    logs._installed.clear()
    logs._process.clear()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def start():
    def setup(form="text", level="info", stream=None):
        stream = stream or io.StringIO()
        logs.setup(form, level, stream=stream)
        return stream

    return setup


logger = logging.getLogger("fedwon.server")


def test_a_plain_line(start):
    out = start()
    logger.info("round %d committed", 3, extra={"site": "line 1", "loss": 0.123456789, "empty": "", "gone": None})
    line = out.getvalue()
    assert line[10] == "T"
    assert line[19:] == 'Z INFO fedwon.server round 3 committed site="line 1" loss=0.123457 empty=""\n'


def test_a_json_line(start):
    out = start("json")
    logger.warning("round %d", 3, extra={"site": "ü", "loss": math.nan, "sites": ("a", {"b": math.inf}), "time": 5})
    content = json.loads(out.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content.pop("time").endswith("Z")
    assert content == {
        "level": "WARNING",
        "logger": "fedwon.server",
        "message": "round 3",
        "site": "ü",
        "loss": "nan",
        "sites": ["a", {"b": "inf"}],
        "time_": 5,
    }


def broken():
    raise ValueError("first\n2026-01-01T00:00:00Z INFO forged line")


def test_an_exception(start):
    def fail():
        try:
            broken()
        except ValueError:
            logger.exception("failed")

    out = start()
    fail()
    first, *rest = out.getvalue().splitlines()
    assert first.endswith("ERROR fedwon.server failed")
    assert rest[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in rest)
    out = start("json")
    fail()
    content = json.loads(out.getvalue())
    assert content["exception"].startswith("Traceback")
    assert "ValueError: first" in content["exception"]


def test_a_terminal_gets_colours_and_the_same_words(start):
    out = start("auto", stream=Terminal())
    logger.info("[red]hello[/red]", extra={"round": 3})
    assert "[red]hello[/red] round=3" in out.getvalue()
    assert isinstance(logging.getLogger().handlers[-1], logs.RichHandler)
    assert "T" not in out.getvalue().split("INFO", maxsplit=1)[0]  # the time of the day is enough


def test_no_terminal_gets_plain_lines(start):
    out = start("auto")
    logger.info("hello")
    assert "INFO fedwon.server hello" in out.getvalue()
    assert not logs.json_output()


def test_a_second_setup_replaces_the_first(start):
    first, second = start("text"), start("json", "warning")
    logger.info("not now")
    logger.warning("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1
    assert logs.json_output()


def test_standard_error_is_the_default(capsys):
    logs.setup("text")
    logger.info("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("WARNING", 2), ("error", 1)])
def test_levels(start, level, seen):
    out = start(level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("line")
    assert len(out.getvalue().splitlines()) == seen


@pytest.mark.parametrize(("form", "level"), [("xml", "info"), ("text", "loud"), ("text", "")])
def test_unknown_format_or_level(form, level):
    with pytest.raises(ConfigError, match="There is no log"):
        logs.setup(form, level)


def test_fields_of_the_process_and_of_a_block(start):
    out = start("json")
    logs.bind(site="line-1", extra_field=1)
    logs.bind(extra_field=None)
    with logs.bound(run="r", round=1), logs.bound(round=2):
        logger.info("inside")
        logger.info("own", extra={"round": 7})
        thread = threading.Thread(target=logger.info, args=("thread",))
        thread.start()
        thread.join()
    logger.info("outside")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    fields = [{key: line[key] for key in ("site", "run", "round", "extra_field") if key in line} for line in lines]
    assert fields == [
        {"site": "line-1", "run": "r", "round": 2},
        {"site": "line-1", "run": "r", "round": 7},
        {"site": "line-1"},  # another thread is another piece of work
        {"site": "line-1"},
    ]


def test_talkative_libraries(start):
    out = start()
    logging.getLogger("alembic.runtime.migration").info("Context impl SQLiteImpl.")
    assert out.getvalue() == ""
    out = start(level="debug")
    logging.getLogger("alembic.runtime.migration").info("Context impl SQLiteImpl.")
    assert "SQLiteImpl" in out.getvalue()


def test_warnings_become_lines(start):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        out = start("json")
        warnings.warn("old", stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "old" in json.loads(out.getvalue())["message"]


@pytest.mark.parametrize(("level", "lines"), [("info", ["careful"]), ("debug", ["banner", "careful"])])
def test_flower_whatever_puts_handlers_on_its_logger_afterwards(start, level, lines):
    out, own = start(level=level), io.StringIO()
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.DEBUG)
    flower.addHandler(logging.StreamHandler(own))
    flower.propagate = False
    flower.info("banner")
    flower.warning("careful")
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == lines
    assert own.getvalue() == ""


@pytest.mark.parametrize("first", ["flwr.common.logger", "fedwon.common.logs"])
def test_the_real_flower_imported_before_or_after(first):
    program = f"""
import {first}, logging
from fedwon.common import logs
from fedwon.common.quiet import no_telemetry
no_telemetry()
logs.setup("json")
from flwr.common.logger import log
log(logging.INFO, "banner")
log(logging.WARNING, "careful")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [(line["logger"], line["level"], line["message"]) for line in lines] == [("flwr", "WARNING", "careful")]
    assert ran.stdout == ""


hostile = st.text(alphabet=st.characters())


@given(hostile)
@example("\x1b[2Jgone\r\nnext\x85\u2028\u202e")
@example("\ud800")
def test_one_line_has_nothing_that_steers(text):
    out = logs.one_line(text)
    assert len(out.splitlines()) <= 1
    assert not [c for c in out if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    assert logs.one_line(out) == out


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_one_line_leaves_plain_text_alone(text):
    assert logs.one_line(text) == text


@given(hostile, hostile)
def test_one_record_is_one_line(message, value):
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": message, "value": value})
    assert len(logs.TextFormatter().format(record).splitlines()) == 1
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["value"] == value


def test_lines_below_a_level_are_hushed_and_come_again(caplog):
    logger = logging.getLogger("fedwon.some")
    with caplog.at_level("INFO"):
        with logs.hushed("fedwon.some"):
            logger.info("one of a hundred")
            logger.warning("worth reading")
        logger.info("after")
    assert caplog.messages == ["worth reading", "after"]
