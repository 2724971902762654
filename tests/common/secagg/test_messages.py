"""What travels in a sitting: whatever came, it is the message or a refusal."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.errors import TaskFailed
from fedwon.common.secagg.messages import Circle, Keys, MaskOrder, Opening, Revealed, Setup, Shares, pack, read, unpack
from fedwon.common.wire.records import records_from_wire, records_to_wire

texts, raws = st.text(max_size=8), st.binary(max_size=8)
lists = {str: st.lists(texts, max_size=3).map(tuple), bytes: st.lists(raws, max_size=3).map(tuple)}
messages = st.one_of(
    st.builds(Setup, texts),
    st.builds(Keys, texts, raws, raws, raws),
    st.builds(Circle, texts, st.integers(0, 99), lists[str], lists[bytes], lists[bytes], lists[bytes]),
    st.builds(Shares, texts, lists[str], lists[bytes], raws),
    st.builds(
        MaskOrder, texts, lists[str], lists[bytes], st.floats(0, 9), st.floats(0, 9), st.booleans(), st.integers(0, 99)
    ),
    st.builds(Opening, texts, lists[str], lists[str]),
    st.builds(Revealed, texts, lists[str], lists[bytes], lists[str], lists[bytes]),
)
values = st.one_of(st.integers(-5, 5), st.floats(0, 1), st.booleans(), texts, raws, st.lists(texts, max_size=2))


@given(messages)
def test_a_message_travels_without_a_change(message):
    wire = records_to_wire(RecordDict({"secure": pack(message)}))
    arrived = records_from_wire(wire, lambda blob: pytest.fail("no arrays"))
    assert unpack(type(message), arrived) == message


@given(
    st.sampled_from([Setup, Keys, Circle, Shares, MaskOrder, Opening, Revealed]),
    st.dictionaries(texts, values),
    messages,
)
def test_anything_else_is_refused(kind, more, message):
    record = ConfigRecord({**pack(message), **more})
    try:
        found = read(kind, record)
    except TaskFailed as error:
        assert f"is no {kind.__name__}" in error.message  # noqa: PT017  # it may also be one
    else:
        assert dict(pack(found)) == dict(record)


def test_a_message_without_the_record():
    with pytest.raises(TaskFailed, match="has no record `secure`"):
        unpack(Setup, RecordDict())
