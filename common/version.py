"""The version of this installation, and whether two versions may talk to each other."""

from __future__ import annotations

import re
from importlib.metadata import version

VERSION = version("fedwon")


def compatible(ours: str, theirs: str) -> bool:
    """Tell whether two peers may talk: same major version, minor versions at most one apart.

    Args:
        ours: this side's version, such as "0.1.0".
        theirs: the peer's version.

    Returns:
        False also for a version that cannot be read.
    """
    pattern = re.compile(r"(\d+)\.(\d+)(\.|$)")
    here, there = pattern.match(ours), pattern.match(theirs)
    if here is None or there is None:
        return False
    return here[1] == there[1] and abs(int(here[2]) - int(there[2])) <= 1
