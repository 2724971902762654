"""Write what the present version keeps and sends, for later versions to be tested against.

`python -m tests.golden.write` at a release: it adds files for this version and this schema, and replaces none.

* `database-<revision>.sql`: a database of that schema after a run, another one in the middle, sites and tokens.
* `wire-<version>.json`: the descriptor of fedwon.v1, one message of every kind with every field set, in hexadecimal and
  in words, and the records of a task.
* `task-<version>.json`: the flat form in which a task travels, for a run that says nothing and one by the paper.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import records_to_wire
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.identity import sites
from fedwon.server.runs.federating import federate
from fedwon.server.runs.run import Run
from fedwon.server.store import Store
from tests.e2e.fleet import images, run_config

HERE = Path(__file__).resolve().parent
NAMES = ("metal", "paper")
SAMPLES = {
    FieldDescriptor.TYPE_STRING: "words",
    FieldDescriptor.TYPE_BYTES: b"\x00bytes\xff",
    FieldDescriptor.TYPE_BOOL: True,
    FieldDescriptor.TYPE_DOUBLE: 0.1,
    FieldDescriptor.TYPE_UINT64: 2**63 + 1,
    FieldDescriptor.TYPE_SINT64: -(2**62),
}


LATER = bytes.fromhex("c23e056c61746572")
"""Field 1000, text "later": what a later version may add to any message."""


def with_a_later_field(message: Message) -> Message:
    """Return a message with a field that this version does not know."""
    return type(message).FromString(message.SerializeToString() + LATER)


def filled(kind: Descriptor) -> Iterator[Message]:
    """Yield a message of that kind with every field set: several where a oneof has several."""
    chosen = max([len(oneof.fields) for oneof in kind.oneofs], default=1)
    for number in range(chosen):
        message = GetMessageClass(kind)()
        for field in kind.fields:
            oneof = field.containing_oneof
            if oneof is None or oneof.fields[number % len(oneof.fields)] is field:
                _fill(message, field)
        yield message


def _fill(message: Message, field: FieldDescriptor) -> None:
    if field.message_type is None:
        sample = SAMPLES[field.type]
        if field.is_repeated:
            getattr(message, field.name).extend([sample, sample])
        else:
            setattr(message, field.name, sample)
    elif field.is_repeated:
        for one in filled(field.message_type):
            getattr(message, field.name).add().CopyFrom(one)
    else:
        part = getattr(message, field.name)
        part.SetInParent()
        part.CopyFrom(next(filled(field.message_type)))


def records() -> RecordDict:
    """Return records as a task carries them, with a value of every type."""
    config = {"text": "ä", "number": -5, "share": 0.1, "yes": True, "raw": b"\x00\xff", "empty": []}
    lists = {"texts": ["a", "b"], "numbers": [1, -2], "shares": [0.5, 1e-300], "flags": [True, False], "raws": [b"x"]}
    metrics = {"num-examples": 12, "train-loss": 0.25, "several": [1.5, 2.5]}
    return RecordDict({"config": ConfigRecord({**config, **lists}), "metrics": MetricRecord(metrics)})


def wire() -> dict[str, object]:
    """Return what stands in `wire-<version>.json`."""
    messages = [
        {"kind": name, "hex": message.SerializeToString(deterministic=True).hex(), "says": MessageToDict(message)}
        for name, kind in sorted(pb.DESCRIPTOR.message_types_by_name.items())
        for message in filled(kind)
    ]
    return {
        "descriptor": pb.DESCRIPTOR.serialized_pb.hex(),
        "messages": messages,
        "records": [record.SerializeToString(deterministic=True).hex() for record in records_to_wire(records())],
    }


def tasks() -> dict[str, dict[str, object]]:
    """Return what stands in `task-<version>.json`."""
    runs = {"default": RunConfig(), "paper": RunConfig(recipe="paper")}
    classes = ("bad", "good")
    return {
        name: TaskConfig.of(config, run="run", server_round=1, classes=classes).flat() for name, config in runs.items()
    }


def database(folder: Path) -> tuple[str, str]:
    """Run a small federation; return the revision of its database and the database as SQL."""
    store = Store(folder / "fedwon.db")
    for name in (*NAMES, "glass"):
        site = sites.redeem_token(store, sites.make_token(store, name))
        sites.enrolled(store, site, datetime.now(UTC) + timedelta(days=30))
        sites.connected(store, site, VERSION, {"0": {"train": 16, "validation": 4, "test": 5}})
    sites.make_token(store, "open")
    sites.disconnected(store, "glass")
    data = {name: SiteConfig(data=DataConfig(path=str(images(folder / f"{name}.npz"))), threads=1) for name in NAMES}
    federate(InProcessGrid(data, folder), run_config(), store, folder)
    broken_off = Run.create(store, folder, run_config({"name": "second", "rounds": 5}), ("0", "1", "2", "3"))
    broken_off.sent(f"{broken_off.id}.r0001.train.metal", 1, "metal", "train")
    broken_off.set_state("stopped", "The server was stopped.")
    store.close()
    connection = sqlite3.connect(folder / "fedwon.db")
    [(revision,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    text = "\n".join(connection.iterdump()) + "\n"
    connection.close()
    return revision, text


def _keep(name: str, text: str) -> None:
    path = HERE / name
    if path.exists():
        print(f"{name} is there and stays as it is")
        return
    path.write_text(text, encoding="utf-8")
    print(f"wrote {name}")


def main() -> None:
    """Write what is not there yet."""
    from fedwon.common.flower import host_app

    host_app()
    with tempfile.TemporaryDirectory() as folder:
        revision, text = database(Path(folder))
    _keep(f"database-{revision}.sql", text)
    _keep(f"wire-{VERSION}.json", json.dumps(wire(), indent=1) + "\n")
    _keep(f"task-{VERSION}.json", json.dumps(tasks(), indent=1) + "\n")


if __name__ == "__main__":
    main()
