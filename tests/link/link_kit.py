"""A site's folder, and a server that does what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedwon.client.config import ClientConfig
from fedwon.client.link.site_link import Link
from fedwon.common.arrays import open_record, write_record
from fedwon.common.config import parse
from fedwon.common.pki import (
    Authority,
    Credentials,
    create_authority,
    issue_server,
    new_key,
    request,
    save_credentials,
    sign_request,
)
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS
from fedwon.common.wire.records import records_to_wire

SURVEY = {"good": {"train": 8, "validation": 2, "test": 1}, "bad": {"train": 4, "validation": 1, "test": 0}}


class Federation:
    """An authority, its server's certificate and a site's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority: Authority = create_authority(folder / "pki", "test")
        self.trusted = self.authority.pem
        self.credentials = issue_server(self.authority, ["127.0.0.1"])

    def site(self, name: str = "line-1", *, days: float = 30) -> Path:
        place = self.folder / name
        key = new_key()
        certificate = sign_request(self.authority, request(name, key), name, days)
        save_credentials(place / "pki", "site", Credentials(self.authority.pem, certificate, key))
        return place

    def tls(self, *, mutual: bool = True) -> grpc.ServerCredentials:
        pair = (self.credentials.key, self.credentials.certificate)
        root = self.trusted if mutual else None
        return grpc.ssl_server_credentials([pair], root, require_client_auth=mutual)


class Server(rpc.FederationServicer):
    """Answers each session as the next script says; the last one is used again."""

    def __init__(self) -> None:
        self.scripts: list[Script] = [stay]
        self.hellos: list[pb.Hello] = []
        self.got: list[pb.FromSite] = []
        self.submitted: list[tuple[pb.SubmitHeader, bytes]] = []
        self.fetches: list[pb.FetchRequest] = []
        self.blobs: dict[str, bytes] = {}
        self.lost = "refused"  # what it says where it has not got a file
        self.submits: list[Callable[[grpc.aio.ServicerContext], Awaitable[None]]] = []
        self.renewed = 0
        self.answering = True
        self.authority: Authority | None = None

    async def Session(self, requests, context):  # noqa: N802
        message = await context.read()
        self.hellos.append(message.hello)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        reading = asyncio.create_task(self._read(context))
        try:
            await script(self, context)
        finally:
            reading.cancel()

    async def _read(self, context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            self.got.append(message)
            if message.WhichOneof("body") == "heartbeat" and self.answering:
                await context.write(pb.FromServer(heard=pb.Heard()))

    async def Fetch(self, request, context):  # noqa: N802
        self.fetches.append(request)
        data = self.blobs.get(request.digest)
        if data is None:
            await refuse(context, self.lost)
        for start in range(request.offset, len(data), 1000):
            yield pb.Chunk(data=data[start : start + 1000])

    async def Submit(self, requests, context):  # noqa: N802
        first = await anext(aiter(requests))
        if self.submits:
            await self.submits.pop(0)(context)
        await context.send_initial_metadata((("fedwon-offset", "0"),))
        data = b"".join([piece.data async for piece in requests])
        self.submitted.append((first.header, data))
        return pb.SubmitReply()

    async def Renew(self, request, context):  # noqa: N802
        self.renewed += 1
        return pb.RenewReply(certificate=sign_request(self.authority, request.certificate_request, "line-1"))


Script = Callable[[Server, grpc.aio.ServicerContext], Awaitable[None]]


async def refuse(context, slug: str = "refused", text: str = "Not waited for.") -> None:
    status = grpc.StatusCode.PERMISSION_DENIED if slug == "refused" else grpc.StatusCode.INTERNAL
    await context.abort(status, text, (("fedwon-error", slug), ("fedwon-version", VERSION)))


def welcome(heartbeat: float = 0.2, version: str = VERSION) -> pb.FromServer:
    return pb.FromServer(welcome=pb.Welcome(site="line-1", version=version, heartbeat_seconds=heartbeat))


async def stay(server: Server, context) -> None:
    await context.write(welcome())
    await asyncio.sleep(60)


def saying(*messages: pb.FromServer, then: float = 60.0) -> Script:
    async def script(server: Server, context) -> None:
        for message in messages:
            await context.write(message)
        await asyncio.sleep(then)

    return script


def finished(state: str = "finished") -> pb.FromServer:
    return pb.FromServer(finished=pb.Finished(run="run", state=state))


@asynccontextmanager
async def listening(federation: Federation, server: Server, port: int = 0) -> AsyncIterator[str]:
    grpc_server = grpc.aio.server(options=CHANNEL_OPTIONS)
    rpc.add_FederationServicer_to_server(server, grpc_server)
    server.authority = federation.authority
    bound = grpc_server.add_secure_port(f"127.0.0.1:{port}", federation.tls())
    await grpc_server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await grpc_server.stop(0)


def make_link(
    address: str, folder: Path, *, until_finished: bool = True, patience: float = 60.0, survey=lambda: SURVEY, **more
) -> Link:
    config = parse(ClientConfig, {"server": address, "data": {"path": "images"}, "threads": 1}, "test")
    return Link(config, folder, survey, until_finished=until_finished, patience=patience, **more)


async def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # whatever it is has no event to wait for
            await asyncio.sleep(0.01)


def arrays(seed: int = 0) -> ArrayRecord:
    values = np.random.default_rng(seed).normal(size=(7, 5)).astype(np.float32)
    return ArrayRecord({"weight": Array(ndarray=values), "bias": Array(ndarray=values[0])})


def outcome(seed: int = 0) -> RecordDict:
    return RecordDict({"arrays": arrays(seed), "metrics": MetricRecord({"num-examples": 12, "train-loss": 0.25})})


def offer(folder: Path, task_id: str = "run.r0001.train.line-1", seed: int = 0) -> tuple[pb.Offer, bytes]:
    """Make a task about a model, and the model's bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model-{seed}.safetensors"
    write_record(arrays(seed), path)
    content = RecordDict({"arrays": open_record(path), "config": ConfigRecord({"run": "run"})})
    return pb.Offer(task_id=task_id, kind="train", group_id="1", records=records_to_wire(content)), path.read_bytes()
