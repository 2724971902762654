"""A Flower `Grid` whose nodes are sites with names: what the gRPC grid and the simulation have in common."""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedwon.common.arrays import Blob
from fedwon.common.flower import Run as FlowerRun
from fedwon.common.flower import make_run
from fedwon.common.surveys import Survey

WISH_SECONDS = 0.5
"""Where no server watches the database, a paused run looks so often whether it may go on."""


@dataclass(frozen=True)
class Traffic:
    """What one task cost.

    Attributes:
        bytes_down: bytes the site fetched for it.
        bytes_up: bytes the site sent.
        seconds: work at the site.
    """

    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Delta:
    """A file that makes a model of another one.

    Attributes:
        blob: the file, packed.
        base: digest of the model that it starts from.
    """

    blob: Blob
    base: str


def node_id_of(site: str) -> int:
    """Return the number under which Flower knows a site: the same in every process and run."""
    return int.from_bytes(hashlib.sha256(site.encode()).digest()[:7], "big") | 1 << 55


class SiteGrid(Grid):
    """A Grid that knows its nodes by name."""

    def __init__(self) -> None:
        self._run = make_run()

    def set_run(self, run: FlowerRun) -> None:
        """Take over Flower's description of the run."""
        self._run = run

    @property
    def run(self) -> FlowerRun:
        """Flower's description of the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node; see Flower's `Grid`."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of the sites that can be asked now, in the order of their names."""
        return [node_id_of(site) for site in self.sites()]

    @abstractmethod
    def sites(self) -> list[str]:
        """Return the names of the sites that are connected and may work now, sorted."""

    @abstractmethod
    def survey(self, site: str) -> Survey | None:
        """Return what images a site says it has, or None where it did not say."""

    @abstractmethod
    def wait_for_sites(self, minimum: int) -> None:
        """Block until so many sites are connected and may work."""

    def wait_for_sites_or_wish(self, minimum: int) -> None:
        """Block until so many sites are connected and may work, or the operator wishes something of the run."""
        self.wait_for_sites(minimum)

    def wait_for_wish(self, wish: str) -> None:
        """Block for a while that the operator may wish something else than this."""
        del wish
        time.sleep(WISH_SECONDS)

    def heeded(self, wish: str) -> None:
        """Hear what the operator wishes of the run, as the run has just read it."""
        del wish

    def suspend(self, sites: Mapping[str, str]) -> None:
        """Hear which sites are not to be asked or waited for, each with the reason; of others no longer."""
        del sites

    def resting(self) -> Mapping[str, str]:
        """Return why a site that is connected is not to be asked now, by the site's name."""
        return {}

    def wait_for_arrival(self, seconds: float) -> bool:
        """Block until another site comes or the time is over; return False at once where nobody can come."""
        del seconds
        return False

    def begin_run(self, spool: Path) -> None:
        """Hear in which folder updates of the run may be kept."""
        del spool

    def shorten(self, model: str, delta: Delta) -> None:
        """Hear that whoever has another model needs only this file to have the model of that digest."""
        del model, delta

    def traffic(self, message_id: str) -> Traffic:
        """Return what a task cost so far."""
        del message_id
        return Traffic()

    def discount(self, message_id: str) -> None:
        """Take back that a reply counts towards the quorum: it was refused."""
        del message_id

    def committed(self, run: str, number: int, message_ids: Iterable[str]) -> None:
        """Hear that a round is over: sites may drop what they kept for these messages, answered or not."""
        del run, number, message_ids

    def run_ended(self, run: str, state: str) -> None:
        """Hear that the run is over."""
        del run, state


def metrics_of(content: RecordDict) -> dict[str, Any]:
    """Return the numbers of an answer in one mapping."""
    return {key: value for record in content.metric_records.values() for key, value in record.items()}
