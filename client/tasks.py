"""One task after the other: fetch the model, run Flower's ClientApp, keep the outcome, hand it in."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
from flwr.app import Message

from fedwon.client import progress
from fedwon.client.journal import Journal, ModelCache, check_name
from fedwon.common.arrays import StoredRecord
from fedwon.common.errors import BrokenFile, FedwonError, Refused, TaskFailed, storage_error
from fedwon.common.flower import host_app, incoming, make_context
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import CHUNK, OFFSET_KEY, from_rpc
from fedwon.common.wire.records import blob_of, records_from_wire

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0


def pauses() -> AsyncIterator[None]:
    """Yield once at once and then after ever longer pauses with full jitter, at most 30 s, for ever."""

    async def wait() -> AsyncIterator[None]:
        longest = FIRST_PAUSE
        yield
        while True:
            await asyncio.sleep(random.uniform(FIRST_PAUSE / 2, longest))
            longest = min(2 * longest, LONGEST_PAUSE)
            yield

    return wait()


class TaskRunner:
    """Does the tasks that a server offers; lives on while the link breaks and comes back.

    Args:
        channel: to the server.
        server: its address, for messages.
        folder: the site's folder.
        node_config: what Flower's ClientApp is told about this site.
        tell: sends a message to the server when the session stands.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        server: str,
        folder: Path,
        node_config: dict[str, bool | int | float | str],
        tell: Callable[[pb.FromSite], None],
    ) -> None:
        self.journal, self.models = Journal(folder / "journal"), ModelCache(folder / "models")
        self._stub, self._server, self._tell = rpc.FederationStub(channel), server, tell
        self._context = make_context(1, node_config)
        self._offers: asyncio.Queue[pb.Offer] = asyncio.Queue()
        self._known: dict[str, threading.Event] = {}
        self.heartbeat = pb.Heartbeat()

    def offer(self, offer: pb.Offer) -> None:
        """Take a task, unless it is in hand already."""
        check_name(offer.task_id)
        if offer.task_id not in self._known:
            self._known[offer.task_id] = threading.Event()
            self._offers.put_nowait(offer)

    def cancel(self, task_id: str, reason: str) -> None:
        """Give a task up: nobody waits for it any more."""
        if task_id in self._known:
            logger.info("task cancelled: %s", reason, extra={"task": task_id})
            self._known[task_id].set()

    def unfinished(self) -> list[str]:
        """Return the tasks in hand and those whose outcome is still kept."""
        return sorted({*self._known, *self.journal.unfinished()})

    async def run(self) -> None:
        """Do tasks for ever."""
        while True:
            offer = await self._offers.get()
            try:
                await self._do(offer)
            except FedwonError as error:
                logger.error(  # noqa: TRY400  # the message says it; the trace was logged where it was unexpected
                    "task failed: %s", error.message, extra={"task": offer.task_id}
                )
                self._report(offer, error)
            except progress.Cancelled:
                logger.info("task given up", extra={"task": offer.task_id})
            finally:
                self.heartbeat = pb.Heartbeat()
                del self._known[offer.task_id]

    def _report(self, offer: pb.Offer, error: FedwonError) -> None:
        failed = pb.TaskFailed(task_id=offer.task_id, error=error.slug, message=error.message)
        self._tell(pb.FromSite(failed=failed))

    async def _do(self, offer: pb.Offer) -> None:
        model = blob_of(offer.records) or pb.Blob()
        header = await asyncio.to_thread(self.journal.finished, offer.task_id, model.digest)
        if header is None:
            if model.digest:
                await self._fetch(model)
            header = await asyncio.to_thread(self._work, offer, model, progress_to=self._progress)
        else:
            logger.info("this task was done before; its outcome is handed in", extra={"task": offer.task_id})
        await self._submit(header)

    def _progress(self, task_id: str, done: int, total: int) -> None:
        self.heartbeat = pb.Heartbeat(task_id=task_id, done=done, total=total)

    def _work(
        self, offer: pb.Offer, model: pb.Blob, *, progress_to: Callable[[str, int, int], None]
    ) -> pb.SubmitHeader:
        from fedwon.client.app import app  # loads torch, which an idle site has no use for

        host_app()
        started = time.monotonic()
        content = records_from_wire(offer.records, self._opened)
        message = incoming(content, offer.kind, node_id=1, message_id=offer.task_id, group_id=offer.group_id)
        logger.info("%s, round %s", offer.kind, offer.group_id, extra={"task": offer.task_id})
        cancelled = self._known[offer.task_id]
        with progress.watch(lambda done, total: progress_to(offer.task_id, done, total), cancelled):
            reply = _shielded(lambda: app(message, self._context))
        return self.journal.keep(offer.task_id, model.digest, reply.content, time.monotonic() - started)

    def _opened(self, blob: pb.Blob) -> StoredRecord:
        record = self.models.get(blob)
        if record is None:
            raise BrokenFile(f"The model {blob.digest[:12]} in {self.models.folder} is damaged or gone.")
        return record

    async def _fetch(self, wanted: pb.Blob) -> None:
        """Fetch a model unless it is here, going on where a broken transfer stopped."""
        if await asyncio.to_thread(self.models.get, wanted) is not None:
            return
        part = self.models.partial(wanted)
        async for _ in pauses():
            offset = part.stat().st_size if part.exists() else 0
            try:
                with part.open("ab") as file:
                    async for chunk in self._stub.Fetch(pb.FetchRequest(digest=wanted.digest, offset=offset)):
                        await asyncio.to_thread(file.write, chunk.data)
                await asyncio.to_thread(self.models.accept, wanted)
            except grpc.aio.AioRpcError as error:
                self._raise_if_final(from_rpc(error, self._server))
            except BrokenFile as error:
                logger.warning("%s It is fetched again.", error.message)
            except OSError as error:
                raise storage_error(error, f"writing {part}") from None
            else:
                return

    async def _submit(self, header: pb.SubmitHeader) -> None:
        """Hand an outcome in, however often the line breaks."""
        async for _ in pauses():
            try:
                await self._send(header)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error, self._server)
                if isinstance(failure, Refused) and failure.hint == Refused.default_hint:
                    logger.warning("the server does not want this outcome: %s", failure.message)
                    self.journal.drop([header.task_id])
                    return
                logger.info("handing in failed, trying again: %s", failure.message, extra={"task": header.task_id})
            else:
                return

    async def _send(self, header: pb.SubmitHeader) -> None:
        call = self._stub.Submit()
        await call.write(pb.SubmitRequest(header=header))
        metadata = dict(await call.initial_metadata())
        if blob_of(header.records) is not None and OFFSET_KEY in metadata:
            with self.journal.arrays(header.task_id).open("rb") as file:
                file.seek(int(metadata[OFFSET_KEY]))
                while data := await asyncio.to_thread(file.read, CHUNK):
                    await call.write(pb.SubmitRequest(data=data))
        await call.done_writing()
        await call

    def _raise_if_final(self, failure: FedwonError) -> None:
        if isinstance(failure, Refused):
            raise failure
        logger.info("fetching failed, trying again: %s", failure.message)


def _shielded(call: Callable[[], Message]) -> Message:
    """Run the app; anything unexpected becomes a task failure with its text, and the site lives on."""
    try:
        return call()
    except (FedwonError, progress.Cancelled):
        raise
    except Exception as error:
        logger.exception("the task ended with an unexpected error")
        raise TaskFailed(f"{type(error).__name__}: {error}") from error
