"""Tell a service manager how this process is: systemd's notification protocol, sd_notify(3), without a library.

A unit with `Type=notify` names a datagram socket in `NOTIFY_SOCKET`; without that variable nothing here does anything.
The watchdog is fed from the event loop, so that a loop that hangs is noticed and the process started anew.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fedwon.common.logs import one_line

SOCKET, WATCHDOG_USEC, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
PINGS = 3
"""So often the watchdog is fed within its time; sd_watchdog_enabled(3) asks for two at least."""


def ready(status: str) -> bool:
    """Say that the service does its work now, and how it is in words; return whether anybody was told."""
    return _send(f"READY=1\nSTATUS={one_line(status)}")


def status(text: str) -> bool:
    """Say in one line how the service is (`systemctl status` shows it); return whether anybody was told."""
    return _send(f"STATUS={one_line(text)}")


def stopping() -> bool:
    """Say that the service ends in order; return whether anybody was told."""
    return _send("STOPPING=1\nSTATUS=stopping")


@asynccontextmanager
async def watched() -> AsyncIterator[None]:
    """Feed the watchdog from this event loop while the block runs."""
    task = asyncio.create_task(_feed(seconds)) if (seconds := watchdog_seconds()) else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


def watchdog_seconds() -> float | None:
    """Return the seconds after which the manager takes silence for a hang; None where there is no watchdog."""
    if os.environ.get(WATCHDOG_PID, str(os.getpid())) != str(os.getpid()):
        return None  # meant for the process that started this one
    text = os.environ.get(WATCHDOG_USEC, "")
    return int(text) / 1e6 if text.isdecimal() and int(text) else None


async def _feed(seconds: float) -> None:
    while True:
        _send("WATCHDOG=1")
        await asyncio.sleep(seconds / PINGS)


def _send(text: str) -> bool:
    address = os.environ.get(SOCKET, "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as messenger:
            messenger.setblocking(False)  # a manager that does not read must not hold the event loop up
            messenger.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        return False  # a service is not worse for a manager that does not listen
    return True
