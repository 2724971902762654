"""What codecs gain on a line of 1 Mbit/s, end to end: `python -m benchmarks.slow_line [--rounds 4] [--json]`.

A real server and a real site, each a process of its own, with the rate-limiting proxy of the tests between them; a
small `digit_cnn` and few images, so that it is the line that a round waits for. Seconds are the server's own, from
asking to committing. The first round, in which the site has no model yet to tell differences to, is told apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.codecs import MEGABIT, RESULTS, WAYS
from fedwon.server.store import RoundRow, Store
from tests.e2e.fleet import Fleet
from tests.network.proxy import DOWN, UP, FaultProxy
from tests.server.server_kit import rows

PATIENCE = 900.0


def measure(way: str, rounds: int, width: float) -> dict[str, Any]:
    """Run one federation of one site behind the slow line.

    Args:
        way: a key of `WAYS`.
        rounds: of the run.
        width: of the network.
    """
    up, down = WAYS[way]
    changes = {
        "rounds": rounds,
        "model": {"name": "digit_cnn", "width": width},
        "participation": {"minimum": 1},
        "traffic": {"up": up, "down": down},
    }
    with tempfile.TemporaryDirectory(prefix="fedwon-line-") as folder:
        fleet = Fleet(Path(folder), changes, heartbeat=5.0)
        try:
            with FaultProxy(fleet.config.listen) as proxy:
                proxy.rate = MEGABIT
                server = fleet.start_server()
                fleet.site("slow", server=proxy.address)
                fleet.start_site("slow", "--until-finished")
                server.end(patience=PATIENCE)
                carried = {which: proxy.total(which) for which in (UP, DOWN)}
            size = (fleet.runs()[-1] / "round-0000.safetensors").stat().st_size
            store = Store(fleet.dir / "fedwon.db")
            seconds = [row.seconds for row in rows(store, RoundRow) if row.number > 0]
            store.close()
        finally:
            fleet.close()
    return {
        "way": way,
        "model_bytes": size,
        "first_round": round(seconds[0], 2),
        "later_rounds": round(statistics.median(seconds[1:]), 2),
        "carried": carried,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    plain = results[0]["later_rounds"]
    lines = [
        "| codec | s, first round | s, later rounds (median) | times faster | kB up, down in all |",
        "|---" * 5 + "|",
    ]
    for row in results:
        carried = ", ".join(f"{row['carried'][way] / 1e3:.0f}" for way in (UP, DOWN))
        faster = plain / row["later_rounds"]
        lines.append(f"| {row['way']} | {row['first_round']} | {row['later_rounds']} | {faster:.1f} | {carried} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--width", type=float, default=0.1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["plain", "fp32", "int8"])
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    arguments = parser.parse_args()
    results = [measure(way, arguments.rounds, arguments.width) for way in arguments.ways]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "slow_line.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1) if arguments.json else table(results))


if __name__ == "__main__":
    main()
