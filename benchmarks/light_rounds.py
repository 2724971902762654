"""Rounds of one `fedwon-server` process with light sites, and how long each took.

    with tempfile.TemporaryDirectory() as folder:
        measured = light_rounds(Path(folder), MODELS["57 MB"], sites=16, rounds=4, port=18700)

The sites (`benchmarks.light_sites`: real gRPC clients, mutual TLS, loopback) answer at once with a recorded update, so
a round holds no training. They hash what they fetch, as real ones do.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from benchmarks.light_processes import LightProcesses, enrol
from benchmarks.light_sites import Seen
from benchmarks.watched_server import Stall, read_stalls
from fedwon.common.arrays import write_record
from fedwon.common.config import dump, parse
from fedwon.common.run_config import BEFORE_CODECS, RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.server.config import ServerConfig
from fedwon.server.serving import CONFIG_NAME, Home

PATIENCE = 300.0
_ROUND = re.compile(r"\.r(\d+)\.train\.")

MODELS: Mapping[str, Mapping[str, Any]] = {
    "5 kB": {"model": {"name": "digit_cnn", "width": 0.01}, "images": {"channels": 1, "size": 8}},
    "1 MB": {"model": {"name": "digit_cnn", "width": 0.15}, "images": {"channels": 1}},
    "57 MB": {"model": {"name": "digit_cnn"}, "images": {"channels": 3}},
    "228 MB": {"model": {"name": "alexnet"}, "images": {"channels": 3, "size": 64}},
}
"""Networks by the size of issue 5. The smallest there is has 18 kB, and stands for the one of 5 kB."""


def run_config(model: Mapping[str, Any], sites: int, rounds: int) -> RunConfig:
    """Return a run whose rounds count only when all sites have answered."""
    participation = {"minimum": sites, "retries": 0, "pause_seconds": None, "deadline_seconds": PATIENCE}
    return parse(
        RunConfig,
        {
            "name": "light",
            "rounds": rounds,
            "traffic": BEFORE_CODECS["traffic"],
            "admission": {"replays": False},  # they answer the same in every round
            "participation": participation,
            **model,
        },
        "the benchmark",
    )


def write_update(model: Mapping[str, Any], path: Path) -> int:
    """Write an update of that network, the initial model with noise; return its bytes."""
    from fedwon.common.model_file import network  # torch: not in the processes of the sites, which import this module
    from fedwon.common.network_state import record_of

    config, rng = run_config(model, 1, 1), np.random.default_rng(1)
    record = record_of(network(TaskConfig.of(config, run="light", server_round=0, classes=tuple("0123"))))
    arrays = {}
    for name, array in record.items():
        values = array.numpy()
        arrays[name] = Array(ndarray=values + rng.normal(0, 1e-3, values.shape).astype(values.dtype))
    return write_record(ArrayRecord(arrays), path).size


@dataclass(frozen=True)
class Measured:
    """Rounds, the first left out: it finds everything cold.

    Attributes:
        seconds: of each, from its first offer to the first offer of what comes next: all that the server does is in it.
        phases: medians of the seconds from the first offer to the last site that has fetched, handed in, heard that
            the round counts.
        stalls: of the server's event loop, meanwhile.
    """

    seconds: Sequence[float]
    phases: Mapping[str, float]
    stalls: Sequence[Stall]


def light_rounds(
    folder: Path, model: Mapping[str, Any], *, sites: int, rounds: int, port: int, pythonpath: str | None = None
) -> Measured:
    """Run a federation and return its rounds.

    Args:
        folder: a new one.
        model: settings of the network.
        sites: how many.
        rounds: how many are measured; one more comes first.
        port: the sites'; the next one is for enrolment.
        pythonpath: where another version of the server is; the installed one without it.
    """
    payload = folder.with_suffix(".update")
    write_update(model, payload)
    names = [f"site-{index:03d}" for index in range(sites)]
    config = ServerConfig(
        federation="light",
        listen=f"127.0.0.1:{port}",
        enrolment=f"127.0.0.1:{port + 1}",
        names=("127.0.0.1",),
        run=run_config(model, sites, rounds + 1),
    )
    home = Home.create(folder, config)
    enrolled = enrol(home, names)
    home.store.close()
    (folder / CONFIG_NAME).write_text(dump(config), encoding="utf-8")
    stalls = folder / "stalls.txt"
    processes = min(2, sites)
    with (
        served(folder, stalls, pythonpath) as process,
        LightProcesses(config.listen, enrolled, payload, processes=processes, heartbeat=1.0) as fleet,
    ):
        fleet.connect(sites)
        try:
            process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"no end of the run: {fleet.look()}") from None
        seen = fleet.seen()
    payload.unlink()
    return _measured(seen, read_stalls(stalls))


@contextmanager
def served(folder: Path, stalls: Path, pythonpath: str | None) -> Iterator[subprocess.Popen[bytes]]:
    """Have a server run; `stalls` is where those of its event loop are noted."""
    log = folder.with_suffix(".log")
    environment = os.environ | ({} if pythonpath is None else {"PYTHONPATH": pythonpath})
    command = [
        sys.executable,
        "-m",
        "benchmarks.watched_server",
        stalls,
        "--log-format",
        "text",
        "start",
        "--dir",
        folder,
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
    try:
        while b"listening on" not in log.read_bytes():
            if process.poll() is not None:
                raise SystemExit(f"the server has ended:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        yield process
        if process.returncode:
            raise SystemExit(f"the server has failed:\n{log.read_text()[-3000:]}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
        process.kill()
        process.wait()


def _measured(seen: Sequence[Seen], stalls: Sequence[Stall]) -> Measured:
    rounds: dict[int, list[Any]] = {}
    after = []  # the final evaluation, which is what comes after the last round
    for one in seen:
        for name, times in one.tasks.items():
            found = _ROUND.search(name)
            if found:
                rounds.setdefault(int(found[1]), []).append(times)
            else:
                after.append(times.offered)
    numbers = sorted(rounds)
    begins = [min(times.offered for times in rounds[number]) for number in numbers] + [min(after)]
    seconds = [end - begin for begin, end in pairwise(begins)][1:]
    phases = {
        what: statistics.median(
            max(getattr(times, what) for times in rounds[number]) - begin
            for number, begin in list(zip(numbers, begins, strict=False))[1:]
        )
        for what in ("fetched", "handed_in", "committed")
    }
    return Measured(seconds, phases, [stall for stall in stalls if begins[1] < stall.moment < begins[-1]])
