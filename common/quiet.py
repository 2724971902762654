"""No calls home, no chatter: what Flower, Ray and gRPC read from the environment before they are imported.

A factory network may have no internet, and nothing here connects anywhere that the configuration does not name.
"""

from __future__ import annotations

import os
from types import MappingProxyType

QUIET = MappingProxyType(
    {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
"""Environment variable and the value that silences what it controls."""


def no_telemetry() -> None:
    """Switch off telemetry, update check and run-time installation, for this process and those it starts.

    Must run before the first import of `flwr`, which reads the first of them at import. It overrides the environment:
    a site that is not to talk to the internet stays that way whatever shell started it.
    """
    os.environ.update(QUIET)
    # gRPC's C++ core writes lines of its own to standard error, in the middle of JSON; raise it to find a TLS fault.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
