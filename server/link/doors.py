"""The server's two ports: what each holds of connections, calls and bytes, whoever comes.

gRPC itself bounds a connection (calls on it, bytes of headers and of a message, how long a handshake may take) and how
many there are. What it cannot bound is what one address, or one site, takes of that: calls in progress are counted here
for both. Connections of one address are a firewall's to count (docs/security.md has the rule).
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from fedwon.common.errors import LinkError
from fedwon.common.wire.liveness import Liveness, Options
from fedwon.server.identity.attempts import network_of
from fedwon.server.link.open_files import OWN
from fedwon.server.link.peers import readable

HANDSHAKE_MS = 30_000
"""TLS and HTTP/2 have begun within this, or the connection is closed (gRPC's own default is two minutes)."""
IDLE_MS = 300_000
"""A connection without a call is closed after this. A site has none: its session is a call."""
METADATA = 8192
"""Bytes of a call's headers beyond which calls are refused, at random up to `METADATA_MOST` and all beyond."""
METADATA_MOST = 16_384
CALLS_A_SITE = 16
"""Calls that a site may have open at once, over all its connections: it needs three, and some may be on lines that are
broken and not yet known to be."""

STRANGERS_MESSAGE = 2**17
"""Bytes of a message at the port for sites that join; theirs have about 1,000."""
STRANGERS_IDLE_MS = 30_000
STRANGERS_AGE_MS = 120_000
"""No connection at that port lives longer, and no call on it by more than `STRANGERS_GRACE_MS`."""
STRANGERS_GRACE_MS = 20_000
STRANGERS_CALLS = 4
"""Calls on one connection."""
STRANGERS_AT_ONCE = 256
"""Calls in progress at that port."""
ADDRESS_AT_ONCE = 32
"""Of one address (of IPv6: of one /64)."""
SAID_SECONDS = 10.0
"""A call of a stranger has brought its message within this."""

Context = grpc.aio.ServicerContext[Any, Any]


def within_open_files(connections: int) -> int:
    """Return how many connections may be open so that files can still be opened: two thirds of what is allowed."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, (limit - OWN) * 2 // 3))


def federation_options(liveness: Liveness, connections: int) -> Options:
    """Return gRPC's options of the port for sites."""
    return (*liveness.server_options(), *_of_both(connections), ("grpc.max_connection_idle_ms", IDLE_MS))


def enrolment_options(liveness: Liveness, connections: int) -> Options:
    """Return gRPC's options of the port for whoever wants to join: strangers get little, and not for long."""
    strict = {
        "grpc.max_receive_message_length": STRANGERS_MESSAGE,
        "grpc.http2.lookahead_bytes": STRANGERS_MESSAGE,
        "grpc.max_concurrent_streams": STRANGERS_CALLS,
        "grpc.max_connection_idle_ms": STRANGERS_IDLE_MS,
        "grpc.max_connection_age_ms": STRANGERS_AGE_MS,
        "grpc.max_connection_age_grace_ms": STRANGERS_GRACE_MS,
    }
    others = (option for option in liveness.server_options() if option[0] not in strict)
    return (*others, *_of_both(connections), *strict.items())


def _of_both(connections: int) -> Options:
    return (
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", within_open_files(connections)),
        ("grpc.max_metadata_size", METADATA),
        ("grpc.absolute_max_metadata_size", METADATA_MOST),
    )


class SiteCalls:
    """Counts the calls that each site has open.

    Args:
        most: that one may have.
    """

    def __init__(self, most: int = CALLS_A_SITE) -> None:
        self._most, self._open = most, Counter[str]()

    def enter(self, site: str, context: Context) -> None:
        """Count a call until it ends.

        Raises:
            LinkError: the site has as many open as it may; it may try again.
        """
        if self._open[site] >= self._most:
            raise LinkError(f"Site {site} has {self._most} calls open already; try again.")
        self._open[site] += 1

        def _leave(_: object) -> None:
            self._open[site] -= 1
            if not self._open[site]:
                del self._open[site]

        context.add_done_callback(_leave)  # type: ignore[arg-type]  # the stubs want a class of their own


class StrangersCalls(grpc.aio.ServerInterceptor):
    """Keeps one address from taking the whole port for sites that join, and calls from waiting for ever for a message.

    A call with one message looks on the wire like one with several, so it can be read here step by step.

    Args:
        at_once: calls of one address.
        seconds: within which a call brings its message.
    """

    def __init__(self, at_once: int = ADDRESS_AT_ONCE, seconds: float = SAID_SECONDS) -> None:
        self._at_once, self._seconds = at_once, seconds
        self._open: Counter[str] = Counter()

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        """Return the handler of a call, behind the limits where it is one with one message."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def _limited(requests: AsyncIterator[Any], context: Context) -> Any:
            return await self._answered(handler.unary_unary, requests, context)

        return grpc.stream_unary_rpc_method_handler(
            _limited,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _answered(self, answer: Callable[..., Awaitable[Any]], requests: AsyncIterator[Any], context: Any) -> Any:
        address = network_of(readable(context.peer() or ""))
        if self._open[address] >= self._at_once:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Too many calls at once from this address; try again.")
        self._open[address] += 1
        try:
            return await answer(await self._first(requests, context), context)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    async def _first(self, requests: AsyncIterator[Any], context: Any) -> Any:
        try:
            async with asyncio.timeout(self._seconds):
                message = await anext(aiter(requests), None)
        except TimeoutError:
            message = None
        if message is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The call brought no message.")
        return message
