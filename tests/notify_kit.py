"""A service manager's end of the notification socket."""

from __future__ import annotations

import socket
import threading
from pathlib import Path


def notification_socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind("\0" + address[1:] if address.startswith("@") else address)
    return made


class Manager:
    """Listens as systemd does, all the time: the system keeps few messages that nobody fetches.

    Args:
        path: where its socket is made; with a leading `@` in the abstract namespace.

    Attributes:
        lines: what came, in order.
    """

    def __init__(self, path: Path | str) -> None:
        self.address = str(path)
        self.lines: list[str] = []
        self._socket = notification_socket(self.address)
        self._ended = False
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        self._socket.settimeout(0.1)
        while not self._ended:
            try:
                self.lines += self._socket.recv(65536).decode().splitlines()
            except TimeoutError:
                continue

    def pings(self) -> int:
        return self.lines.count("WATCHDOG=1")

    def has(self, beginning: str) -> bool:
        return any(line.startswith(beginning) for line in self.lines)

    def environment(self, watchdog: float = 3.0) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(int(watchdog * 1e6))}

    def close(self) -> None:
        self._ended = True
        self._reading.join()
        self._socket.close()
