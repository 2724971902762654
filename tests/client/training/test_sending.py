"""An update as it leaves a site: in the codec that was asked for, with what the last ones owe, and only once."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedwon.client.training.sending import encoded
from fedwon.common.codec import CODECS, TRAFFIC, codec_of, named
from fedwon.common.codec.coding import decode
from tests.client.site_kit import task_of


def arrays(seed: int, shape=(4, 64), name="w") -> ArrayRecord:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return ArrayRecord({name: Array(ndarray=values)})


def asked(codec: str) -> RecordDict:
    return RecordDict({"arrays": arrays(0), TRAFFIC: named(codec)})


def send(update, state, codec="int8", number=1, site="line1") -> dict:
    return encoded(update, asked(codec), state, task_of(number=number), site)


def bits(sent) -> dict[str, bytes]:
    return {name: array.numpy().tobytes() for name, array in sent["arrays"].items()}


def arrived(sent) -> np.ndarray:
    return decode(sent["arrays"], arrays(0))["w"].numpy()


@pytest.mark.parametrize("codec", CODECS)
def test_the_reply_names_the_codec(codec):
    sent = send(arrays(1), RecordDict(), codec)
    assert codec_of(RecordDict(sent)) == codec
    assert "w" not in sent["arrays"]


@pytest.mark.parametrize(
    "request_", [{}, {TRAFFIC: ConfigRecord({"codec": "later"})}, {TRAFFIC: ConfigRecord({"codec": 7})}]
)
def test_nothing_asked_or_nothing_known_it_is_plain(request_):
    update, state = arrays(1), RecordDict()
    sent = encoded(update, RecordDict({"arrays": arrays(0), **request_}), state, task_of(), "line1")
    assert sent == {"arrays": update}
    assert list(state) == []


def test_what_does_not_fit_the_model_is_sent_as_it_is_for_admission_to_see():
    for update in (arrays(1, (5, 64)), arrays(1, name="other")):
        assert send(update, RecordDict()) == {"arrays": update}


def test_a_round_done_again_owes_the_same_and_the_next_one_what_is_left():
    state = RecordDict()
    first = bits(send(arrays(1), state, number=1))
    second = bits(send(arrays(2), state, number=2))
    assert bits(send(arrays(2), state, number=2)) == second  # the power failed before it was sent
    third = bits(send(arrays(3), state, number=3))
    assert third != bits(send(arrays(3), RecordDict(), number=3))
    assert first == bits(send(arrays(1), RecordDict(), number=1))


def test_nothing_is_lost_for_good():
    state, sent, came = RecordDict(), 0.0, 0.0
    for number in range(1, 41):
        update = arrays(number % 5 + 1)
        sent, came = sent + update["w"].numpy(), came + arrived(send(update, state, "topk", number))
    owed = next(iter(state.array_records[f"run-1.feedback.r{40:04d}"].values())).numpy()
    np.testing.assert_allclose(came + owed, sent, atol=1e-3)


def test_rounding_follows_from_seed_site_and_round():
    one = bits(send(arrays(1), RecordDict()))
    assert one == bits(send(arrays(1), RecordDict()))
    assert one != bits(send(arrays(1), RecordDict(), site="line2"))
    assert one != bits(send(arrays(1), RecordDict(), number=2))
