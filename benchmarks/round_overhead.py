"""What a round costs beside the training in it: `python -m benchmarks.round_overhead [--json]`.

For numbers of sites and sizes of models, in turn and in one call:

- floor: the same bytes through plain gRPC streams and one pass over memory (`benchmarks.plain_stream`), before and
  after ours; also under mutual TLS, which fedwon always has;
- ours: rounds of one real `fedwon-server` with light sites (`benchmarks.light_rounds`), from a round's first offer to
  the first offer of the next, all that a round does in between included, to the disk and back;
- the longest stall of the server's event loop meanwhile (`benchmarks.watched_server`);
- Flower's own SuperLink and SuperNodes with the same bytes (`benchmarks.flower_rounds`), for some of them;
- with `--against PYTHONPATH`: the same with another version of the server, before and after a change.

Server and sites share this machine's processors. What did not fit in the time (`--minutes`) is named. The result is
kept in `benchmarks/results/round_overhead.json`; the table of docs/performance.md goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flwr
import grpc
import numpy as np

from benchmarks.flower_rounds import flower_rounds
from benchmarks.light_rounds import MODELS, Measured, light_rounds, write_update
from benchmarks.plain_stream import PlainStream, Secrets
from fedwon.common.pki import Credentials, create_authority, issue_server, new_key, request, sign_request
from fedwon.common.version import VERSION

RESULT = Path(__file__).resolve().parent / "results" / "round_overhead.json"
MINUTES = 9.5
ROUNDS: Mapping[str, Mapping[int, int]] = {
    "5 kB": {16: 40, 1: 20, 4: 20, 64: 15},
    "57 MB": {4: 4, 1: 4, 16: 3, 64: 2},
    "1 MB": {16: 10, 1: 15, 4: 10, 64: 6},
    "228 MB": {1: 3, 4: 3, 16: 2},
}
"""How many rounds are measured; 64 sites with 228 MB would be 14.6 GB each way and in the spool."""
FLOWER: Mapping[str, Mapping[int, int]] = {"1 MB": {4: 3}, "57 MB": {4: 2}}


def cell(name: str, sites: int, rounds: int, port: int, against: str | None) -> dict[str, Any]:
    """Measure one size with one number of sites."""
    with tempfile.TemporaryDirectory(prefix="fedwon-round-") as temporary:
        folder = Path(temporary)
        size = write_update(MODELS[name], folder / "update.safetensors")
        with PlainStream(sites, size) as plain, PlainStream(sites, size, _secrets(folder)) as secret:
            floors, secrets = _floors(plain, secret)
            how = {"sites": sites, "rounds": rounds, "port": port}
            before = None if against is None else light_rounds(folder / "b", MODELS[name], **how, pythonpath=against)
            ours = light_rounds(folder / "ours", MODELS[name], **how)
            more, more_secrets = _floors(plain, secret)
        floor = statistics.median(floors + more)
        row = {"model": name, "bytes": size, "sites": sites, "floor": floor, **_figures(ours, floor)}
        row["floor_tls"] = statistics.median(secrets + more_secrets)
        row |= {} if before is None else {"before": _figures(before, floor)}
        if (asked := FLOWER.get(name, {}).get(sites)) is not None:
            theirs = flower_rounds(folder / "flower", size=size, sites=sites, rounds=asked)
            row |= {"flower": statistics.median(theirs), "flower_ratio": statistics.median(theirs) / row["median"]}
        return row


def _secrets(folder: Path) -> Secrets:
    """Return certificates of an authority of its own for both sides of a plain stream."""
    authority, key = create_authority(folder / "pki", "floor"), new_key()
    site = Credentials(authority.pem, sign_request(authority, request("site", key), "site"), key)
    return Secrets(issue_server(authority, ("127.0.0.1",)), site)


def _floors(plain: PlainStream, secret: PlainStream) -> tuple[list[float], list[float]]:
    """Take turns for two seconds, but at least two turns; the first of each finds everything cold."""
    plain.round(), secret.round()
    found: tuple[list[float], list[float]] = ([], [])
    end = time.monotonic() + 2.0
    while len(found[0]) < 2 or (time.monotonic() < end and len(found[0]) < 20):
        found[0].append(plain.round())
        found[1].append(secret.round())
    return found


def _figures(measured: Measured, floor: float) -> dict[str, Any]:
    longest = max(measured.stalls, key=lambda stall: stall.seconds, default=None)
    computing = max((stall.computing for stall in measured.stalls), default=0.0)
    return {
        "rounds": len(measured.seconds),
        "median": statistics.median(measured.seconds),
        "p95": float(np.percentile(measured.seconds, 95)),
        "ratio": statistics.median(measured.seconds) / floor,
        "phases": dict(measured.phases),
        "longest_stall": 0.0 if longest is None else longest.seconds,
        "longest_computing": computing,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every cell that the time allows."""
    rows, cut, end = [], ["228 MB with 64 sites (14.6 GB each way)"], time.monotonic() + 60 * options.minutes
    for name in options.models:
        for sites, rounds in ROUNDS[name].items():
            if sites not in options.sites:
                continue
            began = time.monotonic()
            if began + _expected(rows, name, sites) > end:
                cut.append(f"{name} with {sites} sites (time)")
                continue
            rows.append(cell(name, sites, max(2, round(rounds * options.share)), options.port, options.against))
            rows[-1]["took"] = time.monotonic() - began
            sys.stderr.write(
                f"{name}, {sites} sites: {rows[-1]['median']:.3f} s a round, took {rows[-1]['took']:.0f} s\n"
            )
    versions = {"python": platform.python_version(), "grpcio": grpc.__version__, "flwr": flwr.__version__}
    where = {"processors": os.cpu_count(), "load": os.getloadavg()[0], "fedwon": VERSION}
    return {"date": time.strftime("%Y-%m-%d"), **versions, **where, "cut": cut, "measured": rows}


def _expected(rows: Sequence[Mapping[str, Any]], name: str, sites: int) -> float:
    """Guess the seconds of a cell from the largest before it that has no more bytes."""
    size = {"5 kB": 0.005, "1 MB": 1.0, "57 MB": 57.0, "228 MB": 228.0}
    asked = size[name] * sites
    known = [row for row in rows if size[row["model"]] * row["sites"] <= asked]
    if not known:
        return 30.0
    near = max(known, key=lambda row: size[row["model"]] * row["sites"])
    grown = asked / (size[near["model"]] * near["sites"])
    return float(near["took"]) * (min(grown, 4.0) if near["median"] > 1 else 1.0)


HEADS = (
    "model", "sites", "floor, s", "floor with TLS, s", "a round, s: median (p95)", "to the floor",
    "to fetched, handed in, committed, s", "longest stall, ms (computing)", "Flower, s (times ours)",
)  # fmt: skip


def page(result: Mapping[str, Any]) -> str:
    """Write the table of docs/performance.md."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    for row in result["measured"]:
        for words, figures in (("", row), (" (before)", row.get("before"))):
            if figures is not None:
                lines.append(f"| {' | '.join(_cells(row, figures, words))} |")
    lines.append(f"\nNot measured: {'; '.join(result['cut'])}.")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], figures: Mapping[str, Any], words: str) -> tuple[str, ...]:
    phases = ", ".join(f"{figures['phases'][what]:.3g}" for what in ("fetched", "handed_in", "committed"))
    flower = f"{row['flower']:.1f} ({row['flower_ratio']:.0f})" if "flower" in row and not words else ""
    return (
        f"{row['model']}{words}",
        str(row["sites"]),
        f"{row['floor']:.3g}",
        f"{row['floor_tls']:.3g}",
        f"{figures['median']:.3g} ({figures['p95']:.3g})",
        f"{figures['ratio']:.1f}",
        phases,
        f"{1000 * figures['longest_stall']:.0f} ({1000 * figures['longest_computing']:.0f})",
        flower,
    )


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(ROUNDS), default=list(ROUNDS))
    parser.add_argument("--sites", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="cells that would end later are left out")
    parser.add_argument("--share", type=float, default=1.0, help="of the rounds of each cell")
    parser.add_argument("--against", help="PYTHONPATH of another version of the server, measured too")
    parser.add_argument("--port", type=int, default=18770)
    parser.add_argument("--keep", type=Path, default=RESULT)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    result = measure(options)
    options.keep.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1) if options.json else page(result))


if __name__ == "__main__":
    main()
