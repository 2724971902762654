"""What `start` and `evaluate` do: serve in the event loop, work in a thread, stop on a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from fedwon.common import notify
from fedwon.common.arrays import StoredRecord
from fedwon.common.errors import PortInUse, Stopped, StorageError
from fedwon.common.flower import host_app
from fedwon.common.lock import locked
from fedwon.common.model_file import read_model, trained_network
from fedwon.common.round_settings import ParticipationConfig
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.server.auditing import operator
from fedwon.server.link.grid import GrpcGrid
from fedwon.server.link.hub import Hub
from fedwon.server.link.open_files import allow_open_files
from fedwon.server.page.hosting import page_beside
from fedwon.server.rounds.evaluation import Evaluation, evaluate_model
from fedwon.server.rounds.events import Event, Listener, RoundCommitted, RoundStarted, RunPaused, RunStarted
from fedwon.server.runs.federating import Outcome, federate
from fedwon.server.runs.run import Run
from fedwon.server.serving import Home, serving
from fedwon.server.tracing import traced, traces_of
from fedwon.server.writers.choosing import recorders_of
from fedwon.server.writers.recording import recording

logger = logging.getLogger(__name__)

T = TypeVar("T")
HOUR = 3600.0
STOP_SECONDS = 8.0
"""Time that a signal leaves for ending in order; containers are killed ten seconds after it."""
LOCK_SECONDS = 1.0
"""`status` holds the lock for a moment when it looks."""


def run_federation(home: Home, config: RunConfig, *, listeners: Sequence[Listener], resume: bool) -> Outcome:
    """Serve sites and run a federation to its end.

    Raises:
        PortInUse: another process listens on one of the ports.
        Stopped: SIGTERM; committed rounds are kept.
        KeyboardInterrupt: SIGINT; likewise.
        RunError: the run could not go on.
        MissingExtra: a writer is configured whose library is not installed.
    """
    rules = Run.unfinished(home.store, home.folder).config.participation if resume else config.participation

    recorders, traces = recorders_of(home), traces_of(home)

    def _work(grid: GrpcGrid) -> Outcome:
        with recording(recorders) as writers, traced(traces, home.store) as tracers:
            heard_by = [*listeners, _tell_manager, *writers, *tracers]
            return federate(grid, config, home.store, home.folder, listeners=heard_by, resume=resume)

    home.store.audit("run resumed" if resume else "run started", config.name, actor=operator())
    return _run(home, rules, _work)


def serve_sites(home: Home) -> None:
    """Serve sites without a run until a signal: they join, renew their certificates and wait.

    Raises:
        PortInUse: another process listens on one of the ports.
        KeyboardInterrupt: SIGINT.
    """

    def _work(grid: GrpcGrid) -> None:
        while grid.wait_for_arrival(HOUR):  # it ends when the server is stopped
            pass

    with suppress(Stopped):
        _run(home, home.config.run.participation, _work)


def evaluate_at_sites(
    home: Home, task: TaskConfig, record: StoredRecord, *, minimum: int | None, timeout: float
) -> Evaluation:
    """Serve sites and let each measure a model.

    Args:
        home: the server.
        task: what the model was trained as.
        record: its arrays.
        minimum: sites to wait for; the run's minimum without it.
        timeout: seconds to wait for their answers.

    Raises:
        PortInUse: another process listens on one of the ports.
        Stopped: SIGTERM.
        KeyboardInterrupt: SIGINT.
    """
    host_app()
    rules = home.config.run.participation.model_copy(update={"quorum": None, "patience_seconds": None})

    def _work(grid: GrpcGrid) -> Evaluation:
        grid.wait_for_sites(minimum or rules.minimum)
        return evaluate_model(grid, task, record, timeout=timeout, surveyed=home.config.run.admission.surveyed)

    home.store.audit("evaluation", task.run, f"the model of round {task.round}", actor=operator())
    return _run(home, rules, _work)


def pick_model(home: Home, run: str | None, number: int | None, path: Path | None) -> tuple[TaskConfig, StoredRecord]:
    """Return the model to evaluate: a file's, or that of a run's round, the newest where nothing is named.

    Raises:
        ModelMismatch: the file's tensors are not the network's.
        RunMissing: no such run or round.
        BrokenFile: the file is damaged.
    """
    if path is None:
        opened = Run.open(home.store, home.folder, run)
        path = (opened.last()[1] if number is None else opened.model(number)).blob.path
    task, record = read_model(path)
    trained_network(task, record)  # a model that does not fit is refused here, once, not at every site
    return task, record


def _tell_manager(event: Event) -> None:
    """Let `systemctl status` say how far the run is."""
    match event:
        case RunStarted():
            notify.status(f"run {event.run}: {event.done} of {event.rounds} rounds committed")
        case RoundStarted():
            notify.status(f"round {event.number} with {len(event.sites)} sites")
        case RoundCommitted():
            notify.status(f"round {event.number} committed")
        case RunPaused():
            notify.status(f"run {event.run} pauses: {event.reason}")


def _run(home: Home, rules: ParticipationConfig, work: Callable[[GrpcGrid], T]) -> T:
    async def _beside(hub: Hub) -> T:
        return await asyncio.to_thread(work, GrpcGrid(hub, asyncio.get_running_loop(), rules))

    return run_server(home, _beside)


def run_server(home: Home, work: Callable[[Hub], Awaitable[T]], *, going_on: str = "fedwon-server start --resume") -> T:
    """Serve sites while some work is done beside, and end in order on a signal.

    Args:
        home: the server.
        work: is given the hub; ends with `Stopped` when that is stopped.
        going_on: the command that goes on with what was in hand.

    Raises:
        PortInUse: another process listens on one of the ports.
        Stopped: SIGTERM.
        KeyboardInterrupt: SIGINT.
    """
    received: list[int] = []
    home.store.check()
    try:
        return asyncio.run(_serve(home, work, received, going_on))
    except Stopped:
        with suppress(StorageError):  # a full disk must not hide that the server was stopped in order
            home.store.audit("server stopped", home.config.federation, _signal_name(received))
        if received[:1] == [signal.SIGINT]:
            raise KeyboardInterrupt from None
        raise


def _signal_name(received: Sequence[int]) -> str:
    return f"by {signal.Signals(received[0]).name}" if received else ""


def _taken(home: Home) -> PortInUse:
    return PortInUse(
        f"Another fedwon-server runs with the folder {home.folder}.",
        hint="Stop it first: `systemctl status fedwon-server`, `pgrep -af fedwon-server`.",
    )


async def _serve(home: Home, work: Callable[[Hub], Awaitable[T]], received: list[int], going_on: str) -> T:
    loop = asyncio.get_running_loop()
    allow_open_files()
    lock = locked(home.lock, LOCK_SECONDS, _taken(home))
    async with notify.watched(), lock, serving(home) as hub, page_beside(home, hub):

        def _stop(number: int) -> None:
            notify.stopping()
            received.append(number)
            hub.stop()
            loop.call_later(STOP_SECONDS, _leave, 130 if number == signal.SIGINT else 0, going_on)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _stop, number)
        notify.ready(f"listening on {home.config.listen}, waiting for sites")
        return await work(hub)


def _leave(code: int, going_on: str) -> NoReturn:
    """End at once. What is in hand, such as the average of a large network, takes longer than whoever stops us waits.

    What counts is on the disk, whole, at every moment.
    """
    logger.warning("what was in hand was given up; go on with `%s`", going_on)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
