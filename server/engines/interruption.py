"""Ctrl-C that is neither lost nor followed by a traceback.

Python raises KeyboardInterrupt wherever it happens to be. In a destructor or a weak reference's callback, of which
PyTorch has many, the interpreter prints the exception and drops it. So while there is work that can be ended at its
next step, Ctrl-C only says that it is to end; a second one raises at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from fedwon.client.training.progress import watch


class Interruption:
    """Takes SIGINT while it is entered, also where a shell started the program in the background and ignores it."""

    def __init__(self) -> None:
        self._asked, self._ends_work = threading.Event(), False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    @property
    def asked(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._asked.is_set()

    @contextmanager
    def ends_work(self) -> Iterator[None]:
        """Let Ctrl-C end the training inside before its next step, and what else is there at its next `check`.

        A site that was ended raises KeyboardInterrupt out of its grid (`fedwon.server.engines.in_process.answer`).
        """
        self._ends_work = True
        try:
            with watch(lambda _done, _total: None, self._asked):
                yield
        finally:
            self._ends_work = False

    @classmethod
    @contextmanager
    def of_work(cls) -> Iterator[None]:
        """Let Ctrl-C end the training inside, without a check of its own.

        Raises:
            KeyboardInterrupt: it did.
        """
        with cls() as interruption, interruption.ends_work():
            yield

    def check(self) -> None:
        """Do nothing, unless Ctrl-C was pressed.

        Raises:
            KeyboardInterrupt: it was.
        """
        if self.asked:
            raise KeyboardInterrupt

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        again = self.asked
        self._asked.set()
        if again or not self._ends_work:
            raise KeyboardInterrupt
