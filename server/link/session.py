"""An open session of a site, as the server sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from fedwon.common.errors import Refused
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.surveys import survey_from_wire
from fedwon.server.identity.naming import listed
from fedwon.server.link.peers import Peer
from fedwon.server.rounds.availability import Availability

MOST_HELD = 1000
"""Tasks whose outcome a site may say that it holds; ours holds nine."""
LONGEST_TASK = 201
"""Characters of a task's name."""


@dataclass
class SiteSession:
    """An open session of a site.

    Attributes:
        instance: drawn by the client at its start, so that a reconnection differs from a second client.
        survey: how many images the site has, by class and part.
        held: tasks whose outcome the site said it keeps, until it is told that nobody needs them.
        outgoing: what waits to be sent; None closes the session.
        availability: whether the site may work now.
        peer: the certificate that it was opened with.
        refusal: what it is ended with, once it is.
        expelled: set when it is.
        releases: whether the site can take releases.
        order: what it was last told about releases; empty for nothing, or once it has answered.
    """

    site: str
    instance: str
    survey: Mapping[str, Mapping[str, int]]
    held: frozenset[str] = frozenset()
    outgoing: asyncio.Queue[pb.FromServer | None] = field(default_factory=asyncio.Queue)
    heard: float = field(default_factory=time.monotonic)
    progress: pb.Heartbeat = field(default_factory=pb.Heartbeat)
    availability: Availability = field(default_factory=Availability)
    peer: Peer | None = None
    refusal: Refused | None = None
    expelled: asyncio.Event = field(default_factory=asyncio.Event)
    releases: bool = False
    order: str = ""

    @classmethod
    def begun(cls, site: str, hello: pb.Hello) -> SiteSession:
        """Return the session that a hello begins."""
        survey, held = survey_from_wire(hello.data), _held(hello.unfinished)
        told = Availability.of_hello(hello)
        return cls(site, hello.instance, survey, held, availability=told, releases=hello.releases)

    def expel(self, refusal: Refused) -> None:
        """End the session with a refusal, also where the line is stuck."""
        self.refusal = refusal
        self.expelled.set()


def _held(names: Iterable[str]) -> frozenset[str]:
    """Return the tasks that a site says it holds, as far as they can be any: each is answered by a message."""
    return frozenset(name for name in islice(names, MOST_HELD) if len(name) <= LONGEST_TASK)


def resting(sessions: Mapping[str, SiteSession]) -> str:
    """Say of the sites that are connected and may not work, until when: an end of a sentence, or nothing."""
    held = [f"{site} is {one.availability.words}" for site, one in sorted(sessions.items()) if not one.availability]
    return f"; {listed(held, between='; ')}" if held else ""
