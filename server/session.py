"""An open session of a site, as the server sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedwon.common.errors import Refused
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.peers import Peer


@dataclass
class SiteSession:
    """An open session of a site.

    Attributes:
        instance: drawn by the client at its start, so that a reconnection differs from a second client.
        survey: how many images the site has, by class and part.
        held: tasks whose outcome the site said it keeps, until it is told that nobody needs them.
        outgoing: what waits to be sent; None closes the session.
        peer: the certificate that it was opened with.
        refusal: what it is ended with, once it is.
        expelled: set when it is.
    """

    site: str
    instance: str
    survey: Mapping[str, Mapping[str, int]]
    held: frozenset[str] = frozenset()
    outgoing: asyncio.Queue[pb.FromServer | None] = field(default_factory=asyncio.Queue)
    heard: float = field(default_factory=time.monotonic)
    progress: pb.Heartbeat = field(default_factory=pb.Heartbeat)
    peer: Peer | None = None
    refusal: Refused | None = None
    expelled: asyncio.Event = field(default_factory=asyncio.Event)

    def expel(self, refusal: Refused) -> None:
        """End the session with a refusal, also where the line is stuck."""
        self.refusal = refusal
        self.expelled.set()
