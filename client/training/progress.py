"""How far the work in hand is, and whether it is still wanted.

The trainer calls `report` at each step and knows nothing of who listens: the link wraps the Flower app in `watch`,
under Flower's own SuperNode or in a simulation nobody does. The listener is held in a context variable, so sites that
train side by side in threads of one process do not hear each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

OnProgress = Callable[[int, int], None]
"""Is told the steps done and the steps in all."""


class Cancelled(Exception):  # says what happened; no user ever meets it, so it is no FedwonError
    """The work in hand is not wanted any more."""


@dataclass(frozen=True)
class _Watcher:
    on_progress: OnProgress
    cancelled: threading.Event


_watcher: ContextVar[_Watcher | None] = ContextVar("fedwon_progress", default=None)


def report(done: int, total: int) -> None:
    """Say how many of how many steps are done.

    Args:
        done: steps done, from 0.
        total: steps of the whole task.
    """
    watcher = _watcher.get()
    if watcher is not None:
        watcher.on_progress(done, total)


def raise_if_cancelled() -> None:
    """Stop here if the work is not wanted any more.

    Raises:
        Cancelled: whoever watches has given the task up.
    """
    watcher = _watcher.get()
    if watcher is not None and watcher.cancelled.is_set():
        raise Cancelled


@contextmanager
def watch(on_progress: OnProgress, cancelled: threading.Event) -> Iterator[None]:
    """Listen to the work that is done inside, in this thread.

    Args:
        on_progress: called in the working thread at each step; should return at once.
        cancelled: set it from any thread to end the work with `Cancelled` before its next step.
    """
    token = _watcher.set(_Watcher(on_progress, cancelled))
    try:
        yield
    finally:
        _watcher.reset(token)
