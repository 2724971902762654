"""How often the enrolment port is tried: token buckets, by address and in all.

Only attempts that fail count. A good join token is taken however full the port is, so nobody can lock a site out by
trying: a token has 192 random bits, and what is limited is the work and the noise that guesses make, not the guessing.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

ADDRESSES = 10_000
"""Addresses that are remembered; the one that was heard of longest ago is forgotten first."""


class Bucket:
    """A token bucket.

    Args:
        per_minute: how many fit in, and how many flow in each minute.
        clock: seconds.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._size, self._clock = per_minute / 60, per_minute, clock
        self._left, self._when = float(per_minute), clock()

    def wait(self) -> float:
        """Return the seconds until there is one, 0 if there is."""
        moment = self._clock()
        self._left = min(self._size, self._left + (moment - self._when) * self._rate)
        self._when = moment
        return 0.0 if self._left >= 1 - 1e-9 else (1 - self._left) / self._rate

    def take(self) -> None:
        """Take one out."""
        self._left = max(self._left - 1, 0.0)


class Attempts:
    """Failed attempts at the enrolment port.

    Args:
        per_address: a minute from one address (of IPv6: from one /64).
        in_all: a minute from all of them.
        clock: seconds.
    """

    def __init__(self, per_address: int, in_all: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_address, self._clock = per_address, clock
        self._all = Bucket(in_all, clock)
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return the seconds until an attempt from this address is looked at, 0 if it is now; counts nothing."""
        return max(self._bucket(network_of(address)).wait(), self._all.wait())

    def failed(self, address: str) -> float:
        """Count a failed attempt.

        Returns:
            0 while the limits hold, else the seconds until the next attempt is looked at again.
        """
        bucket = self._bucket(network_of(address))
        wait = max(bucket.wait(), self._all.wait())
        if wait == 0:
            bucket.take()
            self._all.take()
        return wait

    def _bucket(self, network: str) -> Bucket:
        bucket = self._buckets.pop(network, None) or Bucket(self._per_address, self._clock)
        self._buckets[network] = bucket
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket


def network_of(address: str) -> str:
    """Return what attempts from an address are counted under: itself, or of IPv6 its /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network(f"{address}/64", strict=False))
    return address
