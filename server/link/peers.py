"""Who is at the other end of a call: the site that its certificate names, and which certificate that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from fedwon.common.certificates import CLOCK_SKEW, read_certificate
from fedwon.common.errors import Refused
from fedwon.common.pki import SITE_DAYS, site_of_peer


@dataclass(frozen=True)
class Peer:
    """A site, as it came with one certificate.

    Attributes:
        site: the name in the certificate, which is all that a site is.
        serial: of the certificate, hexadecimal.
        issued: when it was made.
        signer: key identifier of the authority that signed it.
    """

    site: str
    serial: str
    issued: datetime
    signer: bytes


def serial_of(certificate: x509.Certificate) -> str:
    """Write a certificate's serial number as the database keeps it."""
    return f"{certificate.serial_number:x}"


def peer_of(auth_context: Mapping[str, Iterable[bytes]]) -> Peer:
    """Return who calls, from `ServicerContext.auth_context()` under mutual TLS.

    Raises:
        Refused: the peer showed no certificate, or its certificate names no site, or several.
    """
    site = site_of_peer(auth_context)
    shown = next(iter(auth_context.get("x509_pem_cert", ())), None)
    if shown is None:
        raise Refused("The connection shows no certificate.")
    certificate = read_certificate(shown, "the peer's certificate")
    return Peer(site, serial_of(certificate), _issued(certificate), _signer(certificate))


def _issued(certificate: x509.Certificate) -> datetime:
    """Return when a certificate was made; the margin before that was another one in earlier versions."""
    made = certificate.not_valid_before_utc + CLOCK_SKEW
    return min(made, certificate.not_valid_after_utc - timedelta(days=SITE_DAYS))


def _signer(certificate: x509.Certificate) -> bytes:
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return b""
    return found.key_identifier or b""


def readable(peer: str) -> str:
    """Return the address in gRPC's name of a peer (`ipv4:10.1.2.3:4567`), without the port."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return peer or "unknown"
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
