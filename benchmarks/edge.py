"""What an edge box must have: `python -m benchmarks.edge [--images 40] [--starts 5] [--json]`.

Real processes, a server and one site on loopback. Idle: a site is started so many times; seconds until it is connected,
processor time and resident memory are looked at, with all cores and on one (`taskset`). Training: for `digit_cnn`
(28 px) and `mobilenet_v2` (128 px), at full width and batch size 1, a whole round with so many images (fetch, train,
hand in, final evaluation) with all cores, on one core, and, where this user may make control groups, on one core
within 1 GB. Peak memory is the whole client's (`VmHWM`), and of the control group with the file pages in it.
Milliseconds a step are the round's own training time over its steps. Keeps `benchmarks/results/edge.json` and prints
the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fedwon.server.engines.simulating import versions
from fedwon.server.store import MetricRow, Store
from tests.e2e.fleet import BIN, Fleet, Process, environment

RESULT = Path(__file__).resolve().parent / "results" / "edge.json"
CGROUPS = Path("/sys/fs/cgroup")
GIGABYTE = 2**30
PATIENCE = 400.0
SETTLE_SECONDS = 1.0
AIM_MEGABYTES, AIM_SECONDS = 150, 2.0
ONE_CORE = ("taskset", "-c", "0")
NETWORKS: Mapping[str, int] = {"digit_cnn": 28, "mobilenet_v2": 128}
"""Edge of the images in pixels."""
VALIDATION = 20
"""Images that are evaluated beside those that are trained on."""


def idle(starts: int, within: Sequence[str]) -> dict[str, Any]:
    """Start a site so many times, each after the one before has ended.

    Returns:
        Seconds from the start of the process until it says that it is connected (median, least and most), seconds of
        processor time up to then, and megabytes that are resident a second later.
    """
    rows = []
    with _fleet({}) as fleet:  # its run waits for two sites, and there is one
        fleet.start_server()
        fleet.site("idle")
        for _ in range(starts):
            began = time.monotonic()
            process = fleet.start_site("idle", within=within)
            process.wait_says("connected to", PATIENCE)
            rows.append((time.monotonic() - began, _cpu_seconds(process.pid)))
            time.sleep(SETTLE_SECONDS)
            rows[-1] += (_megabytes(process.pid, "VmRSS"), _megabytes(process.pid, "RssAnon"))
            process.stop(expected=None)
    seconds, cpu, resident, own = zip(*rows, strict=True)
    return {
        "seconds_to_connected": [round(pick(seconds), 2) for pick in (min, statistics.median, max)],
        "cpu_seconds": round(statistics.median(cpu), 2),
        "resident_mb": round(max(resident), 1),
        "anonymous_mb": round(max(own), 1),
    }


def training(network: str, images: int, *, one_core: bool, limited: bool) -> dict[str, Any]:
    """Let one site do a round of a run of its own.

    Args:
        network: what is trained.
        images: so many steps are taken, for a batch is one image.
        one_core: on the first processor, with one thread.
        limited: in a control group of 1 GB.
    """
    changes = {
        "rounds": 1,
        "model": {"name": network},
        "images": {"size": NETWORKS[network], "channels": 3, "max_train": images, "validation_fraction": 0.3},
        "training": {"batch_size": 1, "epochs": 1, "lr": 0.001},
        "participation": {"minimum": 1, "retries": 0, "pause_seconds": None},
    }
    with _fleet(changes) as fleet, _control_group(limited) as group:
        data = _images(fleet.folder / "images.npz", images, NETWORKS[network])
        threads = 1 if one_core else os.cpu_count()
        fleet.site("box", data=str(data), threads=threads)
        server = fleet.start_server()
        site = _start(fleet, ONE_CORE if one_core else (), group)
        peak = _watch_peak(server, site)
        found = {"peak_mb": round(peak, 1), "threads": threads}
        if group is not None:
            found["group_peak_mb"] = round(_group_peak(group) / 2**20, 1)
        site.stop(expected=None)
        server.end(expected=None)
        found |= _measured(fleet, server)
    return found


def _measured(fleet: Fleet, server: Process) -> dict[str, Any]:
    with _store(fleet) as store, store.session() as session:
        figures = {row.key: row.value for row in session.query(MetricRow).filter(MetricRow.site == "box")}
    if "steps" not in figures:
        reason = next((line for line in server.text().splitlines() if "no update from" in line), "no answer")
        return {"failed": reason.partition("no update from box: ")[2] or reason}
    return {"step_ms": round(1000 * figures["train-seconds"] / figures["steps"], 1), "steps": int(figures["steps"])}


@contextmanager
def _store(fleet: Fleet) -> Iterator[Store]:
    store = Store(fleet.dir / "fedwon.db")
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _fleet(changes: Mapping[str, object]) -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), changes, heartbeat=5.0)
        try:
            yield fleet
        finally:
            fleet.close()


def _start(fleet: Fleet, within: Sequence[str], group: Path | None) -> Process:
    """Start the site, from a shell that has entered the control group before."""
    client = [*within, str(BIN / "fedwon-client"), "start", "--dir", str(fleet.folder / "box")]
    enter = f"echo $$ > {group / 'cgroup.procs'} && " if group is not None else ""
    threads = {} if within else {"OMP_NUM_THREADS": str(os.cpu_count())}
    command = ["sh", "-c", f'{enter}exec "$@"', "sh", *client]
    process = Process(command, fleet.folder / "box.log", env={**environment(), **threads})
    fleet.processes.append(process)
    return process


def _watch_peak(server: Process, site: Process) -> float:
    """Wait for the end of the run; return the site's peak resident memory in megabytes, which must be read alive."""
    peak, end = 0.0, time.monotonic() + PATIENCE
    while (
        not server.says("run .* has ended")
        and server.process.poll() is site.process.poll() is None
        and time.monotonic() < end
    ):
        with suppress(OSError, StopIteration):
            peak = max(peak, _megabytes(site.pid, "VmHWM"))
        time.sleep(0.1)
    return peak


def _images(path: Path, images: int, size: int) -> Path:
    """Write noise of two classes: enough that `images` are left to train on beside those for validation."""
    rng = np.random.default_rng(0)
    count = round((images + VALIDATION) / 0.7)
    np.savez(path, images=rng.integers(0, 255, (count, size, size, 3), dtype=np.uint8), labels=np.arange(count) % 2)
    return path


def _megabytes(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _version_1() -> bool:
    return (CGROUPS / "memory" / "memory.limit_in_bytes").exists()


@contextmanager
def _control_group(wanted: bool) -> Iterator[Path | None]:
    """Make a control group of 1 GB without swap where that can be limited.

    Raises:
        OSError: this user may not.
    """
    if not wanted:
        yield None
        return
    top, limit, swap = (
        (CGROUPS / "memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if _version_1()
        else (CGROUPS, "memory.max", "memory.swap.max")
    )
    group = top / f"fedwon-edge-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(GIGABYTE), encoding="ascii")
        with suppress(OSError):
            (group / swap).write_text(str(GIGABYTE if _version_1() else 0), encoding="ascii")
        yield group
    finally:
        for _ in range(50):  # a process that was killed takes a moment to leave
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def _group_peak(group: Path) -> int:
    name = "memory.max_usage_in_bytes" if _version_1() else "memory.peak"
    return int((group / name).read_text(encoding="ascii"))


def measure(images: int, starts: int) -> dict[str, Any]:
    """Take all figures; a control group that cannot be made is left out with the reason."""
    found: dict[str, Any] = {"versions": versions(), "cores": os.cpu_count(), "images": images, "starts": starts}
    found["idle"] = {"all cores": idle(starts, ()), "one core": idle(starts, ONE_CORE)}
    rows: dict[str, Any] = {}
    for network in NETWORKS:
        rows[network] = {
            "all cores": training(network, images, one_core=False, limited=False),
            "one core": training(network, images, one_core=True, limited=False),
        }
        try:
            rows[network]["one core, 1 GB"] = training(network, images, one_core=True, limited=True)
        except OSError as error:
            rows[network]["one core, 1 GB"] = {"failed": f"no control group can be made here: {error}"}
    return {**found, "training": rows}


def table(found: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| an idle site | seconds from start to connected: median (least to most) | of processor time | resident MB |",
        "|---|---|---|---|",
    ]
    for where, row in found["idle"].items():
        least, middle, most = row["seconds_to_connected"]
        seconds = f"{middle:.2f} ({least:.2f} to {most:.2f}) | {row['cpu_seconds']:.2f}"
        lines.append(f"| {where} | {seconds} | {row['resident_mb']:.0f} |")
    lines += [
        "",
        "| training at batch size 1 | where | ms a step | peak MB of the client | peak MB of the control group |",
        "|---|---|---|---|---|",
    ]
    for network, conditions in found["training"].items():
        for where, row in conditions.items():
            step = f"{row['step_ms']:.1f}" if "step_ms" in row else row["failed"]
            peak, group = (f"{row[key]:.0f}" if key in row else "-" for key in ("peak_mb", "group_peak_mb"))
            lines.append(f"| {network}, {NETWORKS[network]} px | {where} | {step} | {peak} | {group} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, keep the figures and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="steps of each training")
    parser.add_argument("--starts", type=int, default=5, help="of the idle site, for each condition")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options.images, options.starts)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1) if options.json else table(found))


if __name__ == "__main__":
    main()
