"""The enrolment port: token and certificate request in, certificate out."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from cryptography.hazmat.primitives import serialization

from fedwon.common.certificates import claimed_name, requested_key
from fedwon.common.errors import Refused, TokenUsed, TooManyAttempts
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.server.auditing import Refusals
from fedwon.server.identity import sites
from fedwon.server.identity.attempts import Attempts
from fedwon.server.identity.authorities import Trust
from fedwon.server.identity.standing import given_for, issue
from fedwon.server.link.guarding import check_version, guarded
from fedwon.server.link.peers import readable
from fedwon.server.store import Store

Context = grpc.aio.ServicerContext[Any, Any]
THREADS = 2
"""Of its own, so that a flood at this port does not keep the sites' models and updates from the disk."""


class EnrolmentService(rpc.EnrolmentServicer):
    """Sites that join.

    Args:
        store: the server's database.
        trust: the authorities of the moment.
        server: `host:port` that sites are told to connect to.
        attempts: counts those that fail.
        refusals: where they go on record.
    """

    def __init__(
        self, store: Store, trust: Callable[[], Trust], server: str, attempts: Attempts, refusals: Refusals
    ) -> None:
        self._store, self._trust, self._server, self._attempts = store, trust, server, attempts
        self.refusals = refusals
        self._threads = ThreadPoolExecutor(THREADS, "enrolment")

    def close(self) -> None:
        """End its threads."""
        self._threads.shutdown(wait=False)

    @guarded
    async def Authority(self, request: pb.AuthorityRequest, context: Context) -> pb.AuthorityReply:  # noqa: N802
        """Hand out the authority that the server's certificate is of; the site compares it with its fingerprint."""
        del request, context
        return pb.AuthorityReply(certificate=self._trust().oldest.pem)

    @guarded
    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollReply:  # noqa: N802
        """Use a token up and sign the site's certificate under the name that the token was made for."""
        check_version(request.version)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._enroll, request, readable(context.peer()))

    def _enroll(self, request: pb.EnrollRequest, address: str) -> pb.EnrollReply:
        try:
            key = _key_digest(request.certificate_request)  # a bad request does not cost the token
        except Refused:
            self._count(address)
            raise
        if not sites.token_counts(self._store, request.token, key):  # a good one is taken however many others fail
            self._count(address)
        try:
            site = sites.redeem_token(self._store, request.token, key)
        except TokenUsed as error:
            if owner := sites.site_of_token(self._store, request.token):
                self.refusals.note("replayed enrolment", owner, f"from {address}: {error.message}")
            raise
        self.refusals.note_claim(site, claimed_name(request.certificate_request))
        digest, trust = sites.token_digest(request.token), self._trust()
        certificate = given_for(self._store, digest) or issue(
            self._store, trust.signer(bundle=request.bundle), request.certificate_request, site, token=digest
        )
        return pb.EnrollReply(site=site, certificate=certificate, server=self._server, authorities=trust.bundle)

    def _count(self, address: str) -> None:
        wait = self._attempts.failed(address)
        if wait > 0:
            raise TooManyAttempts(f"Too many attempts to join failed from {address}; try again in {wait:.0f} s.")


def _key_digest(certificate_request: bytes) -> str:
    """Return the digest of the key in a request, or raise Refused."""
    public = requested_key(certificate_request).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public).hexdigest()
