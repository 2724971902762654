"""One task after the other: fetch the model, run Flower's ClientApp, keep the outcome, hand it in."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Context, Message

from fedwon.client.ceiling import is_out_of_memory, lower_ceiling, memory_limit, out_of_memory
from fedwon.client.link.attempts import MOST_DEATHS, Attempts
from fedwon.client.link.journal import Journal, ModelCache, check_name
from fedwon.client.link.transfers import OpenChannel, Transfers
from fedwon.client.tracing import Step, untraced
from fedwon.client.training import progress
from fedwon.client.training.local_state import LocalStates
from fedwon.common.arrays import StoredRecord
from fedwon.common.errors import BrokenFile, FedwonError, OutOfMemory, TaskFailed
from fedwon.common.flower import host_app, incoming, make_context
from fedwon.common.memory import return_freed_memory
from fedwon.common.packing import ZSTD
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.liveness import Liveness
from fedwon.common.wire.records import blob_of, records_from_wire, settings_of

logger = logging.getLogger(__name__)

HANDED_IN = "this task was done before; its outcome is handed in"
App = Callable[[Message, Context], Message]
"""What does the tasks: Flower's ClientApp of a site, or what a relay has in its place."""

DIED = "This site's process ended without a word {} times in this task, as when the kernel finds memory short"


def training_app() -> App:
    """Return the app of a site. It loads torch, which an idle site has no use for."""
    from fedwon.client.app import app

    return app


@dataclass
class Work:
    """A task in hand.

    Attributes:
        cancelled: set when nobody waits for it any more.
        again: the same task, offered once more after it had been cancelled.
    """

    offer: pb.Offer
    cancelled: threading.Event = field(default_factory=threading.Event)
    again: pb.Offer | None = None


class TaskRunner:
    """Does the tasks that a server offers; lives on while the link breaks and comes back.

    Args:
        server: its address, for messages.
        folder: the site's folder.
        node_config: what Flower's ClientApp is told about this site.
        tell: sends a message to the server when the session stands.
        memory_mb: memory that this process may take; None for what the system gives it.
        load_app: returns what does the tasks; called when the first one comes.
        step: surrounds each step of a task.

    Raises:
        StorageError: the journal or the site's own layers cannot be opened.
    """

    def __init__(
        self,
        server: str,
        folder: Path,
        node_config: dict[str, bool | int | float | str],
        tell: Callable[[pb.FromSite], None],
        memory_mb: int | None = None,
        *,
        load_app: Callable[[], App] = training_app,
        step: Step = untraced,
    ) -> None:
        self._step = step
        self.journal, self.models = Journal(folder / "journal"), ModelCache(folder / "models")
        self._attempts, self._limit = Attempts(folder / "journal"), memory_limit(memory_mb)
        self._ceiling_set, self._load_app = False, load_app
        self._states = LocalStates(folder / "local")
        self._transfers, self._tell = Transfers(server, self.journal, self.models), tell
        self._context = make_context(1, node_config)
        self._context.state = self._states.load()
        self._waiting: asyncio.Queue[Work] = asyncio.Queue()
        self._known: dict[str, Work] = {}
        self.heartbeat = pb.Heartbeat()

    def use(self, opener: OpenChannel) -> None:
        """Take what opens a channel to the server, for the transfers from now on."""
        self._transfers.use(opener)

    def moved(self, server: str) -> None:
        """Hear that the server has another address."""
        self._transfers.server = server

    def connected(self, liveness: Liveness) -> None:
        """Hear that the server is there: whatever waits to be tried again is tried now."""
        self._transfers.stall = liveness.stall
        self._transfers.wake.set()

    def offer(self, offer: pb.Offer) -> None:
        """Take a task, unless it is in hand already.

        Raises:
            Refused: its name is none.
        """
        known = self._known.get(check_name(offer.task_id))
        if known is None:
            self._take(offer)
        elif known.cancelled.is_set():
            known.again = offer

    def _take(self, offer: pb.Offer) -> None:
        work = self._known[offer.task_id] = Work(offer)
        self._waiting.put_nowait(work)

    def cancel(self, task_id: str, reason: str) -> None:
        """Give a task up: nobody waits for it any more."""
        work = self._known.get(task_id)
        if work is not None:
            logger.info("task cancelled: %s", reason, extra={"task": task_id})
            work.again = None
            work.cancelled.set()
            self._transfers.wake.set()

    def in_hand(self) -> set[str]:
        """Return the tasks that wait or are worked on and were not given up."""
        return {name for name, work in self._known.items() if not work.cancelled.is_set()}

    def unfinished(self) -> list[str]:
        """Return the tasks in hand and those whose outcome is still kept."""
        return sorted({*self._known, *self.journal.unfinished()})

    async def run(self) -> None:
        """Do tasks for ever; whatever goes wrong in one is told to the server, and the next one is taken."""
        while True:
            work = await self._waiting.get()
            try:
                await self._do(work)
            except FedwonError as error:
                self._report(work, error)
            except progress.Cancelled:
                logger.info("task given up", extra={"task": work.offer.task_id})
            except asyncio.CancelledError:
                work.cancelled.set()  # this process is about to end, and its thread should not work on
                self._attempts.end(work.offer.task_id)  # and that is no death
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told and logged
                self._report(work, self._explained(work, error))
                del error  # and with it what the task held
                return_freed_memory()
            finally:
                self.heartbeat = pb.Heartbeat()
                del self._known[work.offer.task_id]
            if work.again is not None:
                self._take(work.again)

    def _report(self, work: Work, error: FedwonError) -> None:
        if work.cancelled.is_set():  # nobody waits for it, and offered again it is another attempt
            logger.info("task given up: %s", error.message, extra={"task": work.offer.task_id})
            return
        logger.error("task failed: %s %s", error.message, error.hint, extra={"task": work.offer.task_id})
        # a reason for the operator, who can change the run; others are the site's own matter
        told = f"{error.message} {error.hint}" if isinstance(error, OutOfMemory) else error.message
        failed = pb.TaskFailed(task_id=work.offer.task_id, error=error.slug, message=told)
        self._tell(pb.FromSite(failed=failed))

    def _explained(self, work: Work, error: Exception) -> FedwonError:
        """Return an error that nobody foresaw as one of ours."""
        if is_out_of_memory(error):
            logger.error("memory ran out: %s", error, extra={"task": work.offer.task_id})
            return self._out_of_memory(work, "Memory ran out in this task")
        logger.error("the task ended with an unexpected error", exc_info=error, extra={"task": work.offer.task_id})
        return TaskFailed(f"{type(error).__name__}: {error}")

    def _out_of_memory(self, work: Work, what: str) -> OutOfMemory:
        task = settings_of(work.offer.records)
        return out_of_memory(what, task, self._context.node_config.get("batch_size"), self._limit)

    async def _do(self, work: Work) -> None:
        offer = work.offer
        model = blob_of(offer.records) or pb.Blob()
        header = await asyncio.to_thread(self.journal.finished, offer.task_id, model.digest)
        if header is None:
            if model.digest:
                with self._step(offer, "fetch"):
                    await self._transfers.fetch(model, work.cancelled, offer.deltas)
            with self._step(offer, offer.kind):
                header = await asyncio.to_thread(self._work, work, model)
        else:
            logger.info(HANDED_IN, extra={"task": offer.task_id})
        with self._step(offer, "upload"):
            await self._transfers.submit(header, work.cancelled)

    def _work(self, work: Work, model: pb.Blob) -> pb.SubmitHeader:
        offer = work.offer
        if work.cancelled.is_set():
            raise progress.Cancelled
        if (deaths := self._attempts.deaths(offer.task_id)) >= MOST_DEATHS:
            self._attempts.end(offer.task_id)  # asked for again, it is tried again
            raise self._out_of_memory(work, DIED.format(deaths))
        self._attempts.begin(offer.task_id)
        try:
            return self._try(offer, model, work.cancelled)
        finally:
            self._attempts.end(offer.task_id)

    def _try(self, offer: pb.Offer, model: pb.Blob, cancelled: threading.Event) -> pb.SubmitHeader:
        logger.info("%s, round %s", offer.kind, offer.group_id, extra={"task": offer.task_id})
        self._progress(offer.task_id, 0, 0)
        started = time.monotonic()
        app = self._load_app()
        host_app()
        self._lower_ceiling()
        content = records_from_wire(offer.records, self._opened)
        message = incoming(content, offer.kind, node_id=1, message_id=offer.task_id, group_id=offer.group_id)
        with progress.watch(lambda done, total: self._progress(offer.task_id, done, total), cancelled):
            reply: Message = app(message, self._context)
        seconds = time.monotonic() - started
        self._states.keep(self._context.state)  # before the update counts: the next round starts from both
        packing = ZSTD if offer.packing == ZSTD else ""
        header = self.journal.keep(offer.task_id, model.digest, reply.content, seconds, packing)
        return_freed_memory()
        logger.info("done in %.1f s, handing it in", seconds, extra={"task": offer.task_id})
        return header

    def _lower_ceiling(self) -> None:
        if not self._ceiling_set:
            self._ceiling_set = True
            lower_ceiling(self._limit)

    def _progress(self, task_id: str, done: int, total: int) -> None:
        self.heartbeat = pb.Heartbeat(task_id=task_id, done=done, total=total)

    def _opened(self, blob: pb.Blob) -> StoredRecord:
        record = self.models.get(blob)
        if record is None:
            raise BrokenFile(f"The model {blob.digest[:12]} in {self.models.folder} is damaged or gone.")
        return record
