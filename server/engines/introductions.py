"""Who the nodes of one of Flower's grids are: each is asked once for its name and its images."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedwon.common.errors import ConfigError, FedwonError, TaskFailed, VersionGap
from fedwon.common.surveys import PARTS, Survey
from fedwon.common.version import VERSION, compatible
from fedwon.server.identity.naming import check_site_name
from fedwon.server.rounds.site_grid import node_id_of

logger = logging.getLogger(__name__)

QUERY = "query.survey"
AGAIN_SECONDS = 60.0
"""A node whose answer was of no use is asked again after so long."""
PATIENCE_SECONDS = 120.0
"""Nobody waits longer than this for a node that is connected and does not say who it is."""


@dataclass(frozen=True)
class Known:
    """A node that has said who it is.

    Attributes:
        number: ours of the site, by which the strategy addresses it.
    """

    site: str
    survey: Survey
    number: int


def known_from(reply: Message) -> Known:
    """Read the answer of `survey_message`.

    Raises:
        ConfigError: the name cannot be a site's.
        VersionGap: the site's fedwon is too old or too new.
        TaskFailed: it is no such answer, or an error.
    """
    if reply.has_error():
        raise TaskFailed(" ".join((reply.error.reason or "no reason given").split()))
    record = reply.content.config_records.get("site")
    told: Mapping[str, Any] = record if record is not None else {}
    try:
        name, version, classes = str(told["name"]), str(told["version"]), list(told["classes"])
        counts = {part: [int(number) for number in told[part]] for part in PARTS}
        rows: Survey = {str(label): {part: counts[part][row] for part in PARTS} for row, label in enumerate(classes)}
    except (KeyError, IndexError, TypeError, ValueError):
        raise TaskFailed("It did not say which site it is.", hint="Does it run fedwon's ClientApp?") from None
    if not compatible(VERSION, version):
        raise VersionGap(f"The site runs fedwon {version[:32]}, the server {VERSION}.")
    return Known(check_site_name(name), rows, node_id_of(name))


class Introductions:
    """Asks the nodes of a grid who they are.

    Args:
        flower: Flower's grid.
        strict: a node that cannot say who it is is an error: in a simulation nobody is there to put it right.
        at_once: nodes that are asked at a time; None: all.
    """

    def __init__(self, flower: Grid, *, strict: bool, at_once: int | None = None) -> None:
        self._flower, self._strict, self._at_once = flower, strict, at_once
        self._known: dict[int, Known] = {}
        self._asked: dict[str, tuple[int, float]] = {}
        self._again: dict[int, float] = {}
        self._nodes: dict[str, int] = {}
        self._numbers: dict[int, int] = {}
        self._told: set[int] = set()

    def sites(self) -> list[str]:
        """Ask those who are new, hear those who answer, and return the names of all that are connected, sorted.

        Raises:
            TaskFailed: a virtual site's app failed.
        """
        connected = set(self._flower.get_node_ids())
        self._ask(sorted(connected))
        self._hear()
        nodes: dict[str, int] = {}
        for node, known in self._known.items():  # in the order in which they were first heard
            if node in connected and nodes.setdefault(known.site, node) != node:
                self._warn_of_double(node, known.site)
        self._nodes = nodes
        self._numbers = {self._known[node].number: node for node in nodes.values()}
        return sorted(nodes)

    def waiting(self) -> bool:
        """Tell whether somebody was asked lately and has not answered."""
        now = time.monotonic()
        return any(now - since < PATIENCE_SECONDS for _, since in self._asked.values())

    def survey(self, site: str) -> Survey | None:
        """Return what images a site said it has, or None when it is away."""
        node = self._nodes.get(site)
        return None if node is None else self._known[node].survey

    def node_of(self, number: int) -> int | None:
        """Return Flower's number of a node by ours, or None when the site is away."""
        return self._numbers.get(number)

    def _ask(self, connected: list[int]) -> None:
        asked, now = {node for node, _ in self._asked.values()}, time.monotonic()
        new = [node for node in connected if node not in self._known and node not in asked]
        room = None if self._at_once is None else max(self._at_once - len(asked), 0)
        for node in new[:room]:
            if self._again.get(node, 0.0) <= now:
                question = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=node, message_type=QUERY)
                for name in self._flower.push_messages([question]):
                    self._asked[name] = (node, now)

    def _hear(self) -> None:
        for reply in self._flower.pull_messages(list(self._asked)) if self._asked else ():
            node, _ = self._asked.pop(reply.metadata.reply_to_message_id)
            try:
                self._known[node] = known_from(reply)
            except (TaskFailed, ConfigError, VersionGap) as error:
                self._note_failure(node, error)

    def _note_failure(self, node: int, error: FedwonError) -> None:
        if self._strict:
            raise error
        self._again[node] = time.monotonic() + AGAIN_SECONDS
        logger.warning("node %d is no site of this federation: %s", node, error.message)

    def _warn_of_double(self, node: int, site: str) -> None:
        if node not in self._told:
            self._told.add(node)
            logger.warning("node %d says that it is %s, which is connected already; it is left out", node, site)
