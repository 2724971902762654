"""Which site this is, as Flower's node configuration says it.

The same app runs under fedwon's link, in a simulation and in Flower's own SuperNode. What they have in common is
`context.node_config`, flat keys with plain values; it carries the site's name and its `SiteConfig`:

    flower-supernode --node-config 'site="paper" data.path="digits:paper" threads=1'

Flower's simulation engine gives its virtual nodes a number only. There the run's configuration names a folder of
domains (`domains = "digits"`, and `threads = 1` for the same bits everywhere), and node i is the domain i by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.images.domains import discover
from fedwon.common.config import FlatValue, flatten, parse, unflatten
from fedwon.common.errors import ConfigError

SITE, BASE, DOMAINS, THREADS = "site", "base", "domains", "threads"
PARTITION = "partition-id"
_FLOWERS_OWN = frozenset({PARTITION, "num-partitions"})


@dataclass(frozen=True)
class Site:
    """A site as its app sees it.

    Attributes:
        name: the site's name; its random numbers follow from it.
        config: its data, batch size and threads.
        base: the folder that relative paths start at.
    """

    name: str
    config: SiteConfig
    base: Path

    @classmethod
    def of(cls, context: Context) -> Site:
        """Read the site from the context in which Flower calls the app; `SiteConfig.for_node` writes it.

        Raises:
            ConfigError: the node configuration names no site or no data, or has a key or value that is not valid.
            DataError: there is no domain for this virtual node.
        """
        node: dict[str, FlatValue] = dict(context.node_config)
        if PARTITION in node and "data.path" not in node:
            node |= _virtual(int(str(node[PARTITION])), context.run_config)
        if SITE not in node:
            raise ConfigError(
                "The node configuration has no `site`.",
                hint="Set `site` and `data.path` with --node-config, or `domains` in a simulation's run configuration.",
            )
        settings = {key: value for key, value in node.items() if key not in _FLOWERS_OWN | {SITE, BASE}}
        config = parse(SiteConfig, unflatten(settings), "node configuration")
        return cls(str(node[SITE]), config, Path(str(node.get(BASE, "."))))


def _virtual(number: int, run: Mapping[str, bool | int | float | str]) -> dict[str, FlatValue]:
    """Settings of the virtual node of that number; none if the run's configuration names no domains."""
    if not run.get(DOMAINS):
        return {}
    domains = _domains(str(run[DOMAINS]))
    if number >= len(domains):
        raise ConfigError(
            f"Virtual node {number} has no domain: {run[DOMAINS]} has {len(domains)}.",
            hint="Start as many virtual nodes (`num-supernodes`) as there are domains.",
        )
    name, data = domains[number]
    threads: dict[str, FlatValue] = {THREADS: run[THREADS]} if run.get(THREADS) else {}
    return {SITE: name, **threads, **flatten(data, "data.")}


@lru_cache(maxsize=1)
def _domains(folder: str) -> tuple[tuple[str, DataConfig], ...]:
    """The domains of a folder by number; looked for once a process, as there may be thousands."""
    return tuple(discover(folder).items())
