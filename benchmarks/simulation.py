"""Many virtual sites on Ray and in one process: `python -m benchmarks.simulation [--sites 100 1000] [--json]`.

The built-in digits are dealt out to virtual sites of a dozen images each; a tenth of the sites trains in a round. The
same run goes through `fedwon-server simulate` in one process and on Ray, one after the other, and what is stated is the
median time of a round, all the rest (start, dealing out, the survey, the evaluation of every site at the end), and the
memory that each of Ray's workers has for itself. The models of both are compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.fleet import digests

RUN = {
    "name": "virtual",
    "rounds": 4,
    "seed": 1,
    "model": {"name": "digit_cnn", "width": 0.25},
    "training": {"batch_size": 8},
    "participation": {"minimum": 2, "pause_seconds": None},
    "retention": {"rounds": None},
    "threads": 1,
}
WORKER = "ray::ClientAppActor"
MEGABYTE = 2**20
LIMIT_SECONDS = 550.0
HEAD = (
    "virtual sites",
    "trained a round",
    "in process, s/round",
    "Ray, s/round",
    "Ray / in process",
    "rest, in process",
    "rest, Ray",
    "MB, in process",
    "MB a worker",
    "MB, Ray's driver",
    "same bits",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    result = measure(options.sites, options.fraction, options.rounds, options.workers)
    print(json.dumps(result, indent=2) if options.json else page(result))


def measure(sites: Sequence[int], fraction: float, rounds: int, workers: int) -> dict[str, Any]:
    """Run all numbers of sites on both engines.

    Args:
        sites: numbers of virtual sites.
        fraction: share of them that trains in a round.
        rounds: of each run.
        workers: Ray's processes.
    """
    rows = []
    for count in sites:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            config = folder / "run.yaml"
            config.write_text(yaml.safe_dump({**RUN, "rounds": rounds}))
            common = [str(config), "--data", "digits", "--sites", str(count), "--fraction", str(fraction), "--json"]
            alone = simulated([*common, "--out", str(folder / "alone")])
            onray = simulated([*common, "--out", str(folder / "ray"), "--engine", "ray", "--workers", str(workers)])
            same = digests(run_of(folder / "alone")) == digests(run_of(folder / "ray"))
        asked = max(1, round(fraction * count))
        rows.append({"sites": count, "asked": asked, "same_bits": same, "in_process": alone, "ray": onray})
    return {"fraction": fraction, "rounds": rounds, "workers": workers, "cores": os.cpu_count(), "runs": rows}


def simulated(arguments: Sequence[str]) -> dict[str, Any]:
    """Run `fedwon-server simulate`, and look at the memory of the processes meanwhile.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "fedwon.server.cli", "--log-level", "error", "simulate", *arguments]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=said, stderr=log, text=True, start_new_session=True)
        memory = Memory(process.pid)
        try:
            process.wait(LIMIT_SECONDS)
        finally:
            memory.stop()
            process.terminate()  # Ray ends its own processes then
            process.wait()
        said.seek(0)
        log.seek(0)
        if process.returncode != 0:
            raise RuntimeError(log.read())
        report = json.loads(said.read().splitlines()[-1])
    times: list[float] = report["round_seconds"]
    return {
        "round_seconds": times,
        "round_median": statistics.median(times),
        "other_seconds": round(report["seconds"] - sum(times), 1),
        "failures": len(report["failures"]),
        "versions": report["versions"],
        **memory.peaks(),
    }


def run_of(folder: Path) -> Path:
    """The folder of the only run of a simulation."""
    [run] = (folder / "runs").iterdir()
    return run


class Memory:
    """Watches the memory that a process and its Ray workers have for themselves (unique set size).

    Args:
        pid: the process that the workers descend from.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._ended = pid, threading.Event()
        self._own, self._workers = 0, dict[int, int]()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def peaks(self) -> Mapping[str, Any]:
        """The largest sizes seen, in MB."""
        workers = [round(size / MEGABYTE) for size in self._workers.values()]
        return {"process_mb": round(self._own / MEGABYTE), "worker_mb": workers}

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self._own = max(self._own, unique_size(self._pid))
            for pid in self._descendants():
                self._workers[pid] = max(self._workers.get(pid, 0), unique_size(pid))

    def _descendants(self) -> list[int]:
        parents, workers = dict[int, int](), list[int]()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if (folder / "cmdline").read_bytes().startswith(WORKER.encode()):
                    workers.append(int(folder.name))
        return [pid for pid in workers if self._pid in ancestors(pid, parents)]


def ancestors(pid: int, parents: Mapping[int, int]) -> list[int]:
    """The processes that a process descends from."""
    found = []
    while (pid := parents.get(pid, 0)) > 1:
        found.append(pid)
    return found


def unique_size(pid: int) -> int:
    """Bytes that a process shares with no other; 0 for one that has ended."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))
    return 0


def page(result: Mapping[str, Any]) -> str:
    """A table for docs/performance.md."""
    conditions = (
        f"Share of sites in a round {result['fraction']}, {result['rounds']} rounds, {result['workers']} workers, "
        f"{result['cores']} cores, {time.strftime('%Y-%m-%d')}."
    )
    lines = [conditions, "", f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in result["runs"]:
        alone, ray = row["in_process"], row["ray"]
        lines.append(
            f"| {row['sites']} | {row['asked']} | {alone['round_median']:.2f} | {ray['round_median']:.2f} "
            f"| {ray['round_median'] / alone['round_median']:.2f} | {alone['other_seconds']:.0f} s "
            f"| {ray['other_seconds']:.0f} s | {alone['process_mb']} | {max(ray['worker_mb'], default=0)} "
            f"| {ray['process_mb']} | {'yes' if row['same_bits'] else 'NO'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
