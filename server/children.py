"""The processes that a demo starts, and that end with it however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

from fedwon.common.errors import FedwonError, RunError

STOP_SECONDS = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Children:
    """Processes that end with the `with` block, also when a signal ends it: Ctrl-C, SIGTERM, a closed terminal."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}
        self._before: dict[int, Any] = {}
        self._uninterrupted = self._left = False

    def __enter__(self) -> Self:
        """Take signals over."""
        self._before = {number: signal.signal(number, self._leave) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        """End what still runs, and give signals back."""
        self._uninterrupted = True  # a second Ctrl-C must not leave a process behind
        self._stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._left = True
        if not self._uninterrupted:
            raise KeyboardInterrupt

    def start(self, name: str, arguments: list[str], log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start `python -m` with these arguments; its output goes to a file, or to this terminal without one."""
        command = [sys.executable, "-m", *arguments]
        self._uninterrupted = True  # a process that was started must be known before a signal can end this
        if log is None:
            process = subprocess.Popen(command)  # noqa: S603  # our own module
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as file:
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603
            self._logs[name] = log
        self._running[name] = process
        self._uninterrupted = False
        if self._left:
            raise KeyboardInterrupt
        return process

    def check(self) -> None:
        """Look whether a process has failed.

        Raises:
            RunError: one has; the message has the end of what it said.
        """
        for name, process in self._running.items():
            if process.poll() not in {None, 0}:
                log = self._logs.get(name)
                raise RunError(
                    f"{name} ended with exit code {process.returncode}{_said(log)}",
                    hint=f"The whole log: {log}" if log else "What it said stands above.",
                )

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a process has ended well.

        Raises:
            RunError: it, or another one, has failed.
        """
        while process.poll() is None:
            self.check()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        self.check()

    def settle(self) -> None:
        """Give all a moment to hear that the run has finished and to end by themselves."""
        end = time.monotonic() + STOP_SECONDS
        with suppress(FedwonError):
            while time.monotonic() < end and any(process.poll() is None for process in self._running.values()):
                time.sleep(0.1)
                self.check()

    def _stop(self) -> None:
        """End all that still run: politely, then not."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0.1))
            if process.poll() is None:
                process.kill()
                process.wait()


def _said(log: Path | None) -> str:
    """Return the error that a process ended with, from its log."""
    lines = log.read_text(errors="replace").splitlines() if log else []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f": {errors[-1]}" if errors else "."
