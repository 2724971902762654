"""Whether site and server accept each other's certificate, told apart from a server that is not there.

Under TLS 1.3 a server looks at the client's certificate after the client's own handshake is over, and gRPC then just
closes the connection. To a gRPC client that looks like a server that goes down. A server that accepts the certificate
speaks first: HTTP/2 begins with its settings.
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from fedwon.common.errors import Refused, Unreachable
from fedwon.common.system_errors import storage_error

SECONDS = 10.0
NOT_TRUSTED = (
    "Another server answers at that address, its certificate has expired, or it does not have that name (`names` in "
    "server.yaml when the server was made)."
)
NOT_VALID_YET = "not yet valid"
"""OpenSSL's words for a certificate that begins later than this machine's clock says it is."""
NOT_YET = (
    "This machine's clock is more than a day behind the server's: it says {now:%Y-%m-%d %H:%M} UTC. Set it "
    "(`timedatectl`, `date -u`), best by NTP."
)
EXPIRED = (
    "The server's certificate has expired, or this machine's clock is ahead: it says {now:%Y-%m-%d %H:%M} UTC. Set it "
    "(`timedatectl`, `date -u`), or ask the operator to renew the server's certificate."
)
NOT_ACCEPTED = (
    "This site's certificate has expired or was revoked, or it is of another federation: ask the operator for a new "
    "`fedwon-server enroll` line and join again in a new folder. Check this machine's clock, too."
)


def shake_hands(server: str, folder: Path) -> None:
    """Open a TLS connection with the site's certificate and close it again.

    Args:
        server: `host:port`.
        folder: the site's folder.

    Raises:
        Unreachable: nobody answers there.
        Refused: one side does not accept the other's certificate; the hint says which.
        StorageError: the site's certificate cannot be read.
    """
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    context = _context(folder / "pki")
    try:
        with socket.create_connection((host, int(port)), SECONDS) as raw:
            said = _first_byte(context, raw, host, server)
    except OSError as error:
        raise Unreachable(f"No answer from {server}: {error}.") from None
    if not said:
        raise Refused(f"{server} does not accept this site's certificate.", hint=NOT_ACCEPTED)


def _context(pki: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(pki / "ca.pem")
        context.load_cert_chain(pki / "site.pem", pki / "site.key")
    except OSError as error:
        raise storage_error(error, f"reading the certificates in {pki}") from None
    context.set_alpn_protocols(["h2"])
    return context


def _first_byte(context: ssl.SSLContext, raw: socket.socket, host: str, server: str) -> bytes:
    """Return the first byte that the server sends after the handshake, or none where it closes the connection."""
    try:
        with context.wrap_socket(raw, server_hostname=host) as line:
            try:
                return line.recv(1)
            except (ssl.SSLError, ConnectionError):  # an alert or a reset in place of a quiet end
                return b""
    except ssl.SSLEOFError:
        raise Unreachable(f"{server} closed the connection while it was being made.") from None
    except ssl.SSLError as error:
        reason = str(getattr(error, "verify_message", "") or error.reason or error)
        raise Refused(f"This site does not accept the certificate of {server}: {reason}.", hint=_hint(reason)) from None


def _hint(reason: str) -> str:
    """What to do about a server's certificate that this site does not accept; OpenSSL's words are the only sign."""
    moment = datetime.now(UTC)
    if NOT_VALID_YET in reason:
        return NOT_YET.format(now=moment)
    return EXPIRED.format(now=moment) if "expired" in reason else NOT_TRUSTED
