"""A site without a client: its certificate, the bare calls, and a session that only says that it is there."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import grpc

from fedwon.common.errors import FedwonError
from fedwon.common.pki import load_credentials
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import from_rpc
from tests.e2e.fleet import PATIENCE

BEAT_SECONDS = 0.3


class RawSite:
    """Calls as the site of a folder, or as an outsider without one."""

    def __init__(self, address: str, folder: Path | None, *, root: bytes = b"") -> None:
        held = load_credentials(folder / "pki", "site") if folder else None
        secrets = (held.authority, held.key, held.certificate) if held else (root, None, None)
        self.address = address
        self.channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*secrets))
        self.stub = rpc.FederationStub(self.channel)
        self._outgoing: queue.SimpleQueue[pb.FromSite | None] = queue.SimpleQueue()
        self.call = None

    def connect(self, *classes: str) -> pb.Welcome:
        data = [pb.ClassCount(name=name, train=5, validation=2) for name in classes or "0123"]
        hello = pb.FromSite(hello=pb.Hello(version=VERSION, instance="raw", data=data))
        self.call = self.stub.Session(self._said(hello))
        return self.next("welcome")

    def _said(self, hello: pb.FromSite) -> Iterator[pb.FromSite]:
        yield hello
        while True:
            try:
                message = self._outgoing.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                message = pb.FromSite(heartbeat=pb.Heartbeat())
            if message is None:
                return
            yield message

    def say(self, message: pb.FromSite) -> None:
        self._outgoing.put(message)

    def next(self, kind: str):
        """Wait for a message of a kind; others are passed over."""
        for message in self.call:
            if message.WhichOneof("body") == kind:
                return getattr(message, kind)
        raise AssertionError(f"the session has ended before a {kind}")

    def end(self) -> FedwonError:
        """Read the session to its end; return what it ended with."""
        return self.refusal(lambda: list(self.call))

    def refusal(self, work) -> FedwonError:
        """Do something that the server refuses; return what a site makes of that."""
        try:
            work()
        except grpc.RpcError as error:
            return from_rpc(_Ended(error), self.address)
        raise AssertionError("this was not refused")

    def submit(self, task_id: str) -> None:
        header = pb.SubmitRequest(header=pb.SubmitHeader(task_id=task_id))
        self.stub.Submit(iter([header]), timeout=PATIENCE)

    def fetch(self, digest: str) -> bytes:
        return b"".join(chunk.data for chunk in self.stub.Fetch(pb.FetchRequest(digest=digest), timeout=PATIENCE))

    def close(self) -> None:
        self._outgoing.put(None)
        self.channel.close()


class _Ended:
    """An error of gRPC's blocking calls in the shape of one of its asynchronous ones."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code, self.details, self.trailing_metadata = error.code, error.details, error.trailing_metadata
