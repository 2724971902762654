"""The certificates in real handshakes: gRPC on loopback, mutual TLS."""

import ssl
from concurrent import futures

import grpc
import pytest

from fedwon.common import pki
from fedwon.common.certificates import leaf_certificate, subject_name

METHOD = "/test.Test/Who"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.create_authority(tmp_path_factory.mktemp("ca") / "pki", "plant")


def who(request, context):
    return pki.site_of_peer(context.auth_context()).encode()


def serve(credentials, answer=who):
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port


@pytest.fixture(scope="module")
def port(authority):
    made = pki.issue_server(authority, ["localhost", "127.0.0.1"])
    pair = [(made.key, made.certificate)]
    server, number = serve(grpc.ssl_server_credentials(pair, authority.pem, require_client_auth=True))
    yield number
    server.stop(0).wait()


def site(authority, name="line-1", days=30):
    key = pki.new_key()
    return pki.Credentials(authority.pem, pki.sign_request(authority, pki.request(name, key), name, days), key)


def call(address, root, key=None, certificate=None):
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(root, key, certificate)) as channel:
        return channel.unary_unary(METHOD)(b"", timeout=10)


def refused(address, root, key=None, certificate=None):
    with pytest.raises(grpc.RpcError) as caught:
        call(address, root, key, certificate)
    return caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_server_reads_the_site_from_the_certificate(authority, port, host):
    held = site(authority)
    assert call(f"{host}:{port}", held.authority, held.key, held.certificate) == b"line-1"


def test_auth_context_holds_name_and_certificate(authority):
    seen = {}
    made = pki.issue_server(authority, ["127.0.0.1"])
    credentials = grpc.ssl_server_credentials([(made.key, made.certificate)], authority.pem, require_client_auth=True)
    server, port = serve(credentials, lambda request, context: seen.update(context.auth_context()) or b"")
    held = site(authority)
    call(f"127.0.0.1:{port}", held.authority, held.key, held.certificate)
    server.stop(0).wait()
    assert seen["x509_common_name"] == [b"line-1"]
    assert seen["x509_subject_alternative_name"] == [b"fedwon:site:line-1"]
    assert pki.fingerprint(seen["x509_pem_cert"][0]) == pki.fingerprint(held.certificate)


def test_no_certificate(authority, port):
    assert refused(f"127.0.0.1:{port}", authority.pem)


def test_certificate_of_another_authority_of_the_same_name(authority, port, tmp_path):
    other = site(pki.create_authority(tmp_path, "plant"))
    assert refused(f"127.0.0.1:{port}", authority.pem, other.key, other.certificate)


def test_expired_certificate(authority, port):
    held = site(authority, days=0)
    assert pki.certificate_days_left(held.certificate) <= 0
    assert refused(f"127.0.0.1:{port}", authority.pem, held.key, held.certificate)


def test_certificate_with_another_key(authority, port):
    held = site(authority)
    assert refused(f"127.0.0.1:{port}", authority.pem, pki.new_key(), held.certificate)


def test_the_server_certificate_is_no_site(authority, port):
    made = pki.issue_server(authority, ["127.0.0.1"])
    assert refused(f"127.0.0.1:{port}", authority.pem, made.key, made.certificate)


def test_a_site_signs_no_further_sites(authority, port):
    held, key = site(authority), pki.new_key()
    signer = x509_pair(held)
    subject = subject_name("plant", "line-2")
    public = x509_key(key).public_key()
    names = [pki.x509.UniformResourceIdentifier("fedwon:site:line-2")]
    purpose = pki.ExtendedKeyUsageOID.CLIENT_AUTH
    forged = leaf_certificate(signer, subject, public, days=1, names=names, purpose=purpose)
    chain = pki.certificate_pem(forged) + held.certificate
    assert refused(f"127.0.0.1:{port}", authority.pem, key, chain)


def x509_key(pem):
    return pki.read_key(pem, "key")


def x509_pair(held):
    return pki.read_certificate(held.certificate, "certificate"), x509_key(held.key)


def test_a_site_cannot_pass_for_the_server(authority):
    held = site(authority, "localhost")
    server, port = serve(grpc.ssl_server_credentials([(held.key, held.certificate)]), lambda request, context: b"")
    assert refused(f"localhost:{port}", authority.pem)
    server.stop(0).wait()


def test_another_server(authority, port, tmp_path):
    other = pki.create_authority(tmp_path, "plant")
    held = site(authority)
    assert refused(f"127.0.0.1:{port}", other.pem, held.key, held.certificate)


def test_a_name_that_the_server_certificate_does_not_have(authority):
    made = pki.issue_server(authority, ["127.0.0.1"])
    server, port = serve(grpc.ssl_server_credentials([(made.key, made.certificate)]), lambda request, context: b"")
    assert call(f"127.0.0.1:{port}", authority.pem) == b""
    assert refused(f"localhost:{port}", authority.pem)
    server.stop(0).wait()


def test_joining_begins_with_the_server_certificate_alone(authority):
    made = pki.issue_server(authority, ["127.0.0.1"])
    server, port = serve(grpc.ssl_server_credentials([(made.key, made.certificate)]), lambda r, c: authority.pem)
    leaf = ssl.get_server_certificate(("127.0.0.1", port))
    pki.check_fingerprint(call(f"127.0.0.1:{port}", leaf.encode()), pki.fingerprint(authority.pem))
    server.stop(0).wait()
