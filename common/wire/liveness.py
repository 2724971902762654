"""How long either side waits before it takes a line for dead.

Everything follows from one setting, `heartbeat_seconds`: the server tells it to its sites in the welcome, so both ends
of a connection always hold a pair of values that go together. A site pings no more often than its server allows
(gRPC ends a connection that is pinged too often), and both notice a half-open line in the same time.

Three things look at a line, from the quickest to the slowest:

- heartbeats and their answers, on the session: three silent intervals end it (45 s at the default of 15 s);
- HTTP/2 keepalive pings, on every connection with a call on it: they end transfers on a line that carries nothing, and
  keep a NAT's memory fresh where the heartbeat interval is longer than that;
- the stall limit, on each step of a transfer: it ends one with a peer that answers pings and does nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS

DEFAULT_HEARTBEAT = 15.0
SILENT_INTERVALS = 3
CALLS_A_CONNECTION = 16
"""Calls that a site may have open on one connection. It needs one; a flood waits in the site's own memory."""

Options = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Liveness:
    """Limits in seconds.

    Args:
        heartbeat: the interval at which sites say that they are there.
    """

    heartbeat: float = DEFAULT_HEARTBEAT

    @property
    def silence(self) -> float:
        """Without a word for so long, a session is over."""
        return SILENT_INTERVALS * self.heartbeat

    @property
    def settled(self) -> float:
        """A session that stood for so long is one that the line can hold: the next pause is short again."""
        return min(self.silence, 10.0)

    @property
    def keepalive(self) -> float:
        """A connection with a call on it on which nothing came for so long is pinged."""
        return _between(5.0, 2 * self.heartbeat, 30.0)

    @property
    def answer(self) -> float:
        """A ping without an answer for so long ends the connection; in Linux so does data that nobody acknowledges.

        Longer than it looks to need: on a slow line it waits behind what is on its way of a model (`LOOKAHEAD`).
        """
        return _between(10.0, 4 * self.heartbeat, 60.0)

    @property
    def stall(self) -> float:
        """A transfer in which nothing moves for so long is broken off: 256 KiB pass in 180 s at 1.5 KB/s."""
        return _between(20.0, 12 * self.heartbeat, 180.0)

    def channel_options(self) -> Options:
        """Return gRPC's options of a site's channel."""
        return (*CHANNEL_OPTIONS, *self._keepalive())

    def server_options(self) -> Options:
        """Return gRPC's options of the server: it bears pings a third more often than its sites send them."""
        return (
            *CHANNEL_OPTIONS,
            *self._keepalive(),
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.keepalive * 1000 * 2 / 3)),
            ("grpc.max_concurrent_streams", CALLS_A_CONNECTION),
        )

    def _keepalive(self) -> Options:
        return (
            ("grpc.keepalive_time_ms", round(self.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.answer * 1000)),
            ("grpc.http2.ping_timeout_ms", round(self.answer * 1000)),  # 60 s without it, whatever the line above says
            ("grpc.http2.max_pings_without_data", 0),  # no limit: a session may be quiet for hours
        )


def _between(least: float, value: float, most: float) -> float:
    return min(max(value, least), most)
