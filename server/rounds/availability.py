"""Whether a site may work now, as it says itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import update

from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.store import Site, Store, now

LONGEST_REASON = 200
"""Characters of a site's reason that are kept."""
LONGEST_SECONDS = 366 * 86400.0
"""What is further away is not believed."""


SAME_TIME = timedelta(minutes=1)
"""Times that are so near each other are one: each is counted anew from seconds to go."""


@dataclass(frozen=True)
class Availability:
    """Whether a site may work.

    Attributes:
        reason: why it may not; empty where it may.
        back: when it says that it may again, on this server's clock; None where it does not know.
    """

    reason: str = ""
    back: datetime | None = None

    def __bool__(self) -> bool:
        """Whether it may work now."""
        return not self.reason

    @classmethod
    def from_wire(cls, told: pb.Availability) -> Availability:
        """Read what a site says; its words are shortened and made printable."""
        if told.available:
            return cls()
        plain = "".join(letter if letter.isprintable() else " " for letter in told.reason[:LONGEST_REASON]).strip()
        known = math.isfinite(told.seconds) and 0 < told.seconds < LONGEST_SECONDS
        return cls(plain or "no reason given", now() + timedelta(seconds=told.seconds) if known else None)

    @classmethod
    def of_hello(cls, hello: pb.Hello) -> Availability:
        """Read a hello; a site that says nothing is available at any time."""
        return cls.from_wire(hello.availability) if hello.HasField("availability") else cls()

    def tells_more_than(self, before: Availability) -> bool:
        """Whether an operator should read something else now: another reason, or a time more than a minute away."""
        if self.reason != before.reason or (self.back is None) != (before.back is None):
            return True
        return self.back is not None and before.back is not None and abs(self.back - before.back) > SAME_TIME

    @property
    def words(self) -> str:
        """What the operator reads of a site that may not work."""
        return in_words(self.reason, self.back)


def in_words(reason: str, back: datetime | None) -> str:
    """Say that a site may not work, until when, and why."""
    until = "" if back is None else f" until {back:%Y-%m-%d %H:%M} UTC"
    return f"not available{until} ({reason})"


def note(store: Store, site: str, availability: Availability) -> None:
    """Note a site's availability where `sites` and `status` find it."""
    with store.session() as session:
        values = {"unavailable": availability.reason, "back": availability.back}
        session.execute(update(Site).where(Site.name == site).values(values))


def forget(store: Store) -> None:
    """Forget what all sites said: a server begins."""
    with store.session() as session:
        session.execute(update(Site).values(unavailable="", back=None))
