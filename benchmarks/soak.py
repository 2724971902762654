"""Many rounds with small sites, as real processes: `python -m benchmarks.soak [--rounds 1000] [--sites 8]`.

Looks at the server and at every site each `--every` rounds: resident memory, open files, threads, and the bytes on the
server's disk. The result is kept as JSON in `benchmarks/results/soak.json` and drawn in `docs/curves/soak.svg`; the
table of docs/reliability.md goes to standard output. Ends non-zero when memory or the database at the end is more than
10 % above what it was once all was in place, or files or threads have grown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sqlalchemy import func, select

from benchmarks.paper.curves import Point, svg
from fedwon.server.engines.simulating import versions
from fedwon.server.store import RoundRow, RunRow, Store

ROOT = Path(__file__).resolve().parent
RESULT, PICTURE = ROOT / "results" / "soak.json", ROOT.parent / "docs" / "curves" / "soak.svg"
BIN = Path(sys.executable).parent
SETTLED = 50
"""The round that others are compared with."""
THINNED = 150
"""The one for the database: the oldest records have gone, and the write-ahead log has been emptied into the tables."""
MOST = 1.1
"""Memory and the database at the end, as a multiple of those at round `SETTLED`."""

RUN: Mapping[str, Any] = {
    "name": "soak",
    "model": {"name": "digit_cnn", "width": 0.05},
    "images": {"max_train": 20, "channels": 1},
    "training": {"batch_size": 8, "lr": 0.02},
    "retention": {"history": 40},  # so that the oldest records go long before the end; the default is 1,000
}


class Processes:
    """A server and its sites.

    Args:
        folder: where they live.
        rounds: of the run.
        sites: how many.
        port: the server's; the next one is for enrolment.
        participation: of the run; without it, all sites in every round.
    """

    def __init__(
        self, folder: Path, rounds: int, sites: int, port: int, participation: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.home, self.running = folder, folder / "server", {}
        listen, enrolment = f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"
        self._command(
            "fedwon-server", "init", self.home, "--name", "127.0.0.1", "--listen", listen, "--enrolment", enrolment
        )
        path = self.home / "server.yaml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["run"] = {**RUN, "rounds": rounds, "participation": participation or {"minimum": sites}}
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.running["server"] = self._start("server", "fedwon-server", "start", "--dir", self.home)
        for index in range(sites):
            name = f"site-{index}"
            self.running[name] = self._start(
                name, "fedwon-client", "start", "--until-finished", "--dir", self.join(name, enrolment)
            )

    def join(self, name: str, enrolment: str) -> Path:
        """Give a site images and a certificate; return its folder."""
        rng = np.random.default_rng(list(name.encode()))
        images = self.folder / f"{name}.npz"
        np.savez(images, images=rng.integers(0, 255, (100, 16, 16), dtype=np.uint8), labels=np.arange(100) % 4)
        invited = json.loads(self._command("fedwon-server", "enroll", name, "--dir", self.home, "--json"))
        secret = ("--fingerprint", invited["fingerprint"], "--token", invited["token"])
        where = ("--data", images, "--threads", "1", "--dir", self.folder / name)
        self._until_served(lambda: self._command("fedwon-client", "join", enrolment, *secret, *where))
        return self.folder / name

    def _until_served(self, join: Any) -> None:
        for _ in range(60):
            try:
                join()
            except subprocess.CalledProcessError:
                time.sleep(1)
            else:
                return
        raise SystemExit("the server did not come up")

    def _command(self, name: str, *arguments: object) -> str:
        done = subprocess.run([BIN / name, *map(str, arguments)], check=True, capture_output=True, text=True)
        return done.stdout

    def _start(self, log: str, name: str, *arguments: object) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.log").open("wb") as file:
            return subprocess.Popen([BIN / name, *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        """End what still runs."""
        for process in self.running.values():
            process.kill()
            process.wait()


def look(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Return what a process holds: resident memory in MB, open files, threads."""
    proc = Path(f"/proc/{process.pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
    return {
        "memory_mb": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(os.listdir(proc / "fd")),  # noqa: PTH208  # names only, and they change while one looks
        "threads": int(status["Threads"]),
    }


def sample(fleet: Processes) -> dict[str, Any]:
    """Return what server and sites hold; of the sites, the mean."""
    held = {name: look(process) for name, process in fleet.running.items()}
    server = held.pop("server")
    sites = {key: statistics.mean(one[key] for one in held.values()) for key in server}
    database = sum(path.stat().st_size for path in fleet.home.glob("fedwon.db*"))
    disk = sum(path.stat().st_size for path in fleet.home.rglob("*") if path.is_file())
    tables = (fleet.home / "fedwon.db").stat().st_size
    bytes_held = {"database_mb": database, "tables_mb": tables, "disk_mb": disk}
    return {"server": server, "sites": sites, **{key: value / 1e6 for key, value in bytes_held.items()}}


def committed(store: Store) -> tuple[int, str]:
    """Return the last committed round and the state of the run."""
    with store.session() as session:
        state = session.scalars(select(RunRow.state)).first()
        return session.scalar(select(func.max(RoundRow.number))) or 0, state or ""


def watch(fleet: Processes, every: int) -> list[dict[str, Any]]:
    """Take samples until the run has finished."""
    store, samples, began = Store(fleet.home / "fedwon.db"), [], time.monotonic()
    try:
        while True:
            done, state = committed(store)
            if state in {"finished", "failed"} or fleet.running["server"].poll() is not None:
                return samples
            if done >= (samples[-1]["round"] + every if samples else every):
                samples.append({"round": done, "seconds": time.monotonic() - began, **sample(fleet)})
            time.sleep(0.2)
    finally:
        store.close()


def verdicts(samples: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float, bool]]:
    """Compare the last sample with that of round `SETTLED` or `THINNED`: before, after, and whether it has stayed."""
    settled, last = next(one for one in samples if one["round"] >= SETTLED), samples[-1]
    found = {}
    for who in ("server", "sites"):
        for what, most in (("memory_mb", MOST), ("files", 1.0), ("threads", 1.0)):
            before, after = settled[who][what], last[who][what]
            found[f"{who}: {what}"] = (before, after, after <= most * before + (what != "memory_mb") * 2)
    thinned = next((one for one in samples if one["round"] >= THINNED), last)
    for what, label in (("database_mb", "database, MB"), ("tables_mb", "database without its write-ahead log, MB")):
        before, after = thinned[what], last[what]
        found[f"{label} (round {thinned['round']})"] = (before, after, after <= MOST * before)
    return found


def _beside(sample: Mapping[str, Any]) -> float:
    """What is on the disk beside the database, in MB."""
    return float(sample["disk_mb"] - sample["database_mb"])


def table(result: Mapping[str, Any]) -> str:
    """Return the rows of docs/reliability.md."""
    samples = result["samples"]
    settled, last = next(one for one in samples if one["round"] >= SETTLED), samples[-1]
    rows = [
        f"| {name.replace('_mb', ', MB')} | {before:.3g} | {after:.3g} | {'yes' if good else '**no**'} |"
        for name, (before, after, good) in verdicts(samples).items()
    ]
    rows.append(f"| manifests and models, MB | {_beside(settled):.2f} | {_beside(last):.2f} | |")
    head = f"| | round {settled['round']} | round {last['round']} | stays |\n|---|---|---|---|"
    tail = f"{result['rounds']} rounds with {result['sites']} sites took {result['seconds'] / 60:.0f} minutes."
    return "\n".join([head, *rows, "", tail])


def draw(samples: Sequence[Mapping[str, Any]]) -> str:
    """Return a picture of memory, files and threads relative to round `SETTLED`."""
    settled = next(one for one in samples if one["round"] >= SETTLED)
    curves: dict[str, list[Point]] = {}
    for who in ("server", "sites"):
        for what, label in (("memory_mb", "memory"), ("files", "files"), ("threads", "threads")):
            points = [(one["round"], one[who][what] / settled[who][what]) for one in samples]
            curves[f"{who}: {label}"] = points
    curves["database"] = [(one["round"], one["tables_mb"] / settled["tables_mb"]) for one in samples]
    axes = f"round; % of round {settled['round']}"
    return svg("What server and sites hold over many rounds", curves, top=1.5, axes=axes)


def main() -> None:
    """Run, keep, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--port", type=int, default=18470)
    parser.add_argument("--keep", type=Path, default=RESULT)
    chosen = parser.parse_args()
    if chosen.rounds <= SETTLED:
        parser.error(f"--rounds must be more than {SETTLED}")
    folder, began = Path(tempfile.mkdtemp(prefix="fedwon-soak-")), time.monotonic()
    fleet = Processes(folder, chosen.rounds, chosen.sites, chosen.port)
    try:
        samples = watch(fleet, chosen.every)
    finally:
        fleet.stop()
    if not samples or samples[-1]["round"] < chosen.rounds - chosen.every:
        raise SystemExit(f"the run broke off; logs are in {folder}")
    shutil.rmtree(folder)
    result = {
        "rounds": chosen.rounds,
        "sites": chosen.sites,
        "seconds": time.monotonic() - began,
        "samples": samples,
        "versions": versions(),
    }
    chosen.keep.write_text(json.dumps(result) + "\n", encoding="utf-8")
    if chosen.keep == RESULT:
        PICTURE.write_text(draw(samples), encoding="utf-8")
    print(table(result))
    if not all(good for *_, good in verdicts(samples).values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
