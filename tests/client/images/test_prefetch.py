"""Work in background threads: in order, bounded, and over when it should be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fedwon.client.images.prefetch import THREAD_NAME, prefetch


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


def test_results_come_in_order_from_other_threads() -> None:
    def work(number: int) -> tuple[int, str]:
        time.sleep(0.002 * (number % 3))
        return number, threading.current_thread().name

    results = list(prefetch(work, range(20)))
    assert [number for number, _ in results] == list(range(20))
    assert all(name.startswith(THREAD_NAME) for _, name in results)
    assert decoding_threads() == []


def test_only_a_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    iterator = prefetch(lambda number: number, items(), ahead=3)
    assert taken == []
    assert next(iterator) == 0
    assert len(taken) == 4
    iterator.close()
    assert decoding_threads() == []


def test_an_error_reaches_the_reader_at_its_place_and_ends_the_threads() -> None:
    iterator = prefetch(lambda number: 6 // number, [3, 2, 0, 1])
    assert [next(iterator), next(iterator)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(iterator)
    assert decoding_threads() == []


def test_abandoning_the_iterator_ends_the_threads() -> None:
    def abandon() -> None:
        for number in prefetch(lambda number: number, range(1000)):
            if number == 5:
                return

    abandon()
    assert decoding_threads() == []


def test_nothing_to_do() -> None:
    assert list(prefetch(str, [])) == []
