"""How a server becomes a relay: it joins another as a site does, and keeps that identity in a folder of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fedwon.client import enrolment
from fedwon.client.config import LinkConfig
from fedwon.common.config import load
from fedwon.common.errors import ConfigError, ConfigMissing, FolderTaken
from fedwon.server.auditing import operator
from fedwon.server.serving import Home

PARENT = "parent"
"""The folder, below the server's, in which a relay is a site of its parent."""
CLIENT = "client.yaml"
"""The file in there that names the parent's address."""


def join(home: Home, server: str, fingerprint: str, token: str) -> str:
    """Enrol a server as a site of another; return the name that it has there.

    Args:
        home: the server that becomes a relay.
        server: `host:port` where the parent takes tokens.
        fingerprint: of the parent's authority.
        token: single use, from the parent's operator.

    Raises:
        FolderTaken: it is a relay already.
        Unreachable, WrongFingerprint, TokenUsed, TokenExpired: see `fedwon.client.enrolment.join`.
    """
    folder = home.folder / PARENT
    if (folder / CLIENT).exists():
        raise FolderTaken(
            f"{home.folder} is a relay already: {folder / CLIENT} names its parent.",
            hint=f"To give it another parent, move {folder} away and join again.",
        )
    joined = asyncio.run(enrolment.join(server, fingerprint, token, folder, None))
    home.store.audit("relay joined", joined.site, f"of {server}", actor=operator())
    return joined.site


def parent_of(folder: Path) -> LinkConfig:
    """Return how a relay finds its parent.

    Args:
        folder: the relay's.

    Raises:
        ConfigMissing: it is no relay.
        ConfigError: the file that names the parent is not valid.
    """
    if not (folder / PARENT / CLIENT).exists():
        raise ConfigMissing(
            f"{folder} is no relay yet: it has no parent.",
            hint="Ask the parent's operator for a line of `fedwon-server enroll`, and give its parts to "
            f"`fedwon-server relay join --dir {folder}`.",
        )
    return load(LinkConfig, folder / PARENT / CLIENT)


def check_rule(home: Home) -> None:
    """Keep a relay from another rule than the mean: its answer has to be the mean of its sites.

    Raises:
        ConfigError: its server.yaml names another.
    """
    rule = home.config.run.aggregation.rule
    if rule != "mean":
        raise ConfigError(
            f"`run.aggregation.rule: {rule}` is not for a relay: what it sends its parent is the mean of its sites, so "
            "that the parent's average is that of all sites.",
            hint=f"Set `rule: mean` in {home.folder}; `run.admission` keeps bad updates out of the mean here too.",
        )


def check_no_relay(folder: Path) -> None:
    """Keep a relay's server from taking a run of its parent for one of its own.

    Raises:
        ConfigError: the server is a relay.
    """
    if (folder / PARENT / CLIENT).exists():
        raise ConfigError(
            f"{folder} is a relay: what it trains is its parent's.",
            hint=f"`fedwon-server relay start --dir {folder}`; for federations of its own make another folder.",
        )
