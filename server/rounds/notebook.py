"""Notes that are written behind whoever makes them: a transaction waits for the disk, a round need not.

What was noted is written at once, in its order, by a thread that lives as long as there is something to write; what
comes meanwhile goes into the next transaction. So with sixteen answers in a moment the round waits for no commit, where
it would otherwise wait for sixteen (docs/decisions/0019-round-overhead.md).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from fedwon.common.errors import StorageError
from fedwon.server.store import Store

Notes = list[tuple[Any, Any]]
"""Statements, and their rows or None."""


class Notebook:
    """Notes on their way into the database.

    Args:
        store: the server's database.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._waiting = store, Notes()
        self._failed: StorageError | None = None
        self._changing = threading.Lock()
        """Held for a look at what waits, never while one waits for the disk."""
        self._writing = threading.Lock()
        """Held from taking notes until they stand, so that they stand in their order."""
        self._under_way = False

    def add(self, notes: Sequence[tuple[Any, Any]]) -> None:
        """Have notes written soon.

        Raises:
            StorageError: earlier ones could not be written.
        """
        self._check()
        with self._changing:
            self._waiting += notes
            begin, self._under_way = not self._under_way, True
        if begin:
            threading.Thread(target=self._write, name="notes", daemon=True).start()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a transaction in which all that waits is written first.

        Raises:
            StorageError: the database cannot be written, or could not for earlier notes.
        """
        with self._writing:
            self._check()
            notes = self._taken()
            try:
                with self._store.session() as session:
                    _carry_out(session, notes)
                    yield session
            except BaseException:  # nothing stands; also where the block raised
                self._put_back(notes)
                raise

    def _write(self) -> None:
        while True:
            with self._writing:
                notes = self._taken(last=True)
                if not notes:
                    return
                try:
                    with self._store.session() as session:
                        _carry_out(session, notes)
                except StorageError as error:
                    self._failed = error  # the next that notes something raises it
                    self._put_back(notes, last=True)
                    return

    def _taken(self, *, last: bool = False) -> Notes:
        with self._changing:
            notes, self._waiting = self._waiting, []
            if last and not notes:
                self._under_way = False
        return notes

    def _put_back(self, notes: Notes, *, last: bool = False) -> None:
        with self._changing:
            self._waiting = notes + self._waiting
            self._under_way = self._under_way and not last

    def _check(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed


def _carry_out(session: Session, notes: Notes) -> None:
    for statement, rows in notes:
        session.execute(statement, rows)
