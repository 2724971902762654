"""How many files and connections this process may have open: each site takes one or two, each upload another."""

from __future__ import annotations

import logging
import resource

from fedwon.common.errors import StorageError

logger = logging.getLogger(__name__)

ENOUGH = 65_536
OWN = 40
"""What a server without sites has open."""
PER_SITE = 3
FEW_SITES = 100
RAISE = "Raise it with `ulimit -n`, or with `LimitNOFILE=` in the systemd unit."


def sites_within(limit: int) -> int:
    """Return for how many sites so many open files suffice."""
    return max((limit - OWN) // PER_SITE, 0)


def allow_open_files() -> None:
    """Take as many open files as this user may have, and say so where that is for few sites only.

    Raises:
        StorageError: they do not suffice for one site.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            wanted = soft
    allowed = max(soft, wanted)
    if sites_within(allowed) < 1:
        raise StorageError(
            f"This process may open {allowed} files; a server needs {OWN + PER_SITE} at least.", hint=RAISE
        )
    if sites_within(allowed) < FEW_SITES:
        logger.warning(
            "this process may open %d files, enough for about %d sites. %s", allowed, sites_within(allowed), RAISE
        )
