"""How progress is shown."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from fedwon.server.comparison.english import ENGLISH
from fedwon.server.comparison.meter import Bar, Lines, duration, metering


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0:00"), (5.4, "0:05"), (65, "1:05"), (3723, "1:02:03")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_bar_is_as_long_as_the_time(capsys):
    out = io.StringIO()
    columns = TextColumn("{task.description}|{task.percentage:.0f}|{task.fields[left]}")
    with Progress(columns, console=Console(file=out, force_terminal=True, width=100)) as progress:
        bar = Bar(progress, ENGLISH)
        bar.show("training [x]", 30.0, 90.0)
        task = progress.tasks[0]
        assert (task.percentage, task.fields["left"]) == (25, "about 1:30 left")
        bar.note("run 1 is done")
    assert "run 1 is done" in out.getvalue()


def test_without_a_terminal_there_is_a_line_a_piece_of_work(caplog):
    caplog.set_level("INFO")
    with metering(ENGLISH, quiet=True) as meter:
        assert isinstance(meter, Lines)
        meter.show("training", 10.0, 61.0)
        meter.note("run 1 is done")
    assert caplog.messages == ["run 1 is done; about 1:01 left"]
