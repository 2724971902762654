"""What every call goes through: our errors in the form that the other side understands, and refusals on record."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import grpc

from fedwon.common.errors import (
    DuplicateSite,
    EnrolmentError,
    FedwonError,
    Refused,
    Revoked,
    StorageError,
    TooManyAttempts,
    VersionGap,
)
from fedwon.common.pki import site_of_peer
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire.grpc_errors import abort
from fedwon.server.auditing import Refusals
from fedwon.server.link.peers import readable

logger = logging.getLogger(__name__)

LONGEST_VERSION = 32
"""Characters of a site's version that are kept."""

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[..., Awaitable[Any]]

KINDS: dict[type[FedwonError], str] = {
    Revoked: "revoked certificate",
    TooManyAttempts: "too many attempts to join",
    EnrolmentError: "enrolment",
    VersionGap: "version",
    DuplicateSite: "second client",
    Refused: "request",
}
"""How a refusal is called in the audit trail; what is in no row is a failure and no refusal."""


def guarded(handler: Handler) -> Handler:
    """End a call with one of our errors in the form that the other side understands, and note the refusal."""

    @wraps(handler)
    async def _call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await handler(self, request, context)
        except FedwonError as error:
            note_refusal(self.refusals, context, error)
            await abort(context, error)

    return _call


def note_refusal(refusals: Refusals, context: Context, error: FedwonError) -> None:
    """Note who was refused and why, under the site's name or, where it has none, its address."""
    address = readable(context.peer() or "")
    level = logging.ERROR if isinstance(error, StorageError) else logging.INFO  # ours to mend, not the site's
    logger.log(level, "refused: %s", error.message, extra={"peer": address})
    kind = next((name for kind, name in KINDS.items() if isinstance(error, kind)), None)
    if kind is not None:
        refusals.note(kind, _name(context) or address, f"from {address}: {error.message}")


def _name(context: Context) -> str:
    try:
        return site_of_peer(context.auth_context())
    except Refused:
        return ""


def check_version(theirs: str) -> None:
    """Refuse a peer that is more than one minor version away.

    Raises:
        VersionGap: it is; the message names both versions.
    """
    if not compatible(VERSION, theirs):
        named = theirs[:LONGEST_VERSION] or "(unknown)"
        raise VersionGap(f"The server runs fedwon {VERSION}, the site {named}; one minor apart at most.")
