"""A task as spans of the site: fetching the model, the work, handing the outcome in; below the server's span of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fedwon.client.training import progress
from fedwon.common.errors import FedwonError
from fedwon.common.pki import load_credentials, site_of
from fedwon.common.traces import TracesConfig, open_traces
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import settings_of

if TYPE_CHECKING:
    from fedwon.common.spans import Traces

Step = Callable[[pb.Offer, str], AbstractContextManager[None]]
"""Surrounds a step of a task: `with step(offer, "fetch"):`."""


def untraced(offer: pb.Offer, name: str) -> AbstractContextManager[None]:
    """Surround a step with nothing."""
    del offer, name
    return nullcontext()


class TaskTracer:
    """Sends a span for each step of a task.

    Args:
        traces: where they go.
        site: this site.
        clock: seconds since 1970.
    """

    def __init__(self, traces: Traces, site: str, clock: Callable[[], float] = time.time) -> None:
        self._traces, self._site, self._clock = traces, site, clock

    @contextmanager
    def step(self, offer: pb.Offer, name: str) -> Iterator[None]:
        """Send a span of the block; also of one that fails or is given up."""
        began, failed = self._clock(), True
        more: dict[str, str | bool] = {}
        try:
            yield
            failed = False
        except FedwonError as error:
            more = {"fedwon.error": error.slug}
            raise
        except progress.Cancelled:
            failed, more = False, {"fedwon.cancelled": True}
            raise
        finally:
            self._send(offer, name, began, failed, more)

    def _send(self, offer: pb.Offer, name: str, began: float, failed: bool, more: dict[str, str | bool]) -> None:
        run = str(settings_of(offer.records).get("run", ""))
        parent = offer.task_id if offer.kind == "train" else run  # the server has no span of other tasks
        attributes = {"fedwon.run": run, "fedwon.round": offer.group_id, "fedwon.site": self._site, **more}
        self._traces.span(name, run, began, self._clock(), parent=parent, failed=failed, attributes=attributes)


@contextmanager
def traced(config: TracesConfig | None, folder: Path) -> Iterator[Step]:
    """Let the steps of tasks be sent as spans while the block runs, where the configuration says so.

    Args:
        config: where to; None for nowhere.
        folder: the site's, with its certificate.

    Raises:
        StorageError: the certificate cannot be read.
        MissingExtra: OpenTelemetry is not installed.
    """
    if config is None:
        yield untraced
        return
    site = site_of(load_credentials(folder / "pki", "site").certificate)
    traces = open_traces(config, "fedwon-client", site)
    try:
        yield TaskTracer(traces, site).step
    finally:
        traces.close()
