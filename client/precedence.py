"""How far the client stands back behind what else runs on the box."""

from __future__ import annotations

import logging
import os

logger = logging.getLogger(__name__)


def stand_back(nice: int) -> None:
    """Set this process's nice level, never to less than it has; threads made later inherit it.

    Args:
        nice: 0 to 19; 0 leaves it as it is.
    """
    if nice <= os.getpriority(os.PRIO_PROCESS, 0):  # a service manager may have set more
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        logger.warning("the nice level cannot be set to %d: %s", nice, error.strerror)
