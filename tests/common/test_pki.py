"""The authority and what it signs: contents, files, and hostile requests."""

import ipaddress
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common import pki
from fedwon.common.errors import (
    BrokenFile,
    ConfigError,
    FolderTaken,
    KeyExposed,
    Refused,
    StorageError,
    WrongFingerprint,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.create_authority(tmp_path_factory.mktemp("ca") / "pki", "plant")


@pytest.fixture
def site(authority):
    key = pki.new_key()
    certificate = pki.sign_request(authority, pki.request("line-1", key), "line-1")
    return pki.Credentials(authority.pem, certificate, key)


def load(pem):
    return x509.load_pem_x509_certificate(pem)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def lifetime(certificate):
    return certificate.not_valid_after_utc - datetime.now(UTC)


def test_authority(authority):
    certificate = authority.certificate
    constraints = extension(certificate, x509.BasicConstraints)
    usage = extension(certificate, x509.KeyUsage)
    assert authority.name == "plant"
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert abs(lifetime(certificate) - timedelta(days=3650)) < timedelta(minutes=1)
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    assert "PRIVATE" not in repr(authority)
    certificate.verify_directly_issued_by(certificate)


def test_authority_on_disk(tmp_path):
    made = pki.create_authority(tmp_path / "pki", "plant")
    assert stat.S_IMODE((tmp_path / "pki" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    loaded = pki.load_authority(tmp_path / "pki")
    assert loaded.pem == made.pem
    with pytest.raises(FolderTaken, match=r"ca\.pem"):
        pki.create_authority(tmp_path / "pki", "plant")


def test_authority_after_a_crash_between_its_two_files(tmp_path):
    pki.create_authority(tmp_path, "plant")
    (tmp_path / "ca.pem").unlink()
    made = pki.create_authority(tmp_path, "plant")
    assert pki.load_authority(tmp_path).pem == made.pem


def test_server_certificate(authority):
    made = pki.issue_server(authority, ["fed.plant.example", "10.1.2.3", "[fd00::1]", "fd00::2"])
    certificate = load(made.certificate)
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.plant.example"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(address) for address in ("10.1.2.3", "fd00::1", "fd00::2")
    ]
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert extension(certificate, x509.BasicConstraints).value.ca is False
    assert abs(lifetime(certificate) - timedelta(days=365)) < timedelta(minutes=1)
    certificate.verify_directly_issued_by(authority.certificate)
    with pytest.raises(Refused, match="no site"):
        pki.site_of(made.certificate)


@pytest.mark.parametrize("names", [[], ["fabrik-süd.example"]])
def test_server_names_that_cannot_be(authority, names):
    with pytest.raises(ConfigError):
        pki.issue_server(authority, names)


def test_site_certificate(authority, site):
    certificate = load(site.certificate)
    assert pki.site_of(site.certificate) == "line-1"
    assert certificate.subject.rfc4514_string() == "CN=line-1,O=plant"
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert extension(certificate, x509.KeyUsage).value.digital_signature
    assert not extension(certificate, x509.KeyUsage).value.key_cert_sign
    issuer = extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier
    assert issuer == extension(authority.certificate, x509.SubjectKeyIdentifier).value.digest
    assert timedelta(hours=23) < datetime.now(UTC) - certificate.not_valid_before_utc < timedelta(hours=25)
    assert abs(lifetime(certificate) - timedelta(days=30)) < timedelta(minutes=1)
    certificate.verify_directly_issued_by(authority.certificate)


def test_the_server_decides_the_name_and_everything_else(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    wish = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "admin"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "other")]
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.UniformResourceIdentifier("fedwon:site:x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(wish)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(names, critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    certificate = load(pki.sign_request(authority, csr, "line-7"))
    assert pki.site_of(certificate.public_bytes(serialization.Encoding.PEM)) == "line-7"
    assert certificate.subject.rfc4514_string() == "CN=line-7,O=plant"
    assert extension(certificate, x509.BasicConstraints).value.ca is False
    assert len(extension(certificate, x509.SubjectAlternativeName).value) == 1
    assert certificate.public_key() == key.public_key()


def test_serials_differ(authority):
    csr = pki.request("a", pki.new_key())
    assert len({load(pki.sign_request(authority, csr, "a")).serial_number for _ in range(20)}) == 20


def test_nothing_outlives_the_authority(authority):
    csr = pki.request("a", pki.new_key())
    certificate = load(pki.sign_request(authority, csr, "a", days=5000))
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def csr_of(key, algorithm=None):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


# An RSA key of 512 bits: the library does not make such any more, so the request was made elsewhere (openssl).
RSA_512 = b"""-----BEGIN CERTIFICATE REQUEST-----
MIHFMHECAQAwDDEKMAgGA1UEAwwBeDBcMA0GCSqGSIb3DQEBAQUAA0sAMEgCQQC9
xCJHVUQPvNSSR88tf0GZOk3GddjvMbk4+lPLId/lIN8WhdYljRN+/H1w0e0eBSJW
1p7V0tkKHdPr9mW57vvXAgMBAAGgADANBgkqhkiG9w0BAQsFAANBAB0hOjofThxs
J0M3u7AAavuzg+DR8deQmNFWfW5ondjfu7XLdirPQNhASYXFYJ6cQgAFO3jj6nTL
P/HnFDxCojc=
-----END CERTIFICATE REQUEST-----
"""


def bad_signature():
    first = pki.request("a", pki.new_key())
    der = bytearray(x509.load_pem_x509_csr(first).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("csr", "reason"),
    [
        (b"", "not a PEM"),
        (b"hello", "not a PEM"),
        (b"\x00\xff" * 100, "not a PEM"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a PEM"),
        (b"x" * 8193, "8193 bytes"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\n" + b"A" * 10_000_000, "at most 8192"),
        (RSA_512, "EC P-256"),
        (csr_of(rsa.generate_private_key(65537, 2048), hashes.SHA256()), "EC P-256"),
        (csr_of(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()), "EC P-256"),
        (csr_of(ed25519.Ed25519PrivateKey.generate()), "EC P-256"),
        (bad_signature(), "not signed with the key"),
    ],
    ids=["empty", "text", "binary", "empty-der", "long", "huge", "rsa512", "rsa", "p384", "ed25519", "signature"],
)
def test_hostile_requests_are_refused_with_a_reason(authority, csr, reason):
    with pytest.raises(Refused, match=reason):
        pki.sign_request(authority, csr, "line-1")


FIXED = pki.request("line-1", pki.new_key())


@given(st.data())
def test_no_damaged_request_ends_in_a_traceback(authority, data):
    csr = bytearray(FIXED)  # of one length at each call, or the draws would differ from one to the next
    for _ in range(data.draw(st.integers(1, 4))):
        csr[data.draw(st.integers(0, len(csr) - 1))] = data.draw(st.integers(0, 255))
    try:
        certificate = pki.sign_request(authority, bytes(csr), "line-1")
    except Refused:
        return
    assert pki.site_of(certificate) == "line-1"  # the damage was no damage: in white space, or a bit that says nothing


def test_fingerprint(authority):
    found = pki.fingerprint(authority.pem)
    assert found == authority.certificate.fingerprint(hashes.SHA256()).hex()
    assert len(found) == 64
    pki.check_fingerprint(authority.pem, found)
    pki.check_fingerprint(authority.pem, ":".join(found[i : i + 2] for i in range(0, 64, 2)).upper() + "\n")


@pytest.mark.parametrize("expected", ["", "ä", "00" * 32, "0" * 63])
def test_another_fingerprint(authority, expected):
    with pytest.raises(WrongFingerprint, match=pki.fingerprint(authority.pem)):
        pki.check_fingerprint(authority.pem, expected)


def test_part_of_a_fingerprint_is_not_enough(authority):
    with pytest.raises(WrongFingerprint):
        pki.check_fingerprint(authority.pem, pki.fingerprint(authority.pem)[:62])


def test_days_left(authority, site):
    assert pki.certificate_days_left(site.certificate) == pytest.approx(30, abs=0.01)
    expired = pki.sign_request(authority, pki.request("a", pki.new_key()), "a", days=0)
    assert -0.01 < pki.certificate_days_left(expired) <= 0


def test_credentials_on_disk(tmp_path, authority, site):
    pki.save_credentials(tmp_path / "pki", "site", site)
    server = pki.issue_server(authority, ["localhost"])
    pki.save_credentials(tmp_path / "pki", "server", server)
    assert pki.load_credentials(tmp_path / "pki", "site") == site
    assert pki.load_credentials(tmp_path / "pki", "server") == server
    assert {p.name: oct(stat.S_IMODE(p.stat().st_mode)) for p in (tmp_path / "pki").glob("*.key")} == {
        "site.key": "0o600",
        "server.key": "0o600",
    }
    assert "PRIVATE" not in repr(site)


@pytest.mark.parametrize("name", ["ca.pem", "site.pem", "site.key"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_broken_file_is_named(tmp_path, site, name, content):
    pki.save_credentials(tmp_path, "site", site)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BrokenFile, match=f"{tmp_path / name} is not a PEM"):
        pki.load_credentials(tmp_path, "site")


def test_files_that_do_not_belong_together(tmp_path, site):
    pki.save_credentials(tmp_path, "site", site)
    other = pki.create_authority(tmp_path / "other", "plant")
    (tmp_path / "ca.pem").write_bytes(other.pem)
    with pytest.raises(BrokenFile, match=r"site\.pem was not signed by"):
        pki.load_credentials(tmp_path, "site")
    (tmp_path / "site.key").write_bytes(pki.new_key())
    with pytest.raises(BrokenFile, match=r"site\.key is not the key of"):
        pki.load_credentials(tmp_path, "site")
    (tmp_path / "other" / "ca.key").write_bytes(pki.new_key())
    with pytest.raises(BrokenFile, match=r"ca\.key is not the key of"):
        pki.load_authority(tmp_path / "other")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p384", "rsa"],
)
def test_another_kind_of_key(key):
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pytest.raises(BrokenFile, match="P-256"):
        pki.request("a", pem)


def test_encrypted_key_is_named(tmp_path, site):
    pki.save_credentials(tmp_path, "site", site)
    locked = serialization.load_pem_private_key(site.key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (tmp_path / "site.key").write_bytes(locked)
    with pytest.raises(BrokenFile, match=r"site\.key"):
        pki.load_credentials(tmp_path, "site")


def test_exposed_and_missing_files(tmp_path, site):
    pki.save_credentials(tmp_path, "site", site)
    (tmp_path / "site.key").chmod(0o640)
    with pytest.raises(KeyExposed):
        pki.load_credentials(tmp_path, "site")
    (tmp_path / "site.key").unlink()
    with pytest.raises(StorageError, match=r"site\.key"):
        pki.load_credentials(tmp_path, "site")


@pytest.mark.parametrize(
    "names",
    [
        None,
        [],
        [b"localhost"],
        [b"fedwon:site:"],
        [b"fedwon:site:a", b"fedwon:site:b"],
        [b"xfedwon:site:a"],
    ],
)
def test_a_peer_without_one_site_is_refused(names):
    context = {} if names is None else {"x509_subject_alternative_name": names}
    with pytest.raises(Refused):
        pki.site_of_peer(context)


@given(st.binary(max_size=300))
def test_any_bytes_as_certificate(data):
    for read in (pki.fingerprint, pki.site_of, pki.certificate_days_left):
        with pytest.raises(BrokenFile, match=r"^pki/x is not"):
            read(data, "pki/x")
