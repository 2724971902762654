"""Ctrl-C, also where Python drops the exception."""

from __future__ import annotations

import signal
import sys

import pytest

from fedwon.server.comparison.interruption import Interruption


class Dying:
    """Presses Ctrl-C in its destructor, where Python drops what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_it_interrupts_at_once_and_gives_the_handler_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        interruption.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interruption.asked
    assert signal.getsignal(signal.SIGINT) is before


def test_one_that_python_dropped_is_found_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))
    with Interruption() as interruption:
        dying = Dying()
        del dying
        assert dropped == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
