"""The wire of every released version: today's code reads it, and what today's code sends is read by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.app import ArrayRecord
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from fedwon.common.errors import ConfigError
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import records_from_wire, records_to_wire
from tests.golden import write

FOLDER = Path(write.__file__).parent


def golden(what: str) -> list[Path]:
    """The files of versions that may still talk to this one."""
    found = sorted(FOLDER.glob(f"{what}-*.json"))
    return [path for path in found if compatible(VERSION, path.stem.removeprefix(f"{what}-"))]


def by_name(path: Path) -> str:
    return path.stem


@pytest.fixture(params=golden("wire"), ids=by_name)
def old(request):
    return json.loads(request.param.read_text())


@pytest.fixture
def old_peer(old):
    """Message classes as that version compiled them."""
    pool = DescriptorPool()
    described = FileDescriptorProto.FromString(bytes.fromhex(old["descriptor"]))
    file = pool.AddSerializedFile(described.SerializeToString()) or pool.FindFileByName(described.name)
    return {name: GetMessageClass(kind) for name, kind in file.message_types_by_name.items()}


def test_there_is_one_of_this_version():
    assert f"wire-{VERSION}" in {path.stem for path in golden("wire")}
    assert f"task-{VERSION}" in {path.stem for path in golden("task")}


def test_today_reads_what_it_sent(old):
    assert len(old["messages"]) > 40
    for message in old["messages"]:
        read = getattr(pb, message["kind"]).FromString(bytes.fromhex(message["hex"]))
        assert MessageToDict(read) == message["says"], message["kind"]


def test_today_reads_its_records(old):
    wire = [pb.Record.FromString(bytes.fromhex(text)) for text in old["records"]]
    assert records_from_wire(wire, lambda blob: ArrayRecord()) == write.records()


def test_it_reads_what_today_sends(old, old_peer):
    """A field may come, and none may go, change its number or its type."""
    for name, kind in old_peer.items():
        known = {(field.name, field.number, field.type, field.is_repeated) for field in kind.DESCRIPTOR.fields}
        now = pb.DESCRIPTOR.message_types_by_name[name]
        assert known <= {(field.name, field.number, field.type, field.is_repeated) for field in now.fields}, name
        for message in write.filled(now):
            kind.FromString(message.SerializeToString())
    told = [old_peer["Record"].FromString(record.SerializeToString()) for record in records_to_wire(write.records())]
    assert [record.SerializeToString(deterministic=True).hex() for record in told] == old["records"]


def test_services_stay(old):
    before = FileDescriptorProto.FromString(bytes.fromhex(old["descriptor"]))
    for service in before.service:
        now = pb.DESCRIPTOR.services_by_name[service.name]
        for method in service.method:
            same = now.methods_by_name[method.name]
            assert f".{same.input_type.full_name}" == method.input_type
            assert f".{same.output_type.full_name}" == method.output_type


def test_it_ignores_what_a_later_version_adds(old, old_peer):
    for message in old["messages"]:
        later = bytes.fromhex(message["hex"]) + write.LATER
        assert MessageToDict(old_peer[message["kind"]].FromString(later)) == message["says"]
        assert MessageToDict(getattr(pb, message["kind"]).FromString(later)) == message["says"]


@pytest.fixture(params=golden("task"), ids=by_name)
def old_tasks(request):
    return json.loads(request.param.read_text())


def test_a_site_understands_tasks_of_that_server(old_tasks):
    for name, flat in old_tasks.items():
        assert TaskConfig.from_flat(flat).run == "run", name


def test_that_site_understands_tasks_of_this_server(old_tasks):
    """It refuses keys that it does not know, so what came later travels only where somebody asked for it."""
    now = json.loads(json.dumps(write.tasks()))
    for name, flat in old_tasks.items():
        assert now[name] == flat


def test_a_key_of_a_later_version_is_refused_and_not_overlooked(old_tasks):
    with pytest.raises(ConfigError, match="later"):
        TaskConfig.from_flat({**old_tasks["default"], "training.later": 1})
