"""`fedwon-server` with a watch on its event loop: `python -m benchmarks.watched_server FILE start --dir FOLDER`.

The server itself is as installed and knows nothing of this. The loop it asks for comes with a timer that is due every
10 ms; each time it comes late by 5 ms or more, a line is added to FILE: the moment (`time.monotonic()`), by how many
seconds it was late, and how many of them the loop's thread was computing. A loop that computes blocks itself; one that
is late without computing waited for a file, for Python's lock, or for a processor that others had.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

INTERVAL, LATE = 0.01, 0.005
"""Seconds."""


@dataclass(frozen=True)
class Stall:
    """A time in which the loop did not come round: when it ended, its seconds, and those it was computing."""

    moment: float
    seconds: float
    computing: float


def read_stalls(path: Path) -> list[Stall]:
    """Return what a watched server has noted."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Stall(*map(float, line.split())) for line in lines]


class _Beat:
    """The timer of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: TextIO) -> None:
        self._loop, self._file = loop, file
        loop.call_soon(self._again)

    def _again(self) -> None:
        self._due, self._computed = self._loop.time() + INTERVAL, time.thread_time()
        self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        late, computed = self._loop.time() - self._due, time.thread_time() - self._computed
        if late >= LATE:
            self._file.write(f"{time.monotonic()} {late:.6f} {min(computed, late):.6f}\n")
            self._file.flush()
        self._again()


class _Policy(asyncio.DefaultEventLoopPolicy):
    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._watch_file = file

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Make a loop that is watched."""
        loop = super().new_event_loop()
        _Beat(loop, self._watch_file)
        return loop


def main() -> None:
    """Be `fedwon-server`."""
    from fedwon.server.cli import run  # the server's own order of imports

    path = Path(sys.argv.pop(1))
    with path.open("a", encoding="utf-8") as file:
        asyncio.set_event_loop_policy(_Policy(file))
        run()


if __name__ == "__main__":
    main()
