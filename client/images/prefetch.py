"""Work done ahead of the thread that needs it.

Threads and not the worker processes of `torch.utils.data.DataLoader`: a site holds open gRPC channels, whose threads
and locks do not survive a fork, and spawning costs seconds and a second copy of the images on a small box. Decoding
and resizing release the interpreter lock, so threads do overlap with training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREAD_NAME = "fedwon-decode"


def prefetch(
    work: Callable[[T], R], items: Iterable[T], *, workers: int = 2, ahead: int = 8
) -> Generator[R, None, None]:
    """Apply `work` to each item in background threads and yield the results in the order of the items.

    The threads start with the first result that is asked for. They end when the items do, when `work` raises, and when
    the iterator is closed or forgotten; use `contextlib.closing` where an exception could keep it alive.

    Args:
        work: called in a background thread.
        items: what to work on; read in the calling thread.
        workers: number of threads.
        ahead: at most so many items are in work or waiting to be taken, which bounds the memory.

    Raises:
        Exception: whatever `work` raises, at the place of its item.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix=THREAD_NAME)
    try:
        waiting: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(source, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
