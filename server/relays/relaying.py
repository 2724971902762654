"""A server that is one site of another: it hands its parent's tasks to sites of its own, and their mean to its parent.

Towards the parent it is a site like any other: enrolled, under mutual TLS, with a journal, through the client's own
link; in place of training it runs a round at its sites (`relay_rounds`). Towards its sites it is a server like any
other. The parent's run is a run in the relay's own folder too: a round goes on after a crash, with the same tasks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedwon.client.app import CONFIG, METRICS, read_task
from fedwon.client.config import LinkConfig
from fedwon.client.link.journal import check_name
from fedwon.client.link.site_link import Link
from fedwon.client.training import progress
from fedwon.client.training.sending import ARRAYS
from fedwon.common import notify
from fedwon.common.errors import ConfigError, FedwonError, RunMissing, SecureError, Stopped
from fedwon.common.secagg.stages import SECURE
from fedwon.common.surveys import Survey, summed
from fedwon.common.task_config import TaskConfig
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.auditing import operator
from fedwon.server.identity import sites
from fedwon.server.link.grid import GrpcGrid
from fedwon.server.link.hub import Hub
from fedwon.server.link.service import NEWS_SECONDS
from fedwon.server.operating import run_server
from fedwon.server.relays.joining import PARENT, parent_of
from fedwon.server.relays.rounds import RelayRounds, config_of, evaluate_below
from fedwon.server.rounds.events import Event, Listener, RoundStarted, SiteAnswered
from fedwon.server.runs.run import Run
from fedwon.server.serving import Home

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds during which another client with this relay's identity may be its own broken session."""


def run_relay(home: Home, listener: Listener) -> None:
    """Serve the relay's sites and take part in the parent's runs, until a signal.

    Raises:
        ConfigMissing: it has no parent yet.
        ConfigError: it should take the server's step, which is its parent's.
        SecureError: its sites should mask their updates.
        PortInUse: another process listens on one of the ports.
        Refused, VersionGap, DuplicateSite: the parent does not take this relay.
        Stopped: SIGTERM.
        KeyboardInterrupt: SIGINT.
    """
    if home.config.run.aggregation.secure.enabled:
        raise SecureError(
            "A relay adds up the updates of its sites, which it sees: `run.aggregation.secure` cannot be had below it.",
            hint="Let the sites join the server at the top, or take `aggregation.secure` out of this server.yaml.",
        )
    if home.config.run.aggregation.steps:
        raise ConfigError(
            "A relay sends the mean of its sites, and the step beyond it is its parent's: "
            "`run.aggregation.server_momentum` and `server_lr` cannot be had here.",
            hint="Set them in the server.yaml of the server at the top, and take them out of this one.",
        )
    config = parent_of(home.folder)
    home.store.audit("relay started", home.config.federation, f"of {config.server}", actor=operator())
    run_server(home, lambda hub: _relay(home, hub, config, listener), going_on="fedwon-server relay start")


async def _relay(home: Home, hub: Hub, config: LinkConfig, listener: Listener) -> None:
    relay = Relay(home, GrpcGrid(hub, asyncio.get_running_loop(), home.config.run.participation), hub, listener)
    folder = home.folder / PARENT
    link = Link(
        config,
        folder,
        relay.survey,
        until_finished=False,
        patience=PATIENCE,
        load_app=lambda: relay.work,
        overhear=relay.overhear,
    )
    minimum = home.config.run.participation.minimum
    notify.status(f"waiting for {minimum} sites before it connects to {config.server}")
    await hub.wait_for(minimum)  # a parent begins a run with the classes of those that are there
    both = [asyncio.create_task(link.run()), asyncio.create_task(relay.keep_telling(link.tell_survey))]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            if task.done():
                task.result()
        raise Stopped("The relay was stopped.")
    finally:
        for task in both:
            task.cancel()
        await asyncio.wait(both)


class Relay:
    """What a relay does with a parent's tasks.

    Args:
        home: the relay's own server.
        grid: its sites.
        hub: the same, in the event loop.
        listener: told what happens in the rounds.
    """

    def __init__(self, home: Home, grid: GrpcGrid, hub: Hub, listener: Listener) -> None:
        self._home, self._grid, self._hub = home, grid, hub
        self._listeners: list[Listener] = [listener, _Progress()]
        self._rounds: RelayRounds | None = None
        self._in_hand = ""
        self._working = threading.Lock()
        self._notes: set[asyncio.Task[None]] = set()
        self._begun = time.monotonic()

    def survey(self) -> Survey:
        """Return what images the relay's sites have together, also those that are away just now.

        A site that leaves after it has answered must not make its images too many for what the parent was told.
        """
        known = sites.surveys(self._home.store)
        return summed((known | {site: session.survey for site, session in self._hub.sessions.copy().items()}).values())

    async def keep_telling(self, tell: Callable[[Survey], None]) -> None:
        """Tell the parent whenever the relay's sites have other images by now, until the hub is stopped."""
        told: Survey = {}
        while not self._hub.stopped:
            change = self._hub.next_change
            try:
                survey = await asyncio.to_thread(self.survey)
            except FedwonError as error:
                logger.warning("%s", error.message)
            else:
                if survey != told:
                    tell(survey)
                    await asyncio.sleep(NEWS_SECONDS)  # however many sites below have news, and however often
                told = survey
            await change.wait()

    def work(self, message: Message, context: Context) -> Message:
        """Do a task of the parent: what a site's `ClientApp` is there, runs in the link's thread.

        Raises:
            TaskFailed: the task cannot be used.
            TooFewUpdates: too few of the relay's sites answered.
            Cancelled: the parent does not wait for it any more, or this server goes down.
        """
        del context
        with self._working:
            self._in_hand = message.metadata.message_id
            try:
                self._grid.go_on()
                progress.raise_if_cancelled()
                return self._done(message)
            except Stopped:
                if not self._hub.stopped:
                    self._grid.take_back("the parent does not wait for this any more")
                raise progress.Cancelled from None
            finally:
                self._in_hand = ""

    def _done(self, message: Message) -> Message:
        if SECURE in message.content:
            raise SecureError("A relay answers for sites of its own and cannot mask for them.")
        return self._train(message) if message.metadata.message_type == "train" else self._evaluate(message)

    def _train(self, message: Message) -> Message:
        arrays, task = read_task(message)
        rounds = self._rounds_of(task, arrays)
        model = rounds.tracked.model(task.round - 1)  # not the last one, where the parent has gone back
        combined = rounds.round(task.round, model, _settings(message))
        content = RecordDict({ARRAYS: combined.arrays, METRICS: MetricRecord(dict(combined.metrics))})
        return Message(content, reply_to=message)

    def _rounds_of(self, task: TaskConfig, model: ArrayRecord) -> RelayRounds:
        """Return the rounds of the task's run, with the model of the round before committed."""
        known, config = self._rounds, config_of(task, self._home.config.run)
        if known is not None and known.tracked.id == task.run:
            known.tracked.reconfigure(config)
            self._take_model(known.tracked, task.round - 1, model)
            return known
        if known is not None:
            known.tracked.finish("stopped", "the parent went on with another run")
        run = Run(self._home.store, self._home.folder, check_name(task.run), config, task.classes, self._listeners)
        if self._run_named(run.id) is None:
            run.begin(task.round - 1, model)
        else:
            run.make_folders()
            run.reconfigure(config)
            run.set_state("running")
            self._take_model(run, task.round - 1, model)
        self._grid.begin_run(run.spool)
        self._rounds, self._begun = RelayRounds(run, self._grid), time.monotonic()
        return self._rounds

    def _take_model(self, run: Run, number: int, model: ArrayRecord) -> None:
        """Keep a global model of the parent; the same model gives the same file."""
        before, self._begun = self._begun, time.monotonic()
        run.commit(number, model, seconds=self._begun - before, sites=())

    def _evaluate(self, message: Message) -> Message:
        arrays, task = read_task(message)
        run = self._run_named(task.run)
        if self._rounds is not None and run is self._rounds.tracked:
            self._rounds.settle(task.round)
        if run is not None and task.round > run.last()[0] and run.state != "finished":
            self._take_model(run, task.round, arrays)  # the final one, which nobody is asked to train
        stem = message.metadata.message_id.rpartition(".")[0] or message.metadata.message_id
        together, single = evaluate_below(
            self._grid,
            RecordDict({ARRAYS: arrays, CONFIG: _settings(message)}),
            number=task.round,
            name=lambda site: f"{stem}.{site}",
            timeout=self._home.config.run.participation.deadline_seconds,
            surveyed=self._home.config.run.admission.surveyed,
        )
        if run is not None:
            with run.together():
                for site, numbers in single.items():
                    kept = {key: value for key, value in numbers.items() if key.startswith(("validation-", "test-"))}
                    run.measured(task.round, site, kept)
        return Message(RecordDict({METRICS: MetricRecord(dict(together))}), reply_to=message)

    def overhear(self, message: pb.FromServer) -> None:
        """Hear what the parent says about tasks and runs; runs in the event loop."""
        match message.WhichOneof("body"):
            case "cancel" if message.cancel.task_id == self._in_hand:
                self._hub.break_off()
            case "committed":
                self._beside(self._committed, message.committed.run, message.committed.round)
            case "finished":
                if self._in_hand and message.finished.state == "finished":
                    self._hub.break_off()
                self._beside(self._finished, message.finished.run, message.finished.state)

    def _beside(self, work: Callable[..., None], *arguments: object) -> None:
        """Do something with the database beside the event loop."""

        async def _done() -> None:
            try:
                await asyncio.to_thread(work, *arguments)
            except FedwonError as error:
                logger.error("%s %s", error.message, error.hint)  # noqa: TRY400

        task = asyncio.create_task(_done())
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    def _committed(self, run: str, number: int) -> None:
        if not self._working.acquire(blocking=False):
            return  # the next task is in hand, and has settled the round before
        try:
            if self._rounds is not None and self._rounds.tracked.id == run:
                self._rounds.settle(number)
        finally:
            self._working.release()

    def _finished(self, run: str, state: str) -> None:
        if state != "finished" and self._in_hand:
            return  # a run that is resumed asks for the same round again: the sites go on with it
        with self._working:
            known = self._run_named(run)
            if known is None or known.state == "finished":
                return
            if self._rounds is not None and known is self._rounds.tracked:
                if state == "finished":
                    self._rounds.settle(known.config.rounds)
                self._rounds = None
            known.finish(state, "" if state == "finished" else "the parent says so")
            if self._rounds is None:
                self._grid.run_ended(run, state)

    def _run_named(self, name: str) -> Run | None:
        """Return a run of the parent that this relay has taken part in, perhaps before it was started anew."""
        if self._rounds is not None and self._rounds.tracked.id == name:
            return self._rounds.tracked
        try:
            return Run.open(self._home.store, self._home.folder, name)
        except RunMissing:
            return None


class _Progress:
    """Tells the parent how many of the sites have answered."""

    def __init__(self) -> None:
        self._asked, self._answered = 0, 0

    def __call__(self, event: Event) -> None:
        """Hear an event, in the thread of the link's work."""
        match event:
            case RoundStarted():
                self._asked, self._answered = len(event.sites), 0
            case SiteAnswered():
                self._answered += 1
        with suppress(ZeroDivisionError):
            progress.report(self._answered, self._asked)


def _settings(message: Message) -> ConfigRecord:
    """Return the task as the parent wrote it, to be handed on word for word."""
    config = message.content[CONFIG]
    if not isinstance(config, ConfigRecord):
        raise TypeError("read_task has looked at it")
    return config
