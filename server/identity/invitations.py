"""Tokens with all that goes with them: a line to paste at a site, or a file for one that joins unattended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedwon.common.errors import ConfigError
from fedwon.common.invitation import Invitation
from fedwon.common.pki import fingerprint, load_authorities
from fedwon.server import report
from fedwon.server.identity import sites
from fedwon.server.identity.naming import check_site_name
from fedwon.server.serving import Home

PLACE = "{site}"
"""Stands for a site's name in the path of a file."""


def invite(
    home: Home, names: Sequence[str], hours: float, *, unless_enrolled: bool = False, actor: str | None = None
) -> list[Invitation]:
    """Make a token for each site.

    Args:
        home: the server.
        names: of the sites; all are checked before the first token is made.
        hours: how long each token can be used.
        unless_enrolled: leave out sites that have enrolled already.
        actor: who invites; without it, the user of this machine.

    Raises:
        ConfigError: a name cannot be a site's.
    """
    checked = [check_site_name(name) for name in dict.fromkeys(names)]
    known = {row["site"] for row in report.sites(home.store)} if unless_enrolled else set()
    mark = fingerprint(load_authorities(home.folder / "pki")[-1].pem)  # the one that the server's certificate is of
    return [
        Invitation(
            site=name,
            server=home.enrolment_address,
            fingerprint=mark,
            token=sites.make_token(home.store, name, hours, actor=actor),
        )
        for name in checked
        if name not in known
    ]


def check_place(out: str, names: Sequence[str]) -> None:
    """Check that each site gets a file of its own, before a token is made.

    Raises:
        ConfigError: several sites share one path.
    """
    if len(set(names)) > 1 and PLACE not in out:
        raise ConfigError(
            f"--out {out} is one file for {len(set(names))} sites.",
            hint=f"Put `{PLACE}` where the site's name belongs: --out 'invitations/{PLACE}.json'.",
        )


def write(invitation: Invitation, out: str) -> Path:
    """Write an invitation's file and return its path.

    Raises:
        StorageError: it cannot be written.
    """
    path = Path(out.replace(PLACE, invitation.site))
    invitation.write(path)
    return path
