"""What the tests of the server share: small models, a grid without wires, and a real server on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedwon.common import pki
from fedwon.common.arrays import Blob, StoredRecord, open_record, write_record
from fedwon.common.flower import set_message_id
from fedwon.common.round_settings import ParticipationConfig, TrafficConfig
from fedwon.common.run_config import RunConfig
from fedwon.common.surveys import Survey
from fedwon.common.task_settings import ImageConfig, ModelConfig, TrainingConfig
from fedwon.common.update_settings import AggregationConfig
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS, CHUNK, OFFSET_KEY, from_rpc
from fedwon.common.wire.records import records_to_wire
from fedwon.server.config import ServerConfig
from fedwon.server.identity import sites
from fedwon.server.link.grid import GrpcGrid
from fedwon.server.link.hub import Hub
from fedwon.server.rounds.site_grid import SiteGrid, Traffic, node_id_of
from fedwon.server.serving import Home, serving
from fedwon.server.store import Store

CLASSES = ("bad", "good")
PATIENCE = 60.0  # seconds until a test that hangs is given up; none waits that long


def small_run(
    *, classes=CLASSES, rounds=2, weights="examples", up="plain", down="plain", aggregation=None, **participation
) -> RunConfig:
    return RunConfig(
        name="test",
        rounds=rounds,
        classes=classes,
        model=ModelConfig(width=0.1),
        images=ImageConfig(size=8),
        training=TrainingConfig(batch_size=2),
        participation=ParticipationConfig(**{"minimum": 1, "deadline_seconds": PATIENCE, **participation}),
        aggregation=AggregationConfig(**{"weights": weights, **(aggregation or {})}),
        traffic=TrafficConfig(up=up, down=down),
    )


def record(**arrays) -> ArrayRecord:
    made = ArrayRecord()
    for name, values in arrays.items():
        made[name.replace("__", ".")] = Array(ndarray=np.asarray(values))
    return made


def stored(path: Path, arrays: ArrayRecord) -> StoredRecord:
    blob = write_record(arrays, path)
    return open_record(path, digest=blob.digest)


def shifted(arrays: ArrayRecord, by: float) -> ArrayRecord:
    """The same tensors, each floating-point number moved."""
    moved = ArrayRecord()
    for name, array in arrays.items():
        values = np.array(array.numpy())
        moved[name] = Array(ndarray=(values + values.dtype.type(by)) if values.dtype.kind == "f" else values)
    return moved


def good_metrics(examples: int = 10, **more) -> dict:
    return {
        "num-examples": examples,
        "train-loss": 0.5,
        "validation-loss": 0.7,
        "validation-correct": 3,
        "validation-examples": 4,
        **more,
    }


def same(left: Mapping, right: Mapping) -> bool:
    return list(left) == list(right) and all(
        left[name].numpy().tobytes() == right[name].numpy().tobytes() for name in left
    )


Behaviour = Callable[[Message, str], RecordDict | str | None]


class FakeGrid(SiteGrid):
    """Sites as functions: each returns the content of its reply, a reason for an error, or None for silence."""

    def __init__(self, behaviours: Mapping[str, Behaviour], surveys: Mapping[str, Survey] | None = None) -> None:
        super().__init__()
        self.behaviours, self.surveys = dict(behaviours), dict(surveys or {})
        self.asked: list[list[str]] = []
        self.said: list[tuple] = []
        self.order: Callable[[list], Iterable] = lambda messages: messages
        self.here = list(behaviours)

    def sites(self):
        return sorted(self.here)

    def survey(self, site):
        return self.surveys.get(site)

    def wait_for_sites(self, minimum):
        self.said.append(("wait", minimum))
        self.here = list(self.behaviours)

    def traffic(self, message_id):
        return Traffic(1, 2, 3.0)

    def discount(self, message_id):
        self.said.append(("discount", message_id))

    def committed(self, run, number, message_ids):
        self.said.append(("committed", number, tuple(message_ids)))

    def run_ended(self, run, state):
        self.said.append(("ended", state))

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None) -> Iterator[Message]:
        messages = list(messages)
        if not messages:
            return
        names = {node_id_of(site): site for site in self.behaviours}
        self.asked.append([names[message.metadata.dst_node_id] for message in messages])
        for message in self.order(messages):
            site = names[message.metadata.dst_node_id]
            outcome = self.behaviours[site](message, site)
            if isinstance(outcome, str):
                yield Message(Error(code=63, reason=outcome), reply_to=message)
            elif outcome is not None:
                yield Message(outcome, reply_to=message)


def answering(by: float = 0.1, examples: int = 10, **metrics) -> Behaviour:
    """A site that returns the model moved by a little."""

    def site(message, name):
        moved = shifted(message.content["arrays"], by)
        return RecordDict({"arrays": moved, "metrics": MetricRecord(good_metrics(examples, **metrics))})

    return site


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def make_home(folder: Path, *, heartbeat: float = 5.0, run: RunConfig | None = None) -> Home:
    listen, enrolment = free_ports(2)
    config = ServerConfig(
        listen=f"127.0.0.1:{listen}",
        enrolment=f"127.0.0.1:{enrolment}",
        names=("127.0.0.1",),
        heartbeat_seconds=heartbeat,
        page=None,
        run=run or small_run(),
    )
    return Home.create(folder, config)


@dataclass
class Site:
    """A site's end of the wire, bare."""

    name: str
    stub: rpc.FederationStub
    address: str
    instance: str = "one"
    inbox: list[pb.FromServer] = field(default_factory=list)

    async def connect(self, *, version: str = VERSION, data=(), unfinished=(), codecs=()) -> Session:
        call = self.stub.Session()
        rows = [pb.ClassCount(name=name, train=train, validation=val) for name, train, val in data]
        hello = pb.Hello(version=version, instance=self.instance, data=rows, unfinished=unfinished, codecs=codecs)
        await call.write(pb.FromSite(hello=hello))
        session = Session(call, self)
        welcome = await session.next("welcome")
        assert welcome.site == self.name
        return session

    async def fetch(self, digest: str, offset: int = 0) -> bytes:
        pieces = [chunk.data async for chunk in self.stub.Fetch(pb.FetchRequest(digest=digest, offset=offset))]
        assert all(len(piece) <= CHUNK for piece in pieces)
        return b"".join(pieces)

    async def submit(self, header: pb.SubmitHeader, data: bytes = b"", *, piece: int = CHUNK) -> int:
        """Hand an outcome in; returns the offset that the server asked for, -1 where it asked for none."""
        call = self.stub.Submit()
        await call.write(pb.SubmitRequest(header=header))
        offset = int(dict(await call.initial_metadata()).get(OFFSET_KEY, -1))
        if offset >= 0:
            for start in range(offset, len(data), piece):
                await call.write(pb.SubmitRequest(data=data[start : start + piece]))
        await call.done_writing()
        await call
        return offset


@dataclass
class Session:
    call: grpc.aio.StreamStreamCall
    site: Site

    async def next(self, kind: str):
        """Return the next message, which must be of that kind."""
        message = await asyncio.wait_for(self.call.read(), PATIENCE)
        if message is grpc.aio.EOF:
            await self.ended()
        assert message.WhichOneof("body") == kind, message
        return getattr(message, kind)

    async def ended(self) -> None:
        """Wait for the end; raises what it ended with."""
        code = await asyncio.wait_for(self.call.code(), PATIENCE)
        if code != grpc.StatusCode.OK:
            metadata = await self.call.trailing_metadata()
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, await self.call.details())

    async def leave(self) -> None:
        await self.call.done_writing()
        with suppress(grpc.aio.AioRpcError):  # what was not read would hold the end back
            while await asyncio.wait_for(self.call.read(), PATIENCE) is not grpc.aio.EOF:
                pass
        await asyncio.wait_for(self.call.code(), PATIENCE)

    async def fail(self, task_id: str, error: str = "data", message: str = "no images") -> None:
        await self.call.write(pb.FromSite(failed=pb.TaskFailed(task_id=task_id, error=error, message=message)))

    async def beat(self, **progress) -> None:
        await self.call.write(pb.FromSite(heartbeat=pb.Heartbeat(**progress)))


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until something holds."""

    async def turn() -> None:
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)

    await asyncio.wait_for(turn(), PATIENCE)


def error_of(caught: BaseException):
    """What a client of ours would make of it."""
    return from_rpc(caught, "server")


@dataclass
class Federation:
    """A running server and the means to be its sites."""

    home: Home
    hub: Hub
    grid: GrpcGrid
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def channel(self, key=None, certificate=None, *, root=None, address=None) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(root or self.home.authority.pem, key, certificate)
        opened = grpc.aio.secure_channel(address or self.home.config.listen, credentials, options=CHANNEL_OPTIONS)
        self.channels.append(opened)
        return opened

    def credentials(self, name: str, *, enrol: bool = True) -> tuple[bytes, bytes]:
        key = pki.new_key()
        certificate = pki.sign_request(self.home.authority, pki.request(name, key), name)
        if enrol:
            sites.enrolled(self.home.store, name, sites.now())
        return key, certificate

    def site(self, name: str = "line-1", *, instance: str = "one", enrol: bool = True) -> Site:
        stub = rpc.FederationStub(self.channel(*self.credentials(name, enrol=enrol)))
        return Site(name, stub, self.home.config.listen, instance)

    def enrolment(self) -> rpc.EnrolmentStub:
        return rpc.EnrolmentStub(self.channel(address=self.home.config.enrolment))

    async def sites_are(self, *names: str) -> None:
        """Wait until exactly these are connected."""
        while sorted(self.hub.sessions) != sorted(names):
            await self.hub._changed.wait()

    async def done(self, work: Callable, *arguments):
        """Do something as the strategy's thread does."""
        return await asyncio.wait_for(asyncio.to_thread(work, *arguments), PATIENCE)


@asynccontextmanager
async def federation(folder: Path, *, heartbeat: float = 5.0, spool: bool = True, **rules) -> AsyncIterator[Federation]:
    home = await asyncio.to_thread(make_home, folder, heartbeat=heartbeat)
    async with serving(home) as hub:
        running = Federation(home, hub, GrpcGrid(hub, asyncio.get_running_loop(), ParticipationConfig(**rules)))
        if spool:
            (folder / "spool").mkdir()
            running.grid.begin_run(folder / "spool")
        try:
            yield running
        finally:
            for channel in running.channels:
                await channel.close()
    home.store.close()


def outcome(task_id: str, arrays: Blob | None = None, *, metrics=None, seconds: float = 1.0) -> pb.SubmitHeader:
    content = RecordDict({"metrics": MetricRecord(metrics or good_metrics())})
    records = records_to_wire(content)
    if arrays is not None:
        records.append(pb.Record(name="arrays", arrays=pb.Blob(digest=arrays.digest, size=arrays.size)))
    return pb.SubmitHeader(task_id=task_id, records=records, seconds=seconds)


def rows(store: Store, kind: type) -> list:
    from sqlalchemy import select

    with store.session() as session:
        return list(session.scalars(select(kind)).all())


def wired(test=None, **rules):
    """Run a test in an event loop of its own, with a server in it; `rules` are for `federation`."""
    if test is None:
        return lambda test: wired(test, **rules)

    def run(tmp_path):
        async def inside():
            async with federation(tmp_path / "server", **rules) as running:
                await test(running)

        asyncio.run(inside())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def tasks(running, *names, group="1", kind="train", model=None):
    """Messages of one round to these sites."""
    made = []
    for name in names:
        content = RecordDict({"c": ConfigRecord({"a": 1})})
        if model is not None:
            content["arrays"] = model
        message = Message(content, dst_node_id=node_id_of(name), message_type=kind, group_id=group)
        set_message_id(message, f"run.r{group}.{kind}.{name}")
        made.append(message)
    running.grid.sites()
    return made


async def refusal(awaitable):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return error_of(caught.value)
