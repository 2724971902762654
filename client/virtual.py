"""Virtual sites: one ClientApp that is many sites on Flower's simulation engine.

The engine tells a virtual node its number and nothing else. Which site that is stands in a file that the simulation
writes once and every worker reads once: with the app itself, which the engine ships along with each message, a
thousand sites' settings would travel a thousand times a round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedwon.client.app import app
from fedwon.client.config import SiteConfig
from fedwon.client.site import PARTITION
from fedwon.common.files import write_atomic


def list_sites(path: Path, sites: Mapping[str, SiteConfig], base: Path) -> None:
    """Write which sites there are; virtual node i is the i-th of them by name.

    Args:
        path: the file to make or replace.
        sites: settings by name of the site.
        base: folder that relative paths start at.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [sites[name].for_node(name, base.resolve()) for name in sorted(sites)]
    write_atomic(path, [json.dumps(rows).encode()])


class VirtualSites(ClientApp):
    """The site's app for a node that knows its number only.

    Args:
        listed: the file that `list_sites` wrote; every machine of the simulation must see it under this path.
    """

    def __init__(self, listed: Path) -> None:
        super().__init__()
        self._listed = listed

    def __call__(self, message: Message, context: Context) -> Message:
        """Do a task as the site of that number; what stays at the site stays in its context."""
        own = _sites(self._listed)[int(str(context.node_config[PARTITION]))]
        return app(message, replace(context, node_config={**context.node_config, **own}))


@lru_cache(maxsize=1)
def _sites(listed: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(listed.read_bytes())
    return rows
