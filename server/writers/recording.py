"""Figures on their way to a writer: a thread of its own that reads the database and is never waited for.

A listener of a run does no more than wake the thread. What is to be written stands in the database already, so nothing
is kept in memory for a writer that fails, and one that works again, or a server that starts again, goes on behind the
last round that was written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import select

from fedwon.server.rounds.events import Event, RoundCommitted, RunEnded, RunStarted
from fedwon.server.store import UNDER_WAY, RunRow, Store
from fedwon.server.writers.figures import RoundFigures, RunFacts, read_rounds, read_run
from fedwon.server.writers.rows import WriterRow

logger = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
END_SECONDS = 3.0
"""How long a server that ends waits for what is not written yet; the next start writes the rest."""


class Writer(Protocol):
    """Writes figures somewhere; any of its methods may raise whatever its library does, and is then called anew.

    Attributes:
        name: for people and for the database.
        place: where it writes to.
    """

    name: str
    place: str

    def begin(self, facts: RunFacts, reference: str, done: int) -> str:
        """Begin to write of a run, or go on behind a round; return the run's name there.

        Args:
            facts: what the run is.
            reference: what an earlier call returned; empty the first time.
            done: the last round that is there for certain; later ones may be there in parts.
        """

    def write(self, figures: RoundFigures) -> None:
        """Write a round; it stands there when this returns."""

    def end(self, facts: RunFacts) -> None:
        """Write how the run ended, and its model."""

    def close(self) -> None:
        """Let go of files and connections; also after an error."""


class Recorder:
    """Carries the figures of the server's runs to one writer.

    Args:
        store: the server's database.
        root: the server's folder.
        writer: where to.
        retry_seconds: after a failure.
    """

    def __init__(self, store: Store, root: Path, writer: Writer, retry_seconds: float = RETRY_SECONDS) -> None:
        self._store, self._root, self._writer, self._retry = store, root, writer, retry_seconds
        self._wake, self._ended = threading.Event(), threading.Event()
        self._failing = False
        self._run, self._open = "", ""  # the one that goes on, and the one that the writer has in hand
        self._thread = threading.Thread(target=self._work, name=f"writer-{writer.name}", daemon=True)

    def __call__(self, event: Event) -> None:
        """Hear of a run; never waits, never fails."""
        if isinstance(event, RunStarted):
            self._run = event.run
        if isinstance(event, RunStarted | RoundCommitted | RunEnded):
            self._wake.set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Let it write what there is and end; returns at once."""
        self._ended.set()
        self._wake.set()

    def ended(self, seconds: float) -> bool:
        """Wait for its end; return whether all was written by then."""
        self._thread.join(seconds)
        done = not self._thread.is_alive() and not self._failing
        if not done:
            logger.warning("not all figures are in %s yet; the next `start` goes on", self._writer.name)
        return done

    def _work(self) -> None:
        while True:
            self._wake.wait(self._retry if self._failing else None)
            last = self._ended.is_set()
            self._wake.clear()
            self._try()
            if self._failing or last:
                self._close()
            if last:
                return

    def _try(self) -> None:
        name = self._writer.name
        try:
            written = sum(self._catch_up(run) for run in self._runs())
        except Exception as error:  # noqa: BLE001  # whatever a library does, the run goes on
            if not self._failing:
                text = (str(error).splitlines() or [""])[0][:300]
                logger.warning(
                    "figures cannot be written to %s (%s): %s: %s. The run goes on; they are written once it works.",
                    *(name, self._writer.place, type(error).__name__, text),
                )
            self._failing, self._open = True, ""
        else:
            if self._failing:
                logger.info("%s works again; %d rounds were written", name, written)
            self._failing = False

    def _close(self) -> None:
        self._open = ""
        try:
            self._writer.close()
        except Exception as error:  # noqa: BLE001  # a file on a full disk cannot be closed in order either
            logger.debug("closing %s: %s", self._writer.name, error)

    def _runs(self) -> list[str]:
        """Return the runs to look at: those that have ended, which is not known there, and the one that goes on."""
        own = WriterRow.writer == self._writer.name, WriterRow.place == self._writer.place
        with self._store.session() as session:
            told = select(WriterRow.run).join(RunRow, RunRow.id == WriterRow.run).where(*own)
            behind = told.where(RunRow.state.not_in(UNDER_WAY), WriterRow.state != RunRow.state)
            runs = dict.fromkeys([*session.scalars(behind.order_by(RunRow.made)), *([self._run] if self._run else [])])
        return list(runs)

    def _catch_up(self, run: str) -> int:
        """Write what is missing of a run; return how many rounds that were."""
        facts, row = read_run(self._store, self._root, run), self._row(run)
        ended = "" if facts.under_way else facts.state
        rounds = read_rounds(self._store, facts, row.round)
        if not rounds and (row.state == ended if ended else self._open == run):
            return 0
        if self._open != run:
            reference = self._writer.begin(facts, row.reference, row.round)
            self._note(run, reference=reference, state="")
            self._open = run
        for figures in rounds:
            self._writer.write(figures)
            self._note(run, round=figures.number)
        if ended:
            self._writer.end(facts)
            self._note(run, state=ended)
            self._open = ""
        return len(rounds)

    def _row(self, run: str) -> WriterRow:
        with self._store.session() as session:
            row = session.get(WriterRow, (run, self._writer.name))
            if row is None or row.place != self._writer.place:
                fresh = WriterRow(run=run, writer=self._writer.name, place=self._writer.place)
                fresh.reference, fresh.round, fresh.state = "", -1, ""
                return session.merge(fresh)
            return row

    def _note(self, run: str, **values: object) -> None:
        with self._store.session() as session:
            row = session.get_one(WriterRow, (run, self._writer.name))
            for name, value in values.items():
                setattr(row, name, value)


@contextmanager
def recording(recorders: Sequence[Recorder]) -> Iterator[list[Callable[[Event], None]]]:
    """Let recorders work while the block runs; what they listen with is for the run."""
    for recorder in recorders:
        recorder.start()
    try:
        yield list(recorders)
    finally:
        for recorder in recorders:
            recorder.end()
        until = time.monotonic() + END_SECONDS
        for recorder in recorders:
            recorder.ended(max(until - time.monotonic(), 0.0))
