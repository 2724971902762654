"""What can be known before a site takes part: images, certificate, disk, server. Plain words for each."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fedwon.client.config import LEDGER, ClientConfig, SitePrivacyRules
from fedwon.client.enrolment import open_channel
from fedwon.client.images.data import survey
from fedwon.client.link.attendance import Attendance
from fedwon.client.link.handshake import shake_hands
from fedwon.common.errors import FedwonError, Refused, Revoked, VersionGap
from fedwon.common.files import write_atomic
from fedwon.common.pki import certificate_days_left, load_credentials, site_of
from fedwon.common.surveys import Survey, images_in
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import VERSION_KEY, from_rpc

CONNECT_SECONDS = 10.0
LOW_DISK = 2 * 10**9
FEW_DAYS = 7.0
PROBE_BYTES = 2**20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is as it should be.
        text: what was found.
        hint: what to do, where it is not.
        code: the exit code that it stands for, 0 where it is ok.
        figures: what was measured, for machines.
    """

    name: str
    ok: bool
    text: str
    hint: str = ""
    code: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def preflight(config: ClientConfig, folder: Path) -> list[Finding]:
    """Look at everything that a site needs.

    Args:
        config: client.yaml.
        folder: the site's folder.
    """
    looks: list[tuple[str, Callable[[], str]]] = [
        ("images", lambda: _images(survey(config.data, folder))),
        ("certificate", lambda: _certificate(folder)),
        ("disk", lambda: _disk(folder)),
        ("server", lambda: asyncio.run(_server(config.server, folder))),
    ]
    ledger = folder / (config.privacy.ledger or LEDGER)
    if ledger.exists() or config.privacy != SitePrivacyRules():
        looks.append(("privacy", lambda: _privacy(ledger, config.privacy)))
    attendance = Attendance(config.schedule, folder, lambda _: None)
    if attendance.to_wire() is not None:
        looks.append(
            ("schedule", lambda: f"{attendance.words(attendance.now())}; a server waits for no site that is not")
        )
    return [finding_of(name, look) for name, look in looks]


def finding_of(name: str, look: Callable[[], str | Finding]) -> Finding:
    """Look at one thing; an error of ours becomes what was found."""
    try:
        found = look()
        return found if isinstance(found, Finding) else Finding(name, ok=True, text=found)
    except FedwonError as error:
        return Finding(name, ok=False, text=error.message, hint=error.hint, code=error.code)


def _images(found: Survey) -> str:
    classes = ", ".join(f"{name} {sum(parts.values())}" for name, parts in found.items())
    return f"{images_in(found)} images in {len(found)} classes: {classes}"


def _privacy(ledger: Path, rules: SitePrivacyRules) -> str:
    from fedwon.client.training.privacy_ledger import spent_in_words  # with Opacus, for sites that train privately

    return spent_in_words(ledger, rules)


def _certificate(folder: Path) -> str:
    held = load_credentials(folder / "pki", "site")
    days = certificate_days_left(held.certificate)
    if days <= 0:
        raise Refused("The site's certificate has expired.", hint="Ask the operator for a new enrolment line.")
    soon = "; it renews itself when the site is started" if days < FEW_DAYS else ""
    return f"site {site_of(held.certificate)}, {days:.0f} days left{soon}"


def _disk(folder: Path) -> str:
    probe = folder / ".fedwon-check"
    try:
        write_atomic(probe, b" " * PROBE_BYTES)
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    low = " (little: updates and models of some megabytes are kept here)" if free < LOW_DISK else ""
    return f"{free / 1e9:.1f} GB free{low}"


async def _server(server: str, folder: Path) -> str:
    await asyncio.to_thread(shake_hands, server, folder)
    async with open_channel(server, folder) as channel:
        theirs = await _version(channel, server)
    if not compatible(VERSION, theirs):
        raise VersionGap(f"The server runs fedwon {theirs}, this site {VERSION}.")
    return f"{server} answers with fedwon {theirs}, and both sides accept each other's certificate"


async def _version(channel: grpc.aio.Channel, server: str) -> str:
    """Return the server's version, which it names with every refusal; so we ask for what there is not."""
    call = rpc.FederationStub(channel).Fetch(pb.FetchRequest(digest="check"), timeout=CONNECT_SECONDS)
    try:
        await call.read()
        metadata = await call.trailing_metadata()
    except grpc.aio.AioRpcError as error:
        metadata = error.trailing_metadata()
        said = from_rpc(error, server)
        if VERSION_KEY not in metadata or isinstance(said, Revoked):
            raise said from None
    return str(dict(metadata).get(VERSION_KEY, ""))
