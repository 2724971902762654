"""The federation's own certificate authority, and the certificates of server and sites.

Keys are EC P-256, signatures SHA-256 (RFC 5280 profile). Everything that leaves this module is PEM bytes, which is
what gRPC takes. On the server: `pki/ca.pem`, `pki/ca.key`, `pki/server.pem`, `pki/server.key`; on a site:
`pki/ca.pem`, `pki/site.pem`, `pki/site.key`. Keys have mode 0600 and never travel. While one authority takes the place
of another, `ca.pem` holds both, the one that signs first.

A site's name stands in its certificate twice: as the common name, for people, and as the subject alternative name
`fedwon:site:NAME`, which is what the server reads. The server's own certificate carries no such name, so it can
never pass for a site. Names are checked by the caller (`fedwon.common.run_config.Name`).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedwon.common.certificates import (
    HINT,
    UNREADABLE,
    alternative_name,
    authority_certificate,
    certificate_pem,
    check_pair,
    key_file,
    key_pem,
    leaf_certificate,
    name_part,
    read_certificate,
    read_certificates,
    read_key,
    requested_key,
    signed_by,
    subject_name,
)
from fedwon.common.errors import BrokenFile, ConfigError, FolderTaken, Refused, WrongFingerprint
from fedwon.common.files import read_bytes, read_private, write_atomic, write_private

AUTHORITY_DAYS = 3650
SERVER_DAYS = 365
SITE_DAYS = 30
SITE_URI = "fedwon:site:"

Role = Literal["server", "site"]


@dataclass(frozen=True)
class Authority:
    """The federation's certificate authority.

    Attributes:
        certificate: its self-signed certificate.
        key: its private key; not shown by `repr`.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def name(self) -> str:
        """The federation's name."""
        return name_part(self.certificate, NameOID.ORGANIZATION_NAME)

    @property
    def pem(self) -> bytes:
        """The certificate as PEM, for the peers that shall trust it."""
        return certificate_pem(self.certificate)


@dataclass(frozen=True)
class Credentials:
    """What one end of mutual TLS needs, all PEM.

    Attributes:
        authority: certificates of the authorities that may have signed the peer's certificate, one or more.
        certificate: this end's certificate.
        key: this end's private key; not shown by `repr`.
    """

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def create_authority(folder: Path, name: str) -> Authority:
    """Make a new authority, valid for ten years, and write `ca.key` and `ca.pem`.

    Args:
        folder: the `pki/` folder; made with mode 0700 if it is missing.
        name: the federation's name, at most 64 characters.

    Raises:
        FolderTaken: there is an authority already; a second one would lock out every site.
        DiskFull, StorageError: the files cannot be written.
    """
    if (folder / "ca.pem").exists():
        raise FolderTaken(f"{folder / 'ca.pem'} is there already.")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority_certificate(subject_name(name, "fedwon CA"), key, AUTHORITY_DAYS)
    authority = Authority(certificate, key)
    write_private(folder / "ca.key", key_pem(key))  # the key first: without ca.pem there is no authority yet
    write_atomic(folder / "ca.pem", authority.pem)
    return authority


def load_authority(folder: Path) -> Authority:
    """Read the authority that signs; raises as `load_authorities`."""
    return load_authorities(folder)[0]


def load_authorities(folder: Path) -> tuple[Authority, ...]:
    """Read every authority that is trusted: the one that signs first, then those that are being replaced.

    Raises:
        StorageError: a file is missing.
        KeyExposed: others can read a key.
        BrokenFile: a file is not what it should be, or the two do not belong together.
    """
    found = []
    for certificate in read_certificates(read_bytes(folder / "ca.pem"), str(folder / "ca.pem")):
        path = key_file(folder, certificate)
        found.append(Authority(certificate, read_key(read_private(path), str(path))))
        check_pair(certificate, found[-1].key, str(path))
    return tuple(found)


def issue_server(authority: Authority, names: Sequence[str], days: int = SERVER_DAYS) -> Credentials:
    """Make a key and a certificate for the server.

    Args:
        authority: who signs.
        names: host names and IP addresses under which sites reach the server.
        days: validity in days.

    Raises:
        ConfigError: a name is neither a host name nor an address, or there is none.
    """
    if not names:
        raise ConfigError("The server's certificate needs at least one host name or address.")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = leaf_certificate(
        (authority.certificate, authority.key),
        subject_name(authority.name, names[0][:64]),
        key.public_key(),
        days=days,
        names=[alternative_name(name) for name in names],
        purpose=ExtendedKeyUsageOID.SERVER_AUTH,
    )
    return Credentials(authority.pem, certificate_pem(certificate), key_pem(key))


def new_key() -> bytes:
    """Make a private key for a site, as PEM."""
    return key_pem(ec.generate_private_key(ec.SECP256R1()))


def request(site: str, key: bytes) -> bytes:
    """Make a site's certificate request, as PEM.

    Args:
        site: the name that the site would like; the server decides.
        key: from `new_key`.

    Raises:
        BrokenFile: the key is not a P-256 key in PEM.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    signed = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(read_key(key, "the key"), hashes.SHA256())
    )
    return signed.public_bytes(serialization.Encoding.PEM)


def sign_request(authority: Authority, csr_pem: bytes, site: str, days: int = SITE_DAYS) -> bytes:
    """Make a site's certificate from its request; of the request, only the public key is used.

    Args:
        authority: who signs.
        csr_pem: what the site sent; may be hostile.
        site: the site's name as the server knows it. What the request says is not read.
        days: validity in days.

    Returns:
        The certificate as PEM.

    Raises:
        Refused: the request is not a PEM request for a P-256 key, signed with that key; the message says why.
    """
    certificate = leaf_certificate(
        (authority.certificate, authority.key),
        subject_name(authority.name, site),
        requested_key(csr_pem),
        days=days,
        names=[x509.UniformResourceIdentifier(f"{SITE_URI}{site}")],
        purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
    )
    return certificate_pem(certificate)


def save_credentials(folder: Path, role: Role, credentials: Credentials) -> None:
    """Write `ROLE.key`, `ca.pem` and `ROLE.pem` into the `pki/` folder, each atomically, in this order.

    Raises:
        DiskFull, StorageError: a file cannot be written.
    """
    write_private(folder / f"{role}.key", credentials.key)
    write_atomic(folder / "ca.pem", credentials.authority)  # ahead of a certificate that only the new bundle explains
    write_atomic(folder / f"{role}.pem", credentials.certificate)


def load_credentials(folder: Path, role: Role) -> Credentials:
    """Read what `save_credentials` wrote, and check that the three files belong together.

    An expired certificate is no error here: see `certificate_days_left`.

    Raises:
        StorageError: a file is missing.
        KeyExposed: others can read the key.
        BrokenFile: a file is not what it should be, or is not of the same making as the others.
    """
    paths = [folder / "ca.pem", folder / f"{role}.pem", folder / f"{role}.key"]
    credentials = Credentials(read_bytes(paths[0]), read_bytes(paths[1]), read_private(paths[2]))
    authorities = read_certificates(credentials.authority, str(paths[0]))
    certificate = read_certificate(credentials.certificate, str(paths[1]))
    check_pair(certificate, read_key(credentials.key, str(paths[2])), str(paths[2]))
    if not any(signed_by(certificate, authority) for authority in authorities):
        raise BrokenFile(f"{paths[1]} was not signed by the authority of {paths[0]}.", hint=HINT)
    return credentials


def fingerprint(cert_pem: bytes, where: str = "the certificate") -> str:
    """Return the SHA-256 of a certificate (of its DER form) as 64 lower-case hex digits.

    Raises:
        BrokenFile: this is not a certificate; the message begins with `where`.
    """
    return read_certificate(cert_pem, where).fingerprint(hashes.SHA256()).hex()


def check_fingerprint(cert_pem: bytes, expected: str) -> None:
    """Compare a certificate with the fingerprint that the operator gave; colons, spaces and case do not matter.

    Raises:
        WrongFingerprint: it is another certificate.
        BrokenFile: this is not a certificate.
    """
    found = fingerprint(cert_pem)
    wanted = "".join(expected.split()).replace(":", "").lower()
    if not hmac.compare_digest(found.encode(), wanted.encode()):
        raise WrongFingerprint(f"The server's authority has fingerprint {found}, the join command names {expected!r}.")


def certificate_days_left(cert_pem: bytes, where: str = "the certificate") -> float:
    """Return the days until a certificate ends; negative once it has.

    Raises:
        BrokenFile: this is not a certificate; the message begins with `where`.
    """
    left = read_certificate(cert_pem, where).not_valid_after_utc - datetime.now(UTC)
    return left / timedelta(days=1)


def site_of(cert_pem: bytes, where: str = "the certificate") -> str:
    """Return the site that a certificate names. Whether it is to be trusted is TLS's business, not this function's.

    Raises:
        BrokenFile: this is not a certificate; the message begins with `where`.
        Refused: it names no site, or several.
    """
    certificate = read_certificate(cert_pem, where)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, *UNREADABLE):
        return _only_site([])
    return _only_site(names.get_values_for_type(x509.UniformResourceIdentifier))


def site_of_peer(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """Return the site that a gRPC peer is, from `ServicerContext.auth_context()` under mutual TLS.

    Raises:
        Refused: the peer showed no certificate, or its certificate names no site, or several.
    """
    return _only_site(name.decode("utf-8", "replace") for name in auth_context.get("x509_subject_alternative_name", ()))


def _only_site(names: Iterable[str]) -> str:
    sites = [name.removeprefix(SITE_URI) for name in names if name.startswith(SITE_URI)]
    if len(sites) != 1 or not sites[0]:
        raise Refused("The certificate names no site of a federation.")
    return sites[0]
