"""A site's task runner beside a server, and an app that does what a test tells it to."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, suppress

from flwr.app import Message, RecordDict

from fedwon.client.enrolment import open_channel
from fedwon.client.link.tasks import TaskRunner
from fedwon.client.training import progress
from fedwon.common.wire import fedwon_pb2 as pb
from tests.link.link_kit import Server, listening, outcome


class App:
    """In place of Flower's ClientApp: does what the test says, and counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.does = lambda: None
        self.answer: RecordDict = outcome()
        self.holding = threading.Event()
        self.holding.set()

    def __call__(self, message: Message, context) -> Message:
        self.calls.append(message.metadata.message_id)
        progress.report(1, 2)
        while not self.holding.wait(0.01):
            progress.raise_if_cancelled()
        self.does()
        return Message(self.answer, reply_to=message)


class Site:
    def __init__(self, runner: TaskRunner, told: list[pb.FromSite]) -> None:
        self.runner, self.told = runner, told

    def reports(self) -> list[tuple[str, str]]:
        return [(message.failed.error, message.failed.message) for message in self.told]


@asynccontextmanager
async def working(federation, server: Server):
    folder = federation.site()
    told: list[pb.FromSite] = []
    async with listening(federation, server) as address:
        runner = TaskRunner(address, folder, {}, told.append)
        runner.use(lambda: open_channel(address, folder))
        running = asyncio.create_task(runner.run())
        try:
            async with asyncio.timeout(30):
                yield Site(runner, told)
            assert not running.done()
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


def play(federation, server, scene) -> None:
    async def go():
        async with working(federation, server) as site:
            await scene(site)

    asyncio.run(go())


def named(task: pb.Offer, name: str) -> pb.Offer:
    copy = pb.Offer()
    copy.CopyFrom(task)
    copy.task_id = name
    return copy


def kept(site: Site) -> list[str]:
    return site.runner.journal.unfinished()
