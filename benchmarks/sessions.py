"""A thousand sites on one server: `python -m benchmarks.sessions [--sites 1000] [--json]`.

One real `fedwon-server` process and light sites (`benchmarks.light_sites`: real gRPC clients under mutual TLS, each
with a certificate of its own) in four processes, all on this machine. For each number of sites given:

- steps: resident memory and open files of the server with 0, 10 %, 50 % and 100 % of the sites, connected in turn;
- storm: a fresh server, all sites at once: time to the last welcome, the server's CPU;
- idle: heartbeats for a while: their latency to the server's answer, the server's CPU;
- round: one more site comes and the run begins: one round with a model of 1 MB, then the final evaluation;
- crash: once half of the second round's updates are in, the server is killed (SIGKILL) and started with `--resume`.

The clients share the machine with the server and take more of it than the server does, so times are upper bounds. The
result is kept in `benchmarks/results/sessions.json`; the table of docs/performance.md goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from flwr.app import Array, ArrayRecord
from sqlalchemy import func, select

from benchmarks.light_processes import LightProcesses
from benchmarks.light_sites import Seen
from benchmarks.many_server import BIN, HEARTBEAT, Server, patience, run_settings
from benchmarks.sessions_page import page
from fedwon.common.arrays import write_record
from fedwon.common.config import parse
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.server.store import MetricRow, RoundRow, Store, TaskRow

RESULT = Path(__file__).resolve().parent / "results" / "sessions.json"
SETTLE = 2.0


@contextmanager
def federation(
    folder: Path, name: str, count: int, *, rounds: int, port: int, processes: int
) -> Iterator[tuple[Server, LightProcesses]]:
    """Start a server and processes for so many sites, none of them connected yet."""
    server = Server(folder / name, [f"site-{index:05d}" for index in range(count)], rounds=rounds, port=port)
    try:
        payload = _payload(folder)
        with LightProcesses(server.address, server.enrolled, payload, processes=processes) as fleet:
            yield server, fleet
    except BaseException:
        sys.stderr.write(server.said()[-3000:])
        raise
    finally:
        server.stop()


def _payload(folder: Path) -> Path:
    """Write an update: the model with noise."""
    from fedwon.common.model_file import network  # torch: not in the processes of the sites, which import this module
    from fedwon.common.network_state import record_of

    path, rng = folder / "update.safetensors", np.random.default_rng(1)
    config = parse(RunConfig, run_settings(1, 1), "the benchmark")
    model = record_of(network(TaskConfig.of(config, run="many", server_round=0, classes=tuple("0123"))))
    noisy = {name: array.numpy() + rng.normal(0, 1e-3, array.shape).astype("f4") for name, array in model.items()}
    write_record(ArrayRecord({name: Array(ndarray=values) for name, values in noisy.items()}), path)
    return path


def steps(folder: Path, count: int, **how: int) -> list[dict[str, float]]:
    """Measure what the server holds with more and more sites, connected and idle."""
    found = []
    with federation(folder, f"steps-{count}", count + 1, rounds=1, **how) as (server, fleet):  # one never comes
        for share in (0, count // 10, count // 2, count):
            if share:
                fleet.connect(share)
                if not fleet.wait("connected", share, patience(count)):
                    raise SystemExit(f"of {share} sites {fleet.look()['connected']} are connected: {fleet.look()}")
            time.sleep(SETTLE)
            found.append({"sites": share, **server.look()})
    return found


def lives(folder: Path, count: int, idle: float, **how: int) -> dict[str, Any]:
    """Storm, idle time, a round, a crash in the next round, and the end, with one server."""
    with federation(folder, f"lives-{count}", count, rounds=2, **how) as (server, fleet):
        before = server.look()
        began = fleet.connect(count - 1)
        if not fleet.wait("connected", count - 1, patience(count)):
            return {"broke": "storm", **fleet.look(), "failures_seen": _failures(fleet.seen())}
        result: dict[str, Any] = {"storm": _storm(fleet.seen(), began, before, server.look())}
        result["idle"] = _idle(server, fleet, idle)
        before, began = server.look(), fleet.connect(count)
        if not fleet.wait("committed", count, patience(count)):
            return {**result, "broke": "round", **fleet.look(), "failures_seen": _failures(fleet.seen())}
        result["round"] = _round(fleet.seen(), began, before, server.look())
        if not fleet.wait("handed_in", count + count // 2, patience(count)):
            return {**result, "broke": "second round", **fleet.look()}
        crashed = time.monotonic()
        server.crash()
        back = time.monotonic()
        finished = server.ends_within(patience(count))
        result["crash"] = _crash(fleet.seen(), crashed, back, server, finished=finished)
        result["failures"] = _failures(fleet.seen())
        result["database"] = _database(server.folder)
        return result


def _storm(seen: Sequence[Seen], began: float, before: Mapping[str, float], after: Mapping[str, float]) -> Any:
    waits = [one.connected[0] - began for one in seen if one.connected]
    return {
        "seconds_to_last": max(waits),
        "seconds_p50": statistics.median(waits),
        "cpu_seconds": after["cpu_seconds"] - before["cpu_seconds"],
        "sessions_lost": sum(len(one.connected) - 1 for one in seen if one.connected),
        "failures": sum(sum(one.failures.values()) for one in seen),
        "peak_mb": after["peak_mb"],
    }


def _idle(server: Server, fleet: LightProcesses, seconds: float) -> dict[str, Any]:
    time.sleep(2 * HEARTBEAT)  # what the storm has left behind
    before, began = server.look(), time.monotonic()
    time.sleep(seconds)
    after, ended = server.look(), time.monotonic()
    answered = [late for one in fleet.seen() for at, late in one.heard if began <= at < ended - 1]
    return {
        "seconds": ended - began,
        **_percentiles([1000 * late for late in answered], "heard_ms"),
        "heartbeats": len(answered),
        "cpu_seconds_a_minute": 60 * (after["cpu_seconds"] - before["cpu_seconds"]) / (ended - began),
        "memory_mb": after["memory_mb"],
        "files": after["files"],
        "threads": after["threads"],
    }


def _round(seen: Sequence[Seen], began: float, before: Mapping[str, float], after: Mapping[str, float]) -> Any:
    tasks = [times for one in seen for times in one.tasks.values() if times.committed is not None]
    late = [1000 * wait for one in seen for at, wait in one.heard if at >= began]
    return {
        "tasks": len(tasks),
        "seconds": max(times.committed for times in tasks) - began,
        "offered_after_s": max(times.offered for times in tasks) - began,
        "fetched_after_s": max(times.fetched for times in tasks) - began,
        "handed_in_after_s": max(times.handed_in for times in tasks) - began,
        "megabytes_down": sum(one.bytes_down for one in seen) / 1e6,
        "megabytes_up": sum(one.bytes_up for one in seen) / 1e6,
        "cpu_seconds": after["cpu_seconds"] - before["cpu_seconds"],
        "peak_mb": after["peak_mb"],
        "failures": sum(sum(one.failures.values()) for one in seen),
        **_percentiles(late, "heard_ms"),
    }


def _crash(seen: Sequence[Seen], crashed: float, back: float, server: Server, *, finished: bool) -> dict[str, Any]:
    again = [next((at for at in one.connected if at > crashed), None) for one in seen]
    return {
        "finished": finished,
        "seconds_to_listening": back - crashed,
        "reconnected": sum(at is not None for at in again),
        "seconds_to_last_after_listening": max((at for at in again if at is not None), default=crashed) - back,
        "seconds_p50_after_listening": statistics.median([at for at in again if at is not None] or [crashed]) - back,
        "tracebacks": server.said().count("Traceback"),
    }


def _failures(seen: Sequence[Seen]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in seen:
        total.update(one.failures)
    return dict(total.most_common(6))


def _database(folder: Path) -> dict[str, Any]:
    """What the database says in the end: no task may be missing from it."""
    store = Store(folder / "fedwon.db")
    with store.session() as session:
        states = select(TaskRow.round, TaskRow.state, func.count()).group_by(TaskRow.round, TaskRow.state)
        tasks = {f"round {number}: {state}": count for number, state, count in session.execute(states)}
        seconds = {row.number: row.seconds for row in session.scalars(select(RoundRow)) if row.number}
        last = select(func.count()).where(
            MetricRow.round == max(seconds, default=0), MetricRow.key == "validation-loss"
        )
        evaluated = session.scalar(last)
    store.close()
    return {"tasks": tasks, "round_seconds": seconds, "evaluated": evaluated, "commands": _commands(folder)}


def _commands(folder: Path) -> dict[str, Any]:
    """Return what an operator's commands take and print; most of their time is the start of a process."""
    found = {}
    for name in ("status", "sites"):
        began = time.monotonic()
        arguments = [BIN / "fedwon-server", name, "--dir", folder]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        found[name] = {"seconds": time.monotonic() - began, "lines": done.stdout.count("\n")}
    return found


def _percentiles(values: Sequence[float], name: str) -> dict[str, float]:
    if not values:
        return {}
    return {f"{name}_p{rank}": float(np.percentile(values, rank)) for rank in (50, 99)} | {f"{name}_max": max(values)}


def measure(counts: Sequence[int], idle: float, port: int, processes: int, keep: Path) -> dict[str, Any]:
    """Measure for each number of sites in turn; what is there is kept after each, for the next may not end."""
    versions = {"python": platform.python_version(), "grpcio": grpc.__version__, "fedwon": VERSION}
    where = {"processors": os.cpu_count(), "heartbeat_seconds": HEARTBEAT, "client_processes": processes}
    found: list[dict[str, Any]] = []
    result = {"date": time.strftime("%Y-%m-%d"), **versions, **where, "measured": found}
    with tempfile.TemporaryDirectory(prefix="fedwon-sessions-") as name:
        for count in counts:
            how = {"port": port, "processes": processes}
            began = time.monotonic()
            row = {"sites": count, "steps": steps(Path(name), count, **how), **lives(Path(name), count, idle, **how)}
            found.append({**row, "took_seconds": time.monotonic() - began})
            sys.stderr.write(f"{count} sites: {found[-1]['took_seconds']:.0f} s\n")
            keep.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[1000])
    parser.add_argument("--idle", type=float, default=30.0, help="seconds of heartbeats")
    parser.add_argument("--processes", type=int, default=4, help="of the load generator")
    parser.add_argument("--port", type=int, default=18670)
    parser.add_argument("--keep", type=Path, default=RESULT)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    result = measure(options.sites, options.idle, options.port, options.processes, options.keep)
    print(json.dumps(result, indent=1) if options.json else page(result))


if __name__ == "__main__":
    main()
