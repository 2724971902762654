"""Processes that start others, which start others: all of them end with the test, whatever happened."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from tests.e2e.fleet import environment

MARK = "FEDWON_TEST_MARK"


def with_mark(mark: str) -> list[int]:
    """Processes that were started with that mark in their environment, or by one that was."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is somebody else's
            if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


@contextmanager
def marked(**more: str) -> Iterator[dict[str, str]]:
    """An environment; what is started with it is killed at the end, with all that it started."""
    mark = uuid4().hex
    try:
        path = (
            f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # Flower starts its own commands by name
        )
        yield {**environment(), "PATH": path, MARK: mark, **more}
    finally:
        for _ in range(50):  # one may have started another between the look and the kill
            left = with_mark(mark)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.1)


def wait_gone(mark: str, patience: float) -> list[int]:
    """Processes of that mark that are left after so many seconds."""
    end = time.monotonic() + patience
    while (left := with_mark(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    return left
