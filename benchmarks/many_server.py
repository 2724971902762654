"""A real `fedwon-server` with enrolled light sites, to be looked at from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.light_processes import Enrolled, enrol
from fedwon.common.config import dump, parse
from fedwon.common.run_config import BEFORE_CODECS, RunConfig
from fedwon.server.config import ServerConfig
from fedwon.server.serving import CONFIG_NAME, Home

BIN = Path(sys.executable).parent
TICKS = os.sysconf("SC_CLK_TCK")
MODEL = {"name": "digit_cnn", "width": 0.15}
"""1.07 MB with four classes."""
HEARTBEAT = 5.0
"""A third of the default: three times as many heartbeats for their percentiles."""


def patience(sites: int) -> float:
    """Return the seconds after which a step is given up: many times what it takes on two cores."""
    return 240.0 + 0.2 * sites


def run_settings(sites: int, rounds: int) -> dict[str, Any]:
    """Return a run that begins when so many sites are connected and counts only when all have answered."""
    participation = {"minimum": sites, "retries": 0, "pause_seconds": None, "deadline_seconds": 3 * patience(sites)}
    return {
        "name": "many", "rounds": rounds, "model": MODEL, "images": {"channels": 1}, "participation": participation,
        "traffic": BEFORE_CODECS["traffic"],  # light sites answer what was recorded, round after round
        "admission": {"replays": False},
    }  # fmt: skip


class Server:
    """A `fedwon-server` in a folder, with its sites enrolled.

    Args:
        folder: where it lives.
        names: of the sites.
        rounds: of the run.
        port: the sites'; the next one is for enrolment.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, rounds: int, port: int) -> None:
        self.folder, self._log = folder, folder.with_suffix(".log")
        config = ServerConfig(
            federation="many",
            listen=f"127.0.0.1:{port}",
            enrolment=f"127.0.0.1:{port + 1}",
            names=("127.0.0.1",),
            heartbeat_seconds=HEARTBEAT,
            run=parse(RunConfig, run_settings(len(names), rounds), "the benchmark"),
        )
        home = Home.create(folder, config)
        self.enrolled: Enrolled = enrol(home, names)
        home.store.close()
        self.address = config.listen
        (folder / CONFIG_NAME).write_text(dump(config), encoding="utf-8")
        self.process = self._start()

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        arguments = [BIN / "fedwon-server", "--log-format", "text", "start", "--dir", self.folder, *options]
        seen = self.said().count("listening on")
        with self._log.open("ab") as file:
            process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        while self.said().count("listening on") == seen:
            if process.poll() is not None:
                raise SystemExit(f"the server has ended:\n{self.said()[-3000:]}")
            time.sleep(0.05)
        return process

    def said(self) -> str:
        """Everything in its log."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def crash(self) -> None:
        """Kill it and start it again, going on with its run."""
        self.process.kill()
        self.process.wait()
        self.process = self._start("--resume")

    def look(self) -> dict[str, float]:
        """Return what the process holds and has used."""
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
        times = (proc / "stat").read_text().rsplit(")", 1)[1].split()
        return {
            "memory_mb": int(status["VmRSS"].split()[0]) / 1024,
            "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
            "files": len(os.listdir(proc / "fd")),  # noqa: PTH208  # names only, and they change while one looks
            "threads": int(status["Threads"]),
            "cpu_seconds": (int(times[11]) + int(times[12])) / TICKS,
        }

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end of its run; return whether it came, and well."""
        try:
            return self.process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False

    def stop(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        self.process.kill()
        self.process.wait()
