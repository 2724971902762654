"""`/metrics` of a site for Prometheus, where client.yaml asks for it: this box alone, whatever its server is doing.

The server tells the sites' figures of training (docs/operation.md). What only the box knows is whether it has a
connection, how far its work is, and how long its certificate lasts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedwon.common.errors import FedwonError
from fedwon.common.files import read_bytes
from fedwon.common.pki import certificate_days_left

logger = logging.getLogger(__name__)

DAY_SECONDS = 86400.0


class Box:
    """What Prometheus's library asks for figures.

    Args:
        folder: the site's folder.
        state: what the link knows: `site`, `version`, `connected`, and `done` of `total` steps of the work in hand.
    """

    def __init__(self, folder: Path, state: Callable[[], Mapping[str, Any]]) -> None:
        self._folder, self._state = folder, state

    def collect(self) -> Iterable[Any]:
        """Return all figures."""
        from prometheus_client.core import GaugeMetricFamily

        state = self._state()
        labels = {"site": state["site"], "version": state["version"]}
        about = GaugeMetricFamily("fedwon_client_info", "The client; always 1.", labels=list(labels))
        about.add_metric(list(labels.values()), 1.0)
        yield about
        for name, text, value in (
            ("connected", "1 while a session with the server stands.", float(bool(state["connected"]))),
            ("task_steps_done", "Steps done of the work in hand; 0 while there is none.", float(state["done"])),
            ("task_steps", "Steps of the work in hand; 0 while there is none.", float(state["total"])),
        ):
            yield GaugeMetricFamily(f"fedwon_client_{name}", text, value=value)
        with suppress(FedwonError):  # a certificate that is just being renewed
            left = certificate_days_left(read_bytes(self._folder / "pki" / "site.pem"))
            text = "Until this site's certificate ends."
            yield GaugeMetricFamily("fedwon_client_certificate_seconds", text, value=left * DAY_SECONDS)


@contextmanager
def measured(address: str | None, folder: Path, state: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Serve `/metrics` in a thread while the block runs; without an address nothing is loaded or listened on.

    A site is worth more than its figures: an address that cannot be listened on is a warning.

    Args:
        address: `host:port`.
        folder: the site's folder.
        state: see `Box`.
    """
    if address is None:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Box(folder, state))
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        logger.warning("metrics cannot be served on %s (`metrics` in client.yaml): %s", address, error.strerror)
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
