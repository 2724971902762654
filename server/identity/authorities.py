"""The authorities of a running federation, and how one takes the place of another.

`pki/ca.pem` holds the certificates of all that are trusted, the one that signs first. `roll` puts a new one in front;
from then on sites are given certificates of the new one and told to trust both. The server itself goes on showing a
certificate of the old one, which is all that a site that was away knows. `retire` drops the old one, when no site needs
it any more. Each step is one atomic rename of `ca.pem`: a power cut leaves the state before or after it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedwon.common.certificates import (
    authority_certificate,
    key_file,
    key_pem,
    read_certificate,
    subject_name,
)
from fedwon.common.errors import BrokenFile, FedwonError, StorageError
from fedwon.common.files import write_atomic, write_private
from fedwon.common.pki import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    Authority,
    fingerprint,
    issue_server,
    load_authorities,
    load_credentials,
)
from fedwon.common.system_errors import storage_error

logger = logging.getLogger(__name__)

RENEW_SHARE = 1 / 3
"""The server renews its own certificate when less than this share of its life is left."""


@dataclass(frozen=True)
class Trust:
    """Whom the federation trusts.

    Attributes:
        authorities: the one that signs first, then those that are being replaced.
    """

    authorities: tuple[Authority, ...]

    @property
    def current(self) -> Authority:
        """The authority that signs."""
        return self.authorities[0]

    @property
    def oldest(self) -> Authority:
        """The authority that every site knows: it signs the server's certificate, and join lines name it."""
        return self.authorities[-1]

    @property
    def bundle(self) -> bytes:
        """All certificates as PEM, as sites get them."""
        return b"".join(authority.pem for authority in self.authorities)

    def signer(self, *, bundle: bool) -> Authority:
        """Return who signs for a site; one that can trust only one authority at a time stays with the oldest."""
        return self.current if bundle else self.oldest

    @property
    def key_ids(self) -> frozenset[bytes]:
        """Key identifiers by which certificates name their authority."""
        return frozenset(
            x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key()).digest
            for authority in self.authorities
        )


class LiveTrust:
    """The trust of a server that runs: read again when another process has changed it.

    Args:
        pki: the server's `pki/` folder.

    Raises:
        StorageError: a file is missing.
        KeyExposed: others can read a key.
        BrokenFile: a file is not what it should be.
    """

    def __init__(self, pki: Path) -> None:
        self.pki = pki
        self._stamp = stamp(pki / "ca.pem")
        self._trust = Trust(load_authorities(pki))

    def get(self) -> Trust:
        """Return the trust of this moment; if what is there cannot be read, what it was before."""
        found = stamp(self.pki / "ca.pem")
        if found != self._stamp:
            try:
                self._trust, self._stamp = Trust(load_authorities(self.pki)), found
            except FedwonError as error:
                logger.warning("the authorities could not be read again: %s", error.message)
        return self._trust


def stamp(path: Path) -> Any:
    """Return something that changes whenever a file is written anew."""
    with suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size
    return None


@contextmanager
def _alone(pki: Path) -> Iterator[None]:
    """Keep other processes from changing the folder while the block runs."""
    try:
        descriptor = os.open(pki, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(error, f"opening {pki}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def roll(pki: Path) -> Authority:
    """Make a new authority and let it sign from now on; the old ones stay trusted.

    Raises:
        StorageError, KeyExposed, BrokenFile: the authorities cannot be read or written.
    """
    with _alone(pki):
        return _roll(pki, Trust(load_authorities(pki)))


def _roll(pki: Path, trust: Trust) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    common = f"fedwon CA {x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]}"
    made = Authority(authority_certificate(subject_name(trust.current.name, common), key, AUTHORITY_DAYS), key)
    own = pki / f"ca-{made.certificate.fingerprint(hashes.SHA256()).hex()[:16]}.key"
    write_private(own, key_pem(key))
    write_atomic(pki / "ca.pem", made.pem + trust.bundle)
    return made


def retire(pki: Path, names: tuple[str, ...]) -> list[str]:
    """Trust only the authority that signs, and give the server a certificate of it.

    Returns:
        Fingerprints of what was dropped; empty where there was only one authority.

    Raises:
        StorageError, KeyExposed, BrokenFile: the authorities cannot be read or written.
    """
    with _alone(pki):
        return _retire(pki, Trust(load_authorities(pki)), names)


def _retire(pki: Path, trust: Trust, names: tuple[str, ...]) -> list[str]:
    dropped = trust.authorities[1:]
    if not dropped:
        return []
    _save_server(pki, trust.current, names)
    files = [key_file(pki, authority.certificate) for authority in dropped]
    write_atomic(pki / "ca.pem", trust.current.pem)
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, f"removing {path}") from None
    return [fingerprint(authority.pem) for authority in dropped]


def renew_server(pki: Path, names: tuple[str, ...]) -> datetime:
    """Give the server a new key and certificate.

    Returns:
        When it ends.

    Raises:
        ConfigError: a name is neither a host name nor an address.
        StorageError, KeyExposed, BrokenFile: the authorities cannot be read, or the files not written.
    """
    with _alone(pki):
        return _save_server(pki, Trust(load_authorities(pki)).oldest, names)


def _save_server(pki: Path, signer: Authority, names: tuple[str, ...]) -> datetime:
    made = issue_server(signer, names)
    write_private(pki / "server.key", made.key)  # a cut between the two is mended at the next start: `server_is_due`
    write_atomic(pki / "server.pem", made.certificate)
    return read_certificate(made.certificate, "the new certificate").not_valid_after_utc


def server_is_due(pki: Path) -> str:
    """Return why the server's certificate must be made anew, or nothing.

    Raises:
        KeyExposed: others can read its key; that is for the operator to look at.
    """
    try:
        held = load_credentials(pki, "server")
    except BrokenFile as error:  # as a power cut between key and certificate leaves them
        return error.message
    except StorageError as error:
        return "" if (pki / "server.pem").exists() and (pki / "server.key").exists() else error.message
    ends = read_certificate(held.certificate, str(pki / "server.pem")).not_valid_after_utc
    longest = min(datetime.now(UTC) + timedelta(days=SERVER_DAYS), _oldest_end(held.authority))
    due = ends - datetime.now(UTC) < RENEW_SHARE * timedelta(days=SERVER_DAYS)
    return f"it ends at {ends:%Y-%m-%d}" if due and longest - ends > timedelta(days=1) else ""


def _oldest_end(bundle: bytes) -> datetime:
    return x509.load_pem_x509_certificates(bundle)[-1].not_valid_after_utc
