"""The whole federation in one process: the same strategy and the same ClientApp, no sockets.

Sites run one after the other in the order of their names, so a seed gives the same bits as real processes do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from flwr.app import Error, Message
from flwr.clientapp import ClientApp

from fedwon.client.app import app as client_app
from fedwon.client.config import SiteConfig
from fedwon.client.images.data import survey as survey_images
from fedwon.client.training.local_state import LocalStates
from fedwon.client.training.progress import Cancelled
from fedwon.common.errors import ConfigError, FedwonError
from fedwon.common.flower import host_app, incoming, make_context
from fedwon.common.surveys import Survey
from fedwon.server.rounds.site_grid import SiteGrid, Traffic, node_id_of


class InProcessGrid(SiteGrid):
    """A grid that runs each site's ClientApp when its message is sent.

    Args:
        sites: settings by name of the site.
        base: folder that relative paths start at.
        app: Flower's ClientApp.
        folder: where what stays at a site is kept, a folder a site, so that a run can be resumed; without it, in
            memory.
    """

    def __init__(
        self, sites: Mapping[str, SiteConfig], base: Path, app: ClientApp = client_app, *, folder: Path | None = None
    ) -> None:
        super().__init__()
        host_app()
        self._sites = dict(sorted(sites.items()))
        self._base, self._app = base, app
        self._surveys = {name: survey_images(site.data, base) for name, site in self._sites.items()}
        self._contexts = {
            node_id_of(name): make_context(node_id_of(name), site.for_node(name, base))
            for name, site in self._sites.items()
        }
        self._states = {} if folder is None else {node_id_of(name): LocalStates(folder / name) for name in self._sites}
        for node, states in self._states.items():
            self._contexts[node].state = states.load()
        self._traffic: dict[str, Traffic] = {}
        self._replies: dict[str, Message] = {}

    def sites(self) -> list[str]:
        """Return all sites: nobody is ever away here."""
        return list(self._sites)

    def survey(self, site: str) -> Survey | None:
        """Return what images a site has."""
        return self._surveys[site]

    def wait_for_sites(self, minimum: int) -> None:
        """Check that there are enough sites: no more will come.

        Raises:
            ConfigError: there are fewer.
        """
        if len(self._sites) < minimum:
            raise ConfigError(
                f"`participation.minimum` is {minimum}; there are {len(self._sites)} sites: {', '.join(self._sites)}."
            )

    def traffic(self, message_id: str) -> Traffic:
        """Return how long a task took; nothing travels."""
        return self._traffic.get(message_id, Traffic())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the sites' tasks; their replies wait for `pull_messages`."""
        names = []
        for message in messages:
            name = message.metadata.message_id or f"message-{len(self._replies)}"
            self._replies[name] = self._run_task(message, name)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Run the sites' tasks one after the other; no deadline applies."""
        del timeout
        for message in messages:
            yield self._run_task(message, message.metadata.message_id)

    def _run_task(self, message: Message, name: str) -> Message:
        node = message.metadata.dst_node_id
        arrived = incoming(
            message.content,
            message.metadata.message_type,
            node_id=node,
            message_id=name,
            group_id=message.metadata.group_id,
        )
        started = time.monotonic()
        reply = answer(lambda: self._app(arrived, self._contexts[node]), arrived)
        if node in self._states:
            self._states[node].keep(self._contexts[node].state)
        self._traffic[name] = Traffic(seconds=time.monotonic() - started)
        return reply


def answer(call: Callable[[], Message], message: Message) -> Message:
    """Run a site's app; an error of ours becomes an error reply, as it does over the wire.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it (`fedwon.server.engines.interruption`).
    """
    try:
        return call()
    except Cancelled:
        raise KeyboardInterrupt from None
    except FedwonError as error:
        return Message(Error(code=error.code, reason=error.message), reply_to=message)
