"""The X.509 parts that `fedwon.common.pki` puts together: names, extensions, validity, and reading PEM.

Whatever cannot be read becomes a `BrokenFile` that names its file, never a traceback of the cryptography library.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from fedwon.common.errors import BrokenFile, ConfigError, Refused

CLOCK_SKEW = timedelta(days=1)
"""Certificates begin this long before they are made: an edge box's clock may be behind the server's, by hours where its
time zone is set wrong. It gives nobody anything: what a certificate allows ends when it ends."""
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What the cryptography library raises for bytes that are not what they should be."""
LARGEST_REQUEST = 8192
"""Bytes of a certificate request that are looked at; ours have about 500."""
HINT = "Restore it from a backup, or make it again: `fedwon-server init` on the server, the join command on a site."

Loaded = TypeVar("Loaded")


def subject_name(organization: str, common: str) -> x509.Name:
    """Make a distinguished name; each part has at most 64 characters (RFC 5280)."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def name_part(certificate: x509.Certificate, part: ObjectIdentifier) -> str:
    """Return one part of a certificate's subject, empty if it is not there."""
    found = certificate.subject.get_attributes_for_oid(part)
    return str(found[0].value) if found else ""


def alternative_name(host: str) -> x509.GeneralName:
    """Turn a host name or an IP address (IPv6 with or without brackets) into a subject alternative name.

    Raises:
        ConfigError: it is neither; a host name outside ASCII has to be given in its `xn--` form.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise ConfigError(f"{host!r} is neither a host name nor an IP address.") from None


def authority_certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    """Make a self-signed certificate that may sign certificates, but no further authorities."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _begin(subject, key.public_key(), datetime.now(UTC) + timedelta(days=days), identifier)
    builder = builder.issuer_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def leaf_certificate(
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    *,
    days: int,
    names: Sequence[x509.GeneralName],
    purpose: ObjectIdentifier,
) -> x509.Certificate:
    """Make a certificate for one end of a connection.

    Args:
        issuer: certificate and key of the authority.
        subject: whom it names.
        public: the key it certifies.
        days: validity, cut where the issuer's own certificate ends.
        names: the subject alternative names.
        purpose: the one extended key usage, server or client authentication.
    """
    signer, key = issuer
    end = min(datetime.now(UTC) + timedelta(days=days), signer.not_valid_after_utc)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _begin(subject, public, end, identifier).issuer_name(signer.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def _begin(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, end: datetime, signer: x509.SubjectKeyIdentifier
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_certificate(pem: bytes, where: str) -> x509.Certificate:
    """Read the first certificate of a PEM text.

    Raises:
        BrokenFile: there is none; the message begins with `where`.
    """
    return _read(lambda: x509.load_pem_x509_certificate(pem), where, "a PEM certificate")


def read_certificates(pem: bytes, where: str) -> list[x509.Certificate]:
    """Read all certificates of a PEM text, such as a bundle of authorities.

    Raises:
        BrokenFile: there is none, or one is damaged; the message begins with `where`.
    """
    return _read(lambda: x509.load_pem_x509_certificates(pem), where, "a PEM certificate")


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether an authority signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def key_file(folder: Path, authority: x509.Certificate) -> Path:
    """Return where the key of an authority lies.

    The first authority's is `ca.key`; each later one has a file of its own, so that `ca.pem` can change in one step.
    """
    own = folder / f"ca-{authority.fingerprint(hashes.SHA256()).hex()[:16]}.key"
    return own if own.exists() else folder / "ca.key"


def read_key(pem: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    """Read an unencrypted P-256 private key from PEM.

    Raises:
        BrokenFile: it is something else; the message begins with `where`.
    """
    key = _read(lambda: serialization.load_pem_private_key(pem, password=None), where, "a PEM private key")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BrokenFile(f"{where} is not a P-256 private key.", hint=HINT)
    return key


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key of a certificate request that may be hostile.

    Raises:
        Refused: it is not a PEM request for a P-256 key, signed with that key; the message says why.
    """
    if len(csr_pem) > LARGEST_REQUEST:
        raise Refused(f"The certificate request has {len(csr_pem)} bytes; at most {LARGEST_REQUEST} are read.")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        public = csr.public_key()
    except UNREADABLE:
        raise Refused("The certificate request is not a PEM certificate request.") from None
    # Before the signature: checking one of an RSA key as large as the sender likes is the sender's to make costly.
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise Refused("The certificate request is for another kind of key than EC P-256.")
    try:
        valid = csr.is_signature_valid
    except UNREADABLE:
        valid = False
    if not valid:
        raise Refused("The certificate request is not signed with the key that it names.")
    return public


def claimed_name(csr_pem: bytes) -> str:
    """Return the name that a certificate request asks for, which nobody is given for that; empty for none."""
    try:
        names = x509.load_pem_x509_csr(csr_pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        return ""
    return str(names[0].value) if names else ""


def check_pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, where: str) -> None:
    """Check that a private key is the certificate's.

    Raises:
        BrokenFile: it is another's, and the message begins with `where`, the key's file.
    """
    try:
        same = certificate.public_key() == key.public_key()
    except UNREADABLE:
        same = False
    if not same:
        raise BrokenFile(f"{where} is not the key of the certificate beside it.", hint=HINT)


def _read(load: Callable[[], Loaded], where: str, what: str) -> Loaded:
    try:
        return load()
    except UNREADABLE:
        raise BrokenFile(f"{where} is not {what}.", hint=HINT) from None
