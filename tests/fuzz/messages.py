"""Decoders of protobuf messages: what the server makes of a site's, and a site of the server's.

gRPC itself refuses bytes that are no message at all, so those are no case for us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

import grpc
from flwr.app import ConfigRecord, RecordDict
from google.protobuf.message import DecodeError, Message

from fedwon.client.link.journal import ModelCache, check_name
from fedwon.client.link.site_link import _sensible
from fedwon.common.certificates import claimed_name, read_certificates, requested_key
from fedwon.common.codec import codec_of
from fedwon.common.errors import FedwonError, by_slug
from fedwon.common.pki import new_key, request
from fedwon.common.surveys import summed
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import blob_of, records_from_wire, records_to_wire, settings_of
from fedwon.common.wire.release_orders import gates_from_wire
from fedwon.common.wire.surveys import survey_from_wire
from fedwon.server.admission.rules import Landed, refuse
from fedwon.server.auditing import Refusals
from fedwon.server.identity import sites
from fedwon.server.identity.enrolling import EnrolmentService
from fedwon.server.link import service
from fedwon.server.link.hub import Hub
from fedwon.server.link.service import FederationService
from fedwon.server.releases.desk import Desk
from fedwon.server.rounds.notes import notes_of
from fedwon.server.rounds.site_grid import metrics_of
from fedwon.server.store import Store, now
from tests.fuzz.files import base, scratch
from tests.fuzz.texts import authority

SITE = "line-1"


def parsed(kind: type[Message], data: bytes) -> Any:
    """Return the message, or None for bytes that gRPC does not hand on."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    return message


class Call:
    """A call at the server's end, in which a site says these messages and hangs up."""

    def __init__(self, *said: Message) -> None:
        self._said = list(said)

    async def read(self) -> object:
        return self._said.pop(0) if self._said else grpc.aio.EOF

    def peer(self) -> str:
        return "ipv4:192.0.2.1:5"


@cache
def server() -> FederationService:
    """The real service over a real database, with what it writes down at most every tenth of a second not limited."""
    service.NEWS_SECONDS = 0.0
    store = Store(scratch() / "fedwon.db")
    sites.enrolled(store, SITE, now() + timedelta(days=30))
    hub = Hub(5.0)
    return FederationService(hub, store, lambda: None, Desk(hub, store, scratch()))


def session(data: bytes) -> None:
    """A hello of any content, and then the same bytes as a message of a session that stands."""
    if (said := parsed(pb.FromSite, data)) is not None:
        asyncio.run(_converse(said))


async def _converse(said: pb.FromSite) -> None:
    hub = server()._hub
    try:
        hello = await service._hello(Call(said))
        service.check_version(hello.version)
    except FedwonError:
        hello = pb.Hello(version=VERSION, instance="one")
    opened = hub.open(SITE, hello)
    try:
        await server()._note_connected(opened, hello.version)
        await server()._note_availability(opened)
        await server()._listen(opened, Call(said))
        hub._asked = True
        hub._remind(opened)
    finally:
        hub.close(opened)


def session_seeds() -> Iterator[bytes]:
    data = [pb.ClassCount(name="good", train=8, validation=2)]
    away = pb.Availability(available=False, seconds=60, reason="night")
    figures = pb.Figures(images=3, correct=2)
    for said in (
        pb.FromSite(hello=pb.Hello(version=VERSION, instance="a", data=data, unfinished=["x"], codecs=["int8"])),
        pb.FromSite(hello=pb.Hello(version=VERSION, availability=away, releases=True)),
        pb.FromSite(heartbeat=pb.Heartbeat(task_id="t", done=1, total=2)),
        pb.FromSite(failed=pb.TaskFailed(task_id="t", error="data", message="no images")),
        pb.FromSite(availability=away),
        pb.FromSite(survey=pb.Survey(data=data)),
        pb.FromSite(released=pb.ReleaseAnswer(order="1", state="in use", release="r", figures=figures)),
    ):
        yield said.SerializeToString()


def submission(data: bytes) -> None:
    """The header of an outcome, as the server makes an answer of it and admission looks at its numbers."""
    header = parsed(pb.SubmitHeader, data)
    if header is None:
        return
    blob_of(header.records)
    content = records_from_wire(header.records, lambda _: base())
    notes_of(content)
    codec_of(content)
    refuse(Landed(base(), metrics_of(content), {"bad": {"train": 20}}), base())


def submission_seeds() -> Iterator[bytes]:
    numbers = {"num-examples": 8, "validation-correct": 3, "validation-examples": 4}
    entries = [pb.Entry(key=key, int=value) for key, value in numbers.items()]
    entries += [pb.Entry(key="validation-loss", float=0.5)]
    notes = pb.Entry(key="corrupt", texts=pb.Texts(items=["a.png"]))
    records = [
        pb.Record(name="arrays", arrays=pb.Blob(digest="0" * 64, size=9)),
        pb.Record(name="metrics", metrics=pb.Scalars(entries=entries)),
        pb.Record(name="notes", config=pb.Scalars(entries=[notes])),
        pb.Record(name="traffic", config=pb.Scalars(entries=[pb.Entry(key="codec", text="int8")])),
    ]
    yield pb.SubmitHeader(task_id="run.r0001.train.line-1", records=records, seconds=1.5).SerializeToString()


def enrolment(data: bytes) -> None:
    """A token and a certificate request of anybody who reaches the port."""
    said = parsed(pb.EnrollRequest, data)
    if said is None:
        return
    enrolling()._enroll(said, "192.0.2.1")


@cache
def enrolling() -> EnrolmentService:
    store = server()._store
    attempts = SimpleNamespace(failed=lambda _: 0.0)  # every one is looked at
    trust = SimpleNamespace(signer=lambda bundle: authority(), bundle=b"")
    return EnrolmentService(store, lambda: trust, "127.0.0.1:1", attempts, Refusals(store))


def enrolment_seeds() -> Iterator[bytes]:
    wanted = request("site", new_key())
    yield pb.EnrollRequest(token="x" * 32, certificate_request=wanted, version=VERSION).SerializeToString()
    for _ in range(2):
        token = sites.make_token(server()._store, SITE, actor="fuzz")
        yield pb.EnrollRequest(token=token, certificate_request=wanted, version=VERSION).SerializeToString()


def offer(data: bytes) -> None:
    """What a site makes of a message of its server."""
    said = parsed(pb.FromServer, data)
    if said is None:
        return
    match said.WhichOneof("body"):
        case "welcome":
            compatible(VERSION, said.welcome.version)
            assert 0.2 <= _sensible(said.welcome.heartbeat_seconds) <= 600
            read_certificates(said.welcome.authorities, "what the server trusts")
        case "offer":
            _offered(said.offer)
        case "committed":
            [check_name(name) for name in said.committed.task_ids]
        case "trust":
            read_certificates(said.trust.authorities, "what the server trusts")
        case "release":
            gates_from_wire(said.release.gates)


def _offered(task: pb.Offer) -> None:
    check_name(task.task_id)
    cache = ModelCache(scratch() / "models")
    for blob in (*([one] if (one := blob_of(task.records)) else []), *(delta.file for delta in task.deltas)):
        assert cache.partial(blob).parent == cache.folder
    content = records_from_wire(task.records, lambda _: base())
    assert isinstance(content, RecordDict)
    codec_of(content)
    TaskConfig.from_flat(settings_of(task.records))


def told() -> ConfigRecord:
    parts: dict[str, Any] = {"model": {}, "images": {}, "training": {}, "classes": ("a", "b"), "normalization": "none"}
    return ConfigRecord(TaskConfig.model_validate({"run": "r", "round": 1, "seed": 1, **parts}).flat())


def offer_seeds() -> Iterator[bytes]:
    records = records_to_wire(RecordDict({"arrays": base(), "config": told()}))
    task = pb.Offer(task_id="run.r0001.train.line-1", kind="train", group_id="1", records=records, packing="zstd")
    pem = authority().pem
    gates = pb.Gates(accuracy=0.5, defects=["crack"], images=3)
    for said in (
        pb.FromServer(welcome=pb.Welcome(site=SITE, version=VERSION, heartbeat_seconds=15, authorities=pem)),
        pb.FromServer(offer=task),
        pb.FromServer(committed=pb.Committed(run="r", round=1, task_ids=["t"])),
        pb.FromServer(release=pb.ReleaseOrder(id="1", kind="promote", release="r", gates=gates)),
    ):
        yield said.SerializeToString()


def survey(data: bytes) -> None:
    """The counts of images that a relay adds up."""
    if (said := parsed(pb.Survey, data)) is not None:
        found = survey_from_wire(said.data)
        total = summed([found, found])
        assert all(0 <= count <= 2**53 for parts in total.values() for count in parts.values())


def survey_seeds() -> Iterator[bytes]:
    rows = [pb.ClassCount(name="good", train=2**64 - 1), pb.ClassCount(name="x" * 300, test=1)]
    yield pb.Survey(data=rows).SerializeToString()


def prospect(data: bytes) -> None:
    """What `fedwon-client check` reads."""
    if (said := parsed(pb.ProspectReply, data)) is not None:
        TaskConfig.from_flat({"classes": ["a", "b"], **settings_of(said.records)})


def prospect_seeds() -> Iterator[bytes]:
    yield pb.ProspectReply(records=records_to_wire(RecordDict({"config": told()}))).SerializeToString()


def certificate_request(data: bytes) -> None:
    claimed_name(data)
    requested_key(data)


def request_seeds() -> Iterator[bytes]:
    yield request("site", new_key())


def refusal(data: bytes) -> None:
    """The slug in a call's trailing metadata."""
    raise by_slug(data.decode("latin-1"))("refused")


def refusal_seeds() -> Iterator[bytes]:
    yield b"token-used"


DECODERS: dict[str, tuple[Callable[[bytes], object], Callable[[], Iterable[bytes]]]] = {
    "session": (session, session_seeds),
    "submission": (submission, submission_seeds),
    "enrolment": (enrolment, enrolment_seeds),
    "offer": (offer, offer_seeds),
    "survey": (survey, survey_seeds),
    "prospect": (prospect, prospect_seeds),
    "certificate_request": (certificate_request, request_seeds),
    "refusal": (refusal, refusal_seeds),
}
