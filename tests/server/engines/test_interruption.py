"""Ctrl-C, also where Python drops the exception."""

from __future__ import annotations

import signal
import sys

import pytest
from flwr.app import Message, RecordDict

from fedwon.client.training.progress import Cancelled, raise_if_cancelled
from fedwon.server.engines.in_process import answer
from fedwon.server.engines.interruption import Interruption


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


def test_training_ends_at_its_next_step_and_nothing_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped, steps = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))

    def train() -> None:
        for step in range(9):
            raise_if_cancelled()
            steps.append(step)
            if step == 3:
                dying = Dying()
                del dying

    def work(interruption: Interruption) -> None:
        with interruption.ends_work():
            answer(train, Message(RecordDict(), dst_node_id=1, message_type="train"))

    with Interruption() as interruption:
        with pytest.raises(KeyboardInterrupt):
            work(interruption)
        assert interruption.asked
    assert (steps, dropped) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize("again", [False, True])
def test_what_is_no_training_ends_at_its_next_check_or_at_a_second_ctrl_c(again: bool) -> None:
    def work() -> None:
        with Interruption() as interruption, interruption.ends_work():
            signal.raise_signal(signal.SIGINT)
            if again:
                signal.raise_signal(signal.SIGINT)
                pytest.fail("the second one raises at once")
            interruption.check()
            pytest.fail("a check raises")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_a_site_that_was_ended_is_no_site_that_failed() -> None:
    def ended() -> Message:
        raise Cancelled

    with pytest.raises(KeyboardInterrupt):
        answer(ended, Message(RecordDict(), dst_node_id=1, message_type="train"))
