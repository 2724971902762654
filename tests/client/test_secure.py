"""An update as it leaves the site in secure aggregation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedwon.client import sitting as seat
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.secure import Masking, circle_secret, masking_of
from fedwon.client.site import Site
from fedwon.common.errors import ConfigError, KeyExposed, TaskFailed, UnsafeRequest
from fedwon.common.files import write_private
from fedwon.common.flower import host_app, incoming, make_context
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.masking import apply_masks
from fedwon.common.secagg.messages import pack
from fedwon.common.secagg.stages import SECURE
from fedwon.server.secure.sitting import Sitting

NAMES = ("a", "b", "c")
SITE = Site("a", SiteConfig(data=DataConfig(path="x")), Path())


def record(**arrays) -> ArrayRecord:
    made = ArrayRecord()
    for name, values in arrays.items():
        made[name] = Array(ndarray=np.asarray(values))
    return made


BASE = record(w=np.ones((2, 3), np.float32), b=np.zeros(4, np.float32))


@pytest.fixture
def asked():
    """A task with an order to mask, the site's context, and what takes the masks off again."""

    def make(clip_norm=8.0, largest_weight=10.0, by_examples=True) -> tuple[Message, object]:
        host_app()
        contexts = {name: make_context(1, {}) for name in NAMES}
        server = Sitting()
        circles = server.circles({name: seat.set_up(contexts[name].state, server.setup, name) for name in NAMES})
        shares = {name: seat.share_keys(contexts[name].state, circles[name], name) for name in NAMES}
        orders = server.orders(shares, clip_norm=clip_norm, largest_weight=largest_weight, by_examples=by_examples)
        content = RecordDict({SECURE: pack(orders["a"])})
        message = incoming(content, "train", node_id=1, message_id="train", group_id="1")
        return message, contexts["a"]

    return make


def masking_at(message, context) -> Masking:
    return Masking(message, context, SITE, "run", 1)


def unmasked(message, context, update, examples=5):
    """What a site sends, its masks taken off by its own secrets."""
    masking = masking_at(message, context)
    made, shortened = masking.mask(update, BASE, examples)
    words = {name: array.numpy().reshape(-1).view(np.uint32).copy() for name, array in made.items()}
    rows = [words[name] for name in sorted(words)]
    apply_masks(rows, [mask._replace(sign=-mask.sign) for mask in seat.masks(masking._seat, "a")])
    return made, {name: row.view(np.int32) for name, row in words.items()}, shortened


def test_the_weighted_difference_in_fixed_point(asked):
    update = record(w=np.full((2, 3), 1.5, np.float32), b=np.full(4, -0.25, np.float32))
    made, words, shortened = unmasked(*asked(), update)
    numbers = FixedPoint(8.0, 3)
    assert shortened == 0
    assert [(name, made[name].dtype, made[name].shape) for name in made] == [
        ("w", "int32", (2, 3)),
        ("b", "int32", (4,)),
    ]
    assert words["w"].tolist() == [round(0.5 * 0.5 / numbers.step)] * 6  # half the difference: 5 of 10 images
    assert words["b"].tolist() == [round(-0.25 * 0.5 / numbers.step)] * 4


@pytest.mark.parametrize(("by_examples", "examples", "weight"), [(False, 5, 1.0), (True, 500, 1.0), (True, 1, 0.1)])
def test_no_weight_is_beyond_the_largest(asked, by_examples, examples, weight):
    update = record(w=np.full((2, 3), 2.0, np.float32), b=np.zeros(4, np.float32))
    _, words, _ = unmasked(*asked(by_examples=by_examples), update, examples)
    assert words["w"].tolist() == [round(weight / FixedPoint(8.0, 3).step)] * 6


def test_a_long_update_is_shortened_to_the_norm(asked):
    update = record(w=np.full((2, 3), 1e6, np.float32), b=np.full(4, -1e6, np.float32))
    _, words, shortened = unmasked(*asked(clip_norm=2.0, by_examples=False), update)
    numbers = FixedPoint(2.0, 3)
    length = np.sqrt(sum((row * numbers.step) @ (row * numbers.step) for row in words.values()))
    assert shortened == 1
    assert length == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_not_masked(asked, bad):
    message, context = asked()
    update = record(w=np.full((2, 3), bad, np.float32), b=np.zeros(4, np.float32))
    masking = masking_at(message, context)
    with pytest.raises(TaskFailed, match="not finite; masked, nobody could find them"):
        masking.mask(update, BASE, 5)


def test_counters_and_other_shapes_cannot_be_masked(asked):
    for update in (record(w=np.zeros((2, 3), np.int64)), record(w=np.zeros(6, np.float32))):
        message, context = asked()
        with pytest.raises(TaskFailed, match="Tensor `w` cannot be masked"):
            masking_at(message, context).mask(update, BASE, 5)


def test_one_update_goes_out_of_a_sitting(asked):
    message, context = asked()
    one, other = masking_at(message, context), masking_at(message, context)
    one.mask(BASE, BASE, 5)
    with pytest.raises(UnsafeRequest):
        other.mask(BASE, BASE, 5)


def test_a_task_without_an_order_is_not_masked(asked):
    message, context = asked()
    assert masking_of(message, context, SITE, "run", 1) is not None
    del message.content[SECURE]
    assert masking_of(message, context, SITE, "run", 1) is None


def test_the_circles_secret(tmp_path):
    def site(circle):
        return Site("a", SiteConfig(data=DataConfig(path="x"), circle=circle), Path(tmp_path))

    write_private(tmp_path / "good", b"0123456789abcdef\n")
    write_private(tmp_path / "short", b"0123456789abcde\n")
    assert circle_secret(site(None)) == b""
    assert circle_secret(site("good")) == b"0123456789abcdef"
    with pytest.raises(ConfigError, match="15 bytes; a circle's secret has 16 at least"):
        circle_secret(site("short"))
    with pytest.raises(ConfigError, match="There is no file"):
        circle_secret(site("gone"))
    (tmp_path / "good").chmod(0o640)
    with pytest.raises(KeyExposed):
        circle_secret(site("good"))
