"""TLS handshakes that gRPC refuses: who shows no certificate, an expired one, or one of another federation.

Such a connection ends before there is a call, so no handler ever hears of it; gRPC's core writes the reason, and
nothing else, to the process's standard error. `told_of_handshakes` reads those lines there and puts each into the audit
trail; every other line goes on to where it was going. The address of the peer is not in them.

Whether the core writes at all it decides when `grpc` is imported, by GRPC_VERBOSITY. `fedwon.common` sets that to
ERROR, for this process and those it starts, so whoever wants to hear must import this module first, as
`fedwon.server.cli` does.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_QUIET = {"ERROR", "NONE"}
if "fedwon.common" not in sys.modules and os.environ.get("GRPC_VERBOSITY", "").upper() in _QUIET:
    del os.environ["GRPC_VERBOSITY"]  # of the process that started this one; fedwon.common sets it again

import grpc  # noqa: E402, F401  # ahead of fedwon.common: see above

from fedwon.server.auditing import Refusals  # noqa: E402

logger = logging.getLogger(__name__)

STDERR = 2
UNKNOWN = "unknown address"
_CORE = re.compile(rb"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")
_FAILED = re.compile(rb"Handshake failed with error (.*)")
_OURS = (
    (b"PEER_DID_NOT_RETURN_A_CERTIFICATE", "no certificate"),
    (b"certificate has expired", "expired certificate"),
    (b"certificate is not yet valid", "certificate that is not valid yet (clocks)"),
    (b"CERTIFICATE_VERIFY_FAILED", "foreign certificate"),
)
"""What the core says and how we call it, the first that fits."""

_speaking = False


def own_standard_error() -> None:
    """Let Python write to standard error past the pipe that the core's lines go through. To be called once, first."""
    global _speaking  # noqa: PLW0603  # of the process, as its standard error is
    try:
        copy = os.dup(STDERR)
    except OSError:  # there is none
        return
    _speaking = True
    sys.stderr = io.TextIOWrapper(os.fdopen(copy, "wb", 0), "utf-8", "backslashreplace", write_through=True)


def cause_of(line: bytes) -> str | None:
    """Return why a handshake failed, or None for a line that is about something else."""
    found = _FAILED.search(line)
    if found is None:
        return None
    return next((name for text, name in _OURS if text in line), f"no TLS: {found[1].decode(errors='replace')[:150]}")


@contextmanager
def told_of_handshakes(refusals: Refusals) -> Iterator[None]:
    """Note refused handshakes while the block runs; does nothing where `own_standard_error` was not called."""
    if not _speaking:
        yield
        return
    kept = os.dup(STDERR)
    reading, writing = os.pipe()
    os.dup2(writing, STDERR)
    os.close(writing)
    pump = threading.Thread(target=_pump, args=(reading, kept, refusals), name="handshakes", daemon=True)
    pump.start()
    try:
        yield
    finally:
        os.dup2(kept, STDERR)  # closes the last writing end, so that the pump ends
        pump.join(1.0)
        os.close(kept)


def _pump(reading: int, kept: int, refusals: Refusals) -> None:
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            cause = cause_of(line)
            if cause is not None:
                refusals.note(f"handshake with {cause}", UNKNOWN, "TLS ended the connection before there was a name")
            elif not line.startswith(b"I") or not _CORE.match(line):
                os.write(kept, line)
