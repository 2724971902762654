"""Floods against a real server on this machine: `python -m benchmarks.floods [KIND ...] [--connections 10000]`.

A server and a site that trains round after round, each a process of its own; then one flood after the other, from a
process of its own. Of each: the server's largest resident memory (the kernel's high-water mark, set back before it),
how many files it had open, and the rounds that the honest site ended meanwhile. Ends non-zero where memory went over
the bound that docs/security.md states, or no round ended. `--json` keeps the figures.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.flooding import FLOODS, SITES, STRANGERS
from benchmarks.soak import Processes, committed, look
from fedwon.server.engines.simulating import versions
from fedwon.server.store import Store

RESULT = Path(__file__).resolve().parent / "results" / "floods.json"
AT_LISTEN = {"silent", "resets"}
"""Floods of strangers that go to the port for sites; the others go where sites join, for only there are calls taken."""
BOUND_MB = 160
"""Above what the server holds with its honest site, whatever comes from strangers or from one hostile site."""
PER_CONNECTION_KB = 64
"""And above that for each connection that stands at the same moment."""
PER_SITE_CONNECTION_MB = 4
"""And for each connection of a site with a good certificate that sends before its calls are refused."""
PARTICIPATION: Mapping[str, Any] = {"minimum": 1, "quorum": 1, "patience_seconds": 0.3}
"""Of the run: who does not answer is not waited for."""


class Flooded:
    """A server with an honest site that trains round after round.

    Args:
        listen: where sites connect.
        enrolment: where they join.
        server: the process.
        database: the server's.
        hostile: folder of a site with a good certificate, in whose name floods come.
    """

    def __init__(
        self, listen: str, enrolment: str, server: subprocess.Popen[bytes], database: Path, hostile: Path
    ) -> None:
        self.listen, self.enrolment = listen, enrolment
        self._server, self._hostile, self._store = server, hostile, Store(database)
        self.await_rounds(3)
        self.rest_mb = look(server)["memory_mb"]
        self._files = 0.0

    def await_rounds(self, more: int, patience: float = 120.0) -> int:
        """Wait until so many rounds more are committed, or no longer; return how many were."""
        before, end = committed(self._store)[0], time.monotonic() + patience
        while (done := committed(self._store)[0] - before) < more and time.monotonic() < end:
            if self._server.poll() is not None:
                raise SystemExit(f"the server has ended with {self._server.returncode}")
            time.sleep(0.1)
        return done

    def flood(self, kind: str, seconds: float, count: int) -> dict[str, Any]:
        """Do one flood; return what was seen."""
        Path(f"/proc/{self._server.pid}/clear_refs").write_text("5")  # the high-water mark begins anew
        address = self.listen if kind in AT_LISTEN or kind not in STRANGERS else self.enrolment
        command = [sys.executable, "-m", "benchmarks.flooding", kind, address, "--site", str(self._hostile)]
        command += ["--seconds", str(seconds), "--count", str(count)]
        before, began, files = committed(self._store)[0], time.monotonic(), 0.0
        before_files = look(self._server)["files"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as flood:
            while flood.poll() is None:
                files = max(files, look(self._server)["files"])
                time.sleep(0.2)
            told = json.loads(flood.communicate()[0])
        self._files = max(self._files, files)
        seen = {
            "kind": kind,
            **told,
            "seconds": time.monotonic() - began,
            "rounds": committed(self._store)[0] - before,
            "rounds_after": self.await_rounds(1),
            "files": files,
            "rest_mb": self.rest_mb,
            "peak_mb": _peak_mb(self._server.pid),
            # of the floods before, too: what a process has had once it does not always give back
            "bound_mb": self.rest_mb
            + BOUND_MB
            + self._files * PER_CONNECTION_KB / 1024
            + (PER_SITE_CONNECTION_MB * (files - before_files) if kind in SITES else 0),
        }
        return {**seen, "holds": seen["peak_mb"] <= seen["bound_mb"] and seen["rounds_after"] > 0}

    def stop(self) -> None:
        """Let go of it."""
        self._store.close()


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of docs/performance.md."""
    head = (
        "| flood | tried | of these stood at the end | most files open | memory, MB: before, most, bound | rounds "
        "meanwhile | holds |\n|---|---|---|---|---|---|---|"
    )
    lines = []
    for row in rows:
        tried = next((row[key] for key in ("opened", "tried", "sent") if key in row), 0) + row.get("failed", 0)
        memory = f"{row['rest_mb']:.0f}, {row['peak_mb']:.0f}, {row['bound_mb']:.0f}"
        what = (FLOODS[row["kind"]].__doc__ or "").strip().rstrip(".")
        stood, holds = row.get("standing", "-"), "yes" if row["holds"] else "**no**"
        lines.append(f"| {what} | {tried:,} | {stood} | {row['files']:.0f} | {memory} | {row['rounds']} | {holds} |")
    return "\n".join([head, *lines])


def main() -> None:
    """Flood, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(FLOODS))
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="that each goes on")
    parser.add_argument("--port", type=int, default=19470)
    parser.add_argument("--json", type=Path, default=RESULT)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fedwon-floods-"))
    fleet = Processes(folder, 1_000_000, 1, chosen.port, PARTICIPATION)
    rows = []
    try:
        listen, enrolment = f"127.0.0.1:{chosen.port}", f"127.0.0.1:{chosen.port + 1}"
        hostile = fleet.join("hostile", enrolment)
        flooded = Flooded(listen, enrolment, fleet.running["server"], fleet.home / "fedwon.db", hostile)
        for kind in chosen.kinds or FLOODS:
            rows.append(flooded.flood(kind, chosen.seconds, chosen.connections))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        flooded.stop()
    finally:
        fleet.stop()
        shutil.rmtree(folder)
    result = {"date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "processors": os.cpu_count(), "versions": versions()}
    kept = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"rows": []}
    others = [row for row in kept["rows"] if row["kind"] not in {one["kind"] for one in rows}]
    order = list(FLOODS)
    result["rows"] = sorted([*others, *rows], key=lambda row: order.index(row["kind"]))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result["rows"]))
    if not all(row["holds"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
