"""Under what circumstances figures were taken: the machine, its load, the arguments, the seconds it took."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


class Watch:
    """Started before a measurement; says afterwards how it was taken."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._started = time.perf_counter()

    def taken(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a result keeps of its circumstances.

        Args:
            arguments: Of the command.
        """
        from fedwon.server.engines.simulating import versions

        return {
            "arguments": dict(arguments),
            "elapsed_seconds": round(time.perf_counter() - self._started, 1),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": {
                "processor": processor(),
                "capability": torch.backends.cpu.get_cpu_capability(),
                "logical_processors": os.cpu_count(),
                "load_before": round(self._load, 1),
            },
            "versions": versions(),
        }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor, as the system gives it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def sentence(taken: Mapping[str, Any]) -> str:
    """The line under a table: when, where, how long."""
    machine, versions, seconds = taken["machine"], taken["versions"], taken["elapsed_seconds"]
    return (
        f"Taken {taken['date']} in {seconds:.0f} s on {machine['logical_processors']} hardware threads "
        f"({machine['processor']}, {machine['capability']};\nload before: {machine['load_before']:.1f}), "
        f"Python {versions['python']}, torch {versions['torch']} (CPU)."
    )
