"""Flower's records over the wire: what comes back equals what was sent, and what is unknown is refused."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.arrays import open_record, write_record
from fedwon.common.errors import LinkError
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import blob_of, records_from_wire, records_to_wire

INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = [st.booleans(), INTS, FLOATS, TEXTS, st.binary()]
CONFIG = st.dictionaries(TEXTS, st.one_of(*SCALARS, *(st.lists(kind, max_size=5) for kind in SCALARS)), max_size=8)
NUMBERS = st.one_of(INTS, FLOATS, st.lists(INTS, max_size=5), st.lists(FLOATS, max_size=5))
METRICS = st.dictionaries(TEXTS, NUMBERS, max_size=8)


def there_and_back(content, open_blob=None):
    wire = [pb.Record.FromString(record.SerializeToString()) for record in records_to_wire(content)]
    return records_from_wire(wire, open_blob or (lambda blob: pytest.fail("no arrays were sent")))


def typed(values):
    return {key: (type(value), value) for key, value in values.items()}


@given(CONFIG, METRICS)
def test_round_trip(config, metrics):
    content = RecordDict({"config": ConfigRecord(config), "metrics": MetricRecord(metrics)})
    back = there_and_back(content)
    assert list(back) == ["config", "metrics"]
    assert isinstance(back["config"], ConfigRecord)
    assert isinstance(back["metrics"], MetricRecord)
    assert typed(back["config"]) == typed(config)
    assert typed(back["metrics"]) == typed(metrics)


@pytest.mark.parametrize("value", [True, False, 0, -1, 0.0, "", b"", [True], [0], [""], [b""], []])
def test_values_that_protobuf_could_take_for_nothing(value):
    back = there_and_back(RecordDict({"c": ConfigRecord({"key": value})}))["c"]["key"]
    assert (type(back), back) == (type(value), value)


def test_an_empty_list_travels_as_texts():
    wire = records_to_wire(RecordDict({"c": ConfigRecord({"key": []})}))
    assert wire[0].config.entries[0].WhichOneof("value") == "texts"


def test_numbers_of_numpy_that_flower_lets_through():
    back = there_and_back(RecordDict({"m": MetricRecord({"one": np.float64(0.5), "many": [np.float64(1.5)]})}))
    assert typed(back["m"]) == typed({"one": 0.5, "many": [1.5]})


def test_arrays_travel_as_the_digest_of_their_file(tmp_path):
    record = ArrayRecord({"w": Array(ndarray=np.zeros(2))})
    blob = write_record(record, tmp_path / "m")
    content = RecordDict({"arrays": open_record(tmp_path / "m"), "config": ConfigRecord({"a": 1})})
    wire = records_to_wire(content)
    assert blob_of(wire) == pb.Blob(digest=blob.digest, size=blob.size)
    opened = []
    back = records_from_wire(wire, lambda named: opened.append(named) or open_record(tmp_path / "m"))
    assert opened == [pb.Blob(digest=blob.digest, size=blob.size)]
    assert list(back.array_records) == ["arrays"]
    assert blob_of([]) is None


def test_arrays_in_memory_do_not_travel():
    with pytest.raises(TypeError, match="written to a file"):
        records_to_wire(RecordDict({"arrays": ArrayRecord()}))


def test_one_record_of_arrays_at_most(tmp_path):
    write_record(ArrayRecord(), tmp_path / "m")
    stored = open_record(tmp_path / "m")
    with pytest.raises(TypeError, match="one record of arrays"):
        records_to_wire(RecordDict({"a": stored, "b": stored}))


def test_an_integer_that_no_field_holds():
    with pytest.raises(ValueError):
        records_to_wire(RecordDict({"c": ConfigRecord({"key": 2**63})}))


def metrics(entry):
    return pb.Record(name="m", metrics=pb.Scalars(entries=[entry]))


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (pb.Record(name="new"), "record 'new' of a kind"),
        (pb.Record(name="c", config=pb.Scalars(entries=[pb.Entry(key="new")])), "'new' with a value of a type"),
        (pb.Record(name="m", metrics=pb.Scalars(entries=[pb.Entry(key="k", text="x")])), "metrics 'm'"),
        (
            pb.Record(name="m", metrics=pb.Scalars(entries=[pb.Entry(key="k", raws=pb.Raws(items=[b""]))])),
            "metrics 'm'",
        ),
    ],
)
def test_what_this_version_does_not_know(record, text):
    with pytest.raises(LinkError, match=text):
        records_from_wire([record], lambda blob: ArrayRecord())


def test_names_of_a_peer_do_not_reach_the_terminal_as_they_are():
    with pytest.raises(LinkError) as caught:
        records_from_wire([pb.Record(name="\x1b[2J" + "x" * 10_000)], lambda blob: ArrayRecord())
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
