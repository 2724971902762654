"""Progress is heard by who watches, in their thread."""

from __future__ import annotations

import threading

import pytest

from fedwon.client.training.progress import Cancelled, raise_if_cancelled, report, watch


def test_nobody_needs_to_watch() -> None:
    report(1, 2)
    assert raise_if_cancelled() is None


def test_who_watches_hears_and_can_cancel() -> None:
    heard: list[tuple[int, int]] = []
    cancelled = threading.Event()
    with watch(lambda done, total: heard.append((done, total)), cancelled):
        report(1, 2)
        raise_if_cancelled()
        cancelled.set()
        with pytest.raises(Cancelled):
            raise_if_cancelled()
    raise_if_cancelled()
    report(2, 2)
    assert heard == [(1, 2)]


def test_watching_ends_with_an_error_inside() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled), watch(lambda *_: None, cancelled):
        raise_if_cancelled()
    raise_if_cancelled()


def test_threads_do_not_hear_each_other() -> None:
    heard: dict[str, list[int]] = {"a": [], "b": []}
    gate = threading.Barrier(2)

    def work(name: str, done: int) -> None:
        with watch(lambda step, _: heard[name].append(step), threading.Event()):
            gate.wait(5)
            report(done, 9)
            gate.wait(5)

    threads = [threading.Thread(target=work, args=pair) for pair in (("a", 1), ("b", 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"a": [1], "b": [2]}
