"""What can be known before a site takes part: images, certificate, clock, disk, server. Plain words for each."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedwon.client.config import ClientConfig
from fedwon.client.data import Survey, survey
from fedwon.client.enrolment import open_channel
from fedwon.common.errors import FedwonError, Refused
from fedwon.common.pki import certificate_days_left, load_credentials, site_of
from fedwon.common.wire.grpc_errors import from_rpc

CONNECT_SECONDS = 10.0
LOW_DISK = 2 * 10**9
FEW_DAYS = 7.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is as it should be.
        text: what was found.
        hint: what to do, where it is not.
        code: the exit code that it stands for, 0 where it is ok.
    """

    name: str
    ok: bool
    text: str
    hint: str = ""
    code: int = 0

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
    return [_finding(name, look) for name, look in looks]


def _finding(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, ok=True, text=look())
    except FedwonError as error:
        return Finding(name, ok=False, text=error.message, hint=error.hint, code=error.code)


def _images(found: Survey) -> str:
    counts = found.as_dict()
    total = sum(sum(parts.values()) for parts in counts.values())
    classes = ", ".join(f"{name} {sum(parts.values())}" for name, parts in counts.items())
    return f"{total} images in {len(counts)} classes: {classes}"


def _certificate(folder: Path) -> str:
    held = load_credentials(folder / "pki", "site")
    days = certificate_days_left(held.certificate)
    if days <= 0:
        raise Refused("The site's certificate has expired.", hint="Ask the operator for a new enrolment line.")
    soon = "; it renews itself when the site is started" if days < FEW_DAYS else ""
    return f"site {site_of(held.certificate)}, {days:.0f} days left{soon}"


def _disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    low = " (little: updates and models of some megabytes are kept here)" if free < LOW_DISK else ""
    return f"{free / 1e9:.1f} GB free{low}"


async def _server(server: str, folder: Path) -> str:
    async with open_channel(server, folder) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # missing in its stubs
            await check(health_pb2.HealthCheckRequest(), timeout=CONNECT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, server) from None
    return f"{server} answers, and both sides accept each other's certificate"
