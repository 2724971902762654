"""Lines of gRPC's core about refused handshakes become lines of the audit trail; every other line passes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fedwon.server.link.handshakes import cause_of

FAILED = (
    b"I1125 01:17:17.583318    5865 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "
    b"error:1000007d:SSL routines:OPENSSL_internal:"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context", "no certificate"),
        (b"CERTIFICATE_VERIFY_FAILED: certificate has expired", "expired certificate"),
        (b"CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "certificate that is not valid yet (clocks)"),
        (b"CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "foreign certificate"),
        (b"CERTIFICATE_VERIFY_FAILED: certificate signature failure", "foreign certificate"),
    ],
)
def test_why_a_handshake_failed(text, expected):
    assert cause_of(FAILED + text + b"\n") == expected


def test_something_that_is_no_tls():
    assert cause_of(FAILED + b"WRONG_VERSION_NUMBER").startswith("no TLS: SSL_ERROR_SSL")


@pytest.mark.parametrize("line", [b"", b"Traceback\n", b"I1125 01:17:17.583318 5865 a.cc:1] Handshake done\n"])
def test_other_lines(line):
    assert cause_of(line) is None


SCRIPT = """
import logging, os, sys
from fedwon.server.link.handshakes import own_standard_error, told_of_handshakes
own_standard_error()
class Noted:
    def note(self, *what):
        print(what[0])
with told_of_handshakes(Noted()):
    os.write(2, {failed!r} + b"PEER_DID_NOT_RETURN_A_CERTIFICATE\\n")
    os.write(2, b"I1125 01:17:17.583318 5865 noise.cc:1] noise\\n")
    os.write(2, b"E1125 01:17:17.583318 5865 x.cc:1] a fault\\n")
    os.write(2, b"Fatal: something of a library\\n")
    sys.stderr.write("from python\\n")
os.write(2, b"after\\n")
"""


def test_what_reaches_standard_error():
    script = SCRIPT.format(failed=FAILED)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "handshake with no certificate\n"
    assert sorted(done.stderr.splitlines()) == [
        "E1125 01:17:17.583318 5865 x.cc:1] a fault",
        "Fatal: something of a library",
        "after",
        "from python",
    ]
    assert done.stderr.splitlines()[-1] == "after"
