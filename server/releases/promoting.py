"""The operator's orders about releases, as the commands and the page give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fedwon.common.config import parse
from fedwon.common.errors import ReleaseMissing
from fedwon.common.gates import Gates
from fedwon.server.releases.orders import give, named_sites
from fedwon.server.releases.shelves import find_release
from fedwon.server.serving import Home


def promote(
    home: Home,
    name: str,
    gates: Mapping[str, Any],
    sites: Sequence[str],
    *,
    everywhere: bool,
    actor: str | None = None,
) -> list[str]:
    """Let sites use a release if it passes the gates there; every byte of it is checked first.

    Args:
        home: the server.
        name: the release.
        gates: fields of `Gates`; None leaves one open.
        sites: by name.
        everywhere: all sites instead that may take part and are not held.
        actor: who promotes it; without it, the user of this machine.

    Returns:
        The sites that were told.

    Raises:
        ReleaseMissing: there is none of that name.
        UntrustedRelease: it is not what was signed.
        ConfigError: the gates do not go with its classes, or sites are named neither or both ways.
        Refused: no site of that name has enrolled.
    """
    asked = parse(Gates, dict(gates), "the gates")
    manifest = find_release(home, name).manifest
    if manifest.name != name:  # a way round through the folders, or a folder that was renamed
        raise ReleaseMissing(f"There is no release `{name}`; the folder of that name holds {manifest.name}.")
    asked.check(manifest.classes)
    told = named_sites(home.store, sites, everywhere=everywhere, promoting=True)
    give(home.store, "promote", told, name, asked, actor=actor)
    return told


def order(
    home: Home, kind: Literal["hold", "rollback"], sites: Sequence[str], *, everywhere: bool, actor: str | None = None
) -> list[str]:
    """Let sites stay with the release that they use, or go back to the one before.

    Returns:
        The sites that were told.

    Raises:
        ConfigError: sites are named neither or both ways.
        Refused: no site of that name has enrolled.
    """
    told = named_sites(home.store, sites, everywhere=everywhere)
    give(home.store, kind, told, actor=actor)
    return told
