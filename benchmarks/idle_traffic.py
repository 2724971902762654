"""What an idle site costs its line: `python -m benchmarks.idle_traffic [SECONDS] [--heartbeat 15] [--json]`.

One real site is connected to a real server through the counting proxy of the tests and has nothing to do. What passes
is counted for some seconds (120 without the argument), the connection itself being left out, and stated by site and
hour. The counts are the bytes of TLS in TCP; what TCP and IP add cannot be seen from a proxy and is estimated beside:
40 bytes and 12 of time stamps a packet, and one packet that acknowledges each packet with data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.liveness import DEFAULT_HEARTBEAT, Liveness
from tests.e2e.fleet import Fleet
from tests.network.proxy import DOWN, UP, FaultProxy

PACKET = 52
"""Bytes of IPv4 and TCP headers with time stamps."""
TLS, FRAME, PREFIX = 22, 9, 5
"""Bytes around a message: a TLS 1.3 record, an HTTP/2 frame, gRPC's length."""
WINDOW_UPDATE, PING = FRAME + 4, FRAME + 8
"""Bytes of HTTP/2 frames."""
SETTLE_SECONDS = 3.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, nargs="?", default=120.0)
    parser.add_argument("--heartbeat", type=float, default=DEFAULT_HEARTBEAT, help="heartbeat_seconds of the server")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    result = measure(options.seconds, options.heartbeat)
    print(json.dumps(result, indent=2) if options.json else page(result))


def measure(seconds: float, heartbeat: float) -> dict[str, Any]:
    """Count what one idle site and its server say to each other.

    Args:
        seconds: how long to count.
        heartbeat: the server's heartbeat_seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), heartbeat=heartbeat)  # its run waits for two sites, and there is one
        try:
            with FaultProxy(fleet.config.listen) as proxy:
                fleet.start_server()
                fleet.site("idle", server=proxy.address)
                fleet.start_site("idle").wait_says("connected to")
                time.sleep(SETTLE_SECONDS)
                before = {way: _pieces(proxy, way) for way in (UP, DOWN)}
                began = time.monotonic()
                time.sleep(seconds)
                lasted = time.monotonic() - began
                said = {way: _pieces(proxy, way) - before[way] for way in (UP, DOWN)}
                connections = len(proxy.connections)
        finally:
            fleet.close()
    return {
        "seconds": round(lasted, 1),
        "heartbeat_seconds": heartbeat,
        "keepalive_seconds": Liveness(heartbeat).keepalive,
        "connections": connections,
        **{way: _way(said[way], said[DOWN if way == UP else UP], lasted) for way in (UP, DOWN)},
        "estimate_an_hour": _estimate(heartbeat),
    }


def _pieces(proxy: FaultProxy, way: str) -> Counter[int]:
    return sum((one.pieces[way] for one in proxy.connections), Counter())


def _way(pieces: Counter[int], others: Counter[int], seconds: float) -> dict[str, Any]:
    """Sum one way up; its packets are those with data and those that acknowledge the other way's."""
    hour = 3600 / seconds
    payload = sum(size * count for size, count in pieces.items())
    packets = pieces.total() + others.total()
    return {
        "pieces": {str(size): count for size, count in sorted(pieces.items())},
        "bytes_an_hour": round(payload * hour),
        "tcp_ip_estimate_an_hour": round(PACKET * packets * hour),
    }


def _estimate(heartbeat: float) -> dict[str, int]:
    """Say what the parts should come to, both ways together, in bytes of TLS an hour."""
    beats, line = 3600 / heartbeat, Liveness(heartbeat)
    around = TLS + FRAME + PREFIX
    beat = around + pb.FromSite(heartbeat=pb.Heartbeat()).ByteSize()
    heard = around + pb.FromServer(heard=pb.Heard()).ByteSize()
    pings = 0.0 if heartbeat < line.keepalive else 3600 / line.keepalive
    return {
        "heartbeats": round(beats * beat),
        "their answers": round(beats * heard),
        "flow control (two window updates each way a heartbeat, in the same records)": round(beats * 4 * WINDOW_UPDATE),
        "keepalive pings and answers, of both sides": round(4 * pings * (TLS + PING)),
    }


def page(result: dict[str, Any]) -> str:
    """Write a result as text."""
    every, count = result["heartbeat_seconds"], result["connections"]
    lines = [
        f"{result['seconds']:g} s, a heartbeat each {every:g} s, connections: {count}",
        "| way | bytes a site and hour | of TCP and IP, estimated | pieces seen (bytes x times) |",
        "|---|---|---|---|",
    ]
    for way, words in ((UP, "site to server"), (DOWN, "server to site")):
        row = result[way]
        pieces = ", ".join(f"{size} x {count}" for size, count in row["pieces"].items())
        lines.append(f"| {words} | {row['bytes_an_hour']} | {row['tcp_ip_estimate_an_hour']} | {pieces} |")
    parts = ", ".join(f"{name} {value}" for name, value in result["estimate_an_hour"].items())
    lines.append(f"\nEstimate of the parts, bytes an hour: {parts}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
