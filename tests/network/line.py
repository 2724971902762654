"""A bad line between two network namespaces: packets are late, and some are lost.

`tc netem` would do the same, but many kernels come without it. Two TUN devices, one in a namespace of the sites' own,
and a thread that carries packets from one to the other: what goes over it is the kernel's own TCP, with real losses,
retransmissions and timeouts.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from typing import Self

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SERVER, SITE = "10.213.77.1", "10.213.77.2"
_numbers = itertools.count()


def missing() -> str:
    """Say what a bad line needs and this machine lacks; empty where all is there."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs the command ip"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    probe = subprocess.run(["ip", "netns", "add", f"fedwon-probe-{os.getpid()}"], capture_output=True, text=True)
    if probe.returncode != 0:
        return f"needs network namespaces: {probe.stderr.strip()}"
    _ip("netns", "delete", f"fedwon-probe-{os.getpid()}")
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class BadLine:
    """A line from a namespace to this one, while the block runs.

    Args:
        delay: seconds that each packet takes, one way.
        loss: share of the packets that are lost, each way.
        rate: bytes a second each way; None: no limit. What would wait longer than `queue` seconds is lost.
        queue: seconds of packets that wait at most where there is a limit.

    Attributes:
        carried, lost: packets.
    """

    def __init__(self, *, delay: float = 0.0, loss: float = 0.0, rate: float | None = None, queue: float = 0.5) -> None:
        self.delay, self.loss, self.rate, self.queue = delay, loss, rate, queue
        self.carried = self.lost = 0
        self.namespace = f"fedwon-{os.getpid()}-{next(_numbers)}"
        self._random = random.Random(7)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._ends: list[int] = []

    def inside(self, *arguments: object) -> list[str]:
        """Return a command as it is run at the sites' end."""
        return ["ip", "netns", "exec", self.namespace, *map(str, arguments)]

    def __enter__(self) -> Self:
        _ip("netns", "add", self.namespace)
        for name, here, there in (("fwserver", SERVER, SITE), ("fwsite", SITE, SERVER)):
            self._ends.append(self._device(name))
            at = ["-n", self.namespace] if name == "fwsite" else []
            if at:
                _ip("link", "set", name, "netns", self.namespace)
            _ip(*at, "address", "add", here, "peer", there, "dev", name)
            _ip(*at, "link", "set", name, "up")
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(5)
        for end in self._ends:
            os.close(end)
        _ip("netns", "delete", self.namespace)

    @staticmethod
    def _device(name: str) -> int:
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
        return end

    def _carry(self) -> None:
        other = dict(zip(self._ends, reversed(self._ends), strict=True))
        free_at = dict.fromkeys(self._ends, 0.0)
        waiting: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        while not self._over.is_set():
            patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
            for end in select.select(self._ends, [], [], min(patience, 0.1))[0]:
                packet, now = os.read(end, 65536), time.monotonic()
                leaves = max(now, free_at[end])
                if self._random.random() < self.loss or leaves - now > self.queue:
                    self.lost += 1
                    continue
                free_at[end] = leaves + (len(packet) / self.rate if self.rate else 0.0)
                heapq.heappush(waiting, (free_at[end] + self.delay, next(numbers), other[end], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(waiting)
                os.write(end, packet)
                self.carried += 1
