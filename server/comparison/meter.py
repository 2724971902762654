"""How far a comparison has come and how long it will take: a bar at a terminal, a line a run elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fedwon.common import logs
from fedwon.server.comparison.texts import Texts

logger = logging.getLogger(__name__)


class Meter(Protocol):
    """Is told how it goes."""

    def show(self, what: str, passed: float, left: float) -> None:
        """Take in what is being done, the seconds that have passed and those that are left, as far as known."""

    def note(self, text: str) -> None:
        """Take in that a piece of work is done."""


class Lines:
    """Log lines, one a piece of work."""

    def __init__(self, texts: Texts) -> None:
        self._texts, self._left = texts, 0.0

    def show(self, what: str, passed: float, left: float) -> None:
        """Remember how long it will take."""
        del what, passed
        self._left = left

    def note(self, text: str) -> None:
        """Write a line."""
        logger.info("%s; %s", text, self._texts.time_left.format(time=duration(self._left)))


class Bar:
    """A bar whose length is time."""

    def __init__(self, progress: Progress, texts: Texts) -> None:
        self._progress, self._texts = progress, texts
        self._task = progress.add_task("", total=1.0, left="")

    def show(self, what: str, passed: float, left: float) -> None:
        """Draw it anew."""
        told = self._texts.time_left.format(time=duration(left))
        self._progress.update(self._task, description=what, completed=passed, total=passed + max(left, 0.0), left=told)

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)


@contextmanager
def metering(texts: Texts, *, quiet: bool = False) -> Iterator[Meter]:
    """Show how it goes while the block runs.

    Args:
        texts: the reader's language.
        quiet: write log lines even at a terminal, since standard output is for a machine.
    """
    console = logs.terminal()
    if quiet or console is None:
        yield Lines(texts)
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[left]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, texts)


def duration(seconds: float) -> str:
    """Seconds as `1:05` or `1:02:03`."""
    whole = max(round(seconds), 0)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
