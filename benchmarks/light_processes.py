"""Light sites in several processes: `with LightProcesses(server, enrolled, payload) as fleet: fleet.connect(100)`.

Each process has an event loop of its own (`benchmarks.light_sites`) and is told over a pipe what to do. Sites are dealt
out in turn, so that each process has as many.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from benchmarks.light_sites import LightSite, Seen, run_sites
from benchmarks.recorded import Recorded
from fedwon.common.certificates import read_certificate
from fedwon.common.pki import Credentials, fingerprint, new_key, request, sign_request
from fedwon.server.identity.sites import note_enrolled
from fedwon.server.link.open_files import allow_open_files
from fedwon.server.link.peers import serial_of
from fedwon.server.serving import Home
from fedwon.server.store import CertificateRow

Enrolled = Sequence[tuple[str, Credentials]]
"""Sites by name, with their certificates."""


def enrol(home: Home, names: Sequence[str]) -> Enrolled:
    """Give sites certificates as joining does, in one transaction and without the wire: a thousand take two seconds.

    Args:
        home: a server's folder; the server need not run, and may.
        names: of the sites.
    """
    authority, mark, enrolled = home.authority, fingerprint(home.authority.pem), []
    with home.store.session() as session:
        for name in names:
            key = new_key()
            pem = sign_request(authority, request(name, key), name)
            certificate = read_certificate(pem, "the new certificate")
            serial, ends = serial_of(certificate), certificate.not_valid_after_utc
            session.add(CertificateRow(serial=serial, site=name, expires=ends, authority=mark, pem=pem))
            note_enrolled(session, name, ends)
            enrolled.append((name, Credentials(authority.pem, pem, key)))
    return enrolled


@dataclass(frozen=True)
class Orders:
    """What a process needs to know.

    Attributes:
        server: `host:port`.
        enrolled: its sites.
        payload: the file of the recorded update.
        heartbeat: seconds between heartbeats; the server's own where None.
    """

    server: str
    enrolled: Enrolled
    payload: Path
    heartbeat: float | None = None


class LightProcesses:
    """Light sites, spread over processes.

    Args:
        server: `host:port`.
        enrolled: names and certificates.
        payload: the file of the recorded update.
        processes: how many.
        heartbeat: seconds between heartbeats; the server's own without it.
    """

    def __init__(
        self, server: str, enrolled: Enrolled, payload: Path, *, processes: int = 4, heartbeat: float | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._lines: list[Connection] = []
        self._running: list[multiprocessing.process.BaseProcess] = []
        for index in range(processes):
            ours, theirs = context.Pipe()
            orders = Orders(server, enrolled[index::processes], payload, heartbeat)
            process = context.Process(target=_process, args=(orders, theirs), daemon=True)
            process.start()
            theirs.close()
            self._lines.append(ours)
            self._running.append(process)
        self._ask("ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.join()

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [process.pid for process in self._running if process.pid is not None]

    def connect(self, count: int) -> float:
        """Let the first `count` sites connect, all at once; those that have are left alone.

        Returns:
            The moment at which they were told.
        """
        share, more = divmod(count, len(self._lines))
        began = time.monotonic()
        for index, line in enumerate(self._lines):
            line.send(("connect", share + (index < more)))
        for line in self._lines:
            line.recv()
        return began

    def look(self) -> dict[str, int]:
        """Return counts over all sites: connected once, tasks offered, handed in, committed, and failures."""
        total: dict[str, int] = {}
        for counts in self._ask("look"):
            for key, value in counts.items():
                total[key] = total.get(key, 0) + value
        return total

    def wait(self, what: str, count: int, patience: float) -> bool:
        """Wait until a count of `look` is reached; return whether it was in time."""
        end = time.monotonic() + patience
        while self.look()[what] < count:
            if time.monotonic() > end:
                return False
            time.sleep(0.25)
        return True

    def seen(self) -> list[Seen]:
        """Return what every site has seen up to now."""
        return [seen for part in self._ask("seen") for seen in part]

    def _ask(self, what: str) -> list[Any]:
        for line in self._lines:
            line.send((what, 0))
        return [line.recv() for line in self._lines]


def _process(orders: Orders, line: Connection) -> None:
    with suppress(KeyboardInterrupt, EOFError):
        allow_open_files()
        asyncio.run(_serve(orders, line))


async def _serve(orders: Orders, line: Connection) -> None:
    recorded = Recorded(orders.payload.read_bytes())
    sites = [
        LightSite(orders.server, name, credentials, recorded, orders.heartbeat) for name, credentials in orders.enrolled
    ]
    running: list[asyncio.Task[list[Seen]]] = []
    begun, stop = 0, asyncio.Event()
    while True:
        what, count = await asyncio.to_thread(line.recv)
        if what == "connect" and count > begun:
            running.append(asyncio.create_task(run_sites(sites[begun:count], stop)))
            begun = count
        for task in running:
            if task.done():
                task.result()
        line.send({"look": lambda: counts(sites), "seen": lambda: [site.seen for site in sites]}.get(what, bool)())


def counts(sites: Sequence[LightSite]) -> Mapping[str, int]:
    """Count what sites have seen."""
    tasks = [times for site in sites for times in site.seen.tasks.values()]
    return {
        "connected": sum(bool(site.seen.connected) for site in sites),
        "sessions": sum(len(site.seen.connected) for site in sites),
        "offered": len(tasks),
        "handed_in": sum(times.handed_in is not None for times in tasks),
        "committed": sum(times.committed is not None for times in tasks),
        "failures": sum(sum(site.seen.failures.values()) for site in sites),
        "finished": sum(bool(site.seen.finished) for site in sites),
    }
