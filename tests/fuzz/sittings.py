"""Decoders of secure aggregation: what a site makes of a server's stages, and the server of sites' answers.

Keys and shares are always the same here, so that a kept input gets as far as it got when it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import RecordDict

from fedwon.client import sitting as seat
from fedwon.client.limits import _named
from fedwon.common.secagg import keys, shamir
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.messages import Circle, Keys, MaskOrder, Opening, Revealed, Setup, Shares, pack, unpack
from fedwon.common.secagg.stages import SECURE, SETUP, SHARE_KEYS, UNMASK
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import records_from_wire, records_to_wire
from fedwon.server.secure.sitting import Agreed, Sitting
from tests.fuzz.files import base
from tests.fuzz.messages import parsed

NAME, NAMES = "5177195177195177", ("a", "b", "c")
SEALING, MASKING, SEED = ({name: bytes([kind + place]) * 32 for place, name in enumerate(NAMES)} for kind in (1, 9, 17))
KEYS = {name: Keys(NAME, keys.public_of(SEALING[name]), keys.public_of(MASKING[name]), b"") for name in NAMES}
AROUND = {name: tuple(other for other in NAMES if other != name) for name in NAMES}
SEED_SHARES, KEY_SHARES = (
    {name: shamir.split(secret, 3, 2, lambda _: 7) for name, secret in of.items()} for of in (SEED, MASKING)
)


def _circle(site: str) -> Circle:
    of = [KEYS[name] for name in AROUND[site]]
    return Circle(NAME, 2, AROUND[site], tuple(k.sealing for k in of), tuple(k.masking for k in of), (b"", b""))


def _state(stage: int) -> RecordDict:
    """Site a's state at a stage."""
    circle = _circle("a")
    taken = seat.Seat(NAME, stage, SEALING["a"], MASKING["a"], SEED["a"], SEED_SHARES["a"][0], 2, AROUND["a"])
    taken = seat.replace(taken, sealing=circle.sealing, masking=circle.masking)
    shares = tuple(SEED_SHARES[name][0] for name in AROUND["a"]), tuple(KEY_SHARES[name][0] for name in AROUND["a"])
    if stage == 2:
        taken = seat.replace(taken, masked_with=AROUND["a"], seed_shares=shares[0], key_shares=shares[1])
    return RecordDict({SECURE: pack(taken)})


def stage(data: bytes) -> None:
    """A stage of secure aggregation, as a site goes through it."""
    if (said := parsed(pb.Offer, data)) is None:
        return
    content = records_from_wire(said.records, lambda _: base())
    for key in ("counted", "neighbours"):
        _named(SimpleNamespace(content=content), key)  # type: ignore[arg-type]
    match said.kind.removeprefix("query."):
        case name if name == SETUP:
            seat.set_up(_state(0), unpack(Setup, content), "a")
        case name if name == SHARE_KEYS:
            circle = unpack(Circle, content)
            seat.share_keys(_state(0), circle, "a", b"a secret of this circle" if any(circle.tags) else b"")
        case name if name == UNMASK:
            seat.reveal(_state(2), unpack(Opening, content), "a", lambda *_: None)
        case _:
            order = unpack(MaskOrder, content)
            assert len(seat.masks(seat.take_order(_state(1), order, "a"), "a")) >= 2
            FixedPoint(order.clip_norm, order.sites).encode(np.ones(4), 0.5)


def _offers(name: str, message: object) -> bytes:
    return pb.Offer(kind=name, records=records_to_wire(RecordDict({SECURE: pack(message)}))).SerializeToString()


def stage_seeds() -> Iterator[bytes]:
    sealed = tuple(
        keys.seal(
            SEED_SHARES[name][0] + KEY_SHARES[name][0],
            SEALING[name],
            KEYS["a"].sealing,
            sitting=NAME,
            way=(name, "a"),
        )
        for name in AROUND["a"]
    )
    yield _offers(f"query.{SETUP}", Setup(NAME))
    yield _offers(f"query.{SHARE_KEYS}", _circle("a"))
    yield _offers("train", MaskOrder(NAME, AROUND["a"], sealed, 1.0, 8.0, True, 3))
    yield _offers(f"query.{UNMASK}", Opening(NAME, ("a", "b"), ("c",)))


def _seated() -> Sitting:
    digests = {name: keys.digest_of(SEED[name], NAME) for name in NAMES}
    return Sitting.of(Agreed(NAME, KEYS, AROUND, dict.fromkeys(NAMES, 2), digests))


def stage_answer(data: bytes) -> None:
    """A site's answer to a stage, beside good ones of the others."""
    if (said := parsed(pb.SubmitHeader, data)) is None:
        return
    content = records_from_wire(said.records, lambda _: base())
    if SETUP in said.task_id:
        begun = Sitting()
        begun.name = NAME
        begun.circles({**KEYS, "a": unpack(Keys, content)})
    elif SHARE_KEYS in said.task_id:
        others = {name: Shares(NAME, AROUND[name], (b"", b""), b"") for name in NAMES}
        shares = {**others, "a": unpack(Shares, content)}
        _seated().orders(shares, clip_norm=1.0, largest_weight=1.0, by_examples=True)
    else:
        closed = _seated()
        closed.openings(("a", "b"))
        closed.masks({"a": unpack(Revealed, content), "b": _revealed(1)})


def _revealed(place: int) -> Revealed:
    seeds = SEED_SHARES["a"][place], SEED_SHARES["b"][place]
    return Revealed(NAME, ("a", "b"), seeds, ("c",), (KEY_SHARES["c"][place],))


def answer_seeds() -> Iterator[bytes]:
    shares = Shares(NAME, AROUND["a"], (b"sealed", b"sealed"), keys.digest_of(SEED["a"], NAME))
    for name, message in ((SETUP, KEYS["a"]), (SHARE_KEYS, shares), (UNMASK, _revealed(0))):
        records: Any = records_to_wire(RecordDict({SECURE: pack(message)}))
        yield pb.SubmitHeader(task_id=f"run.r0001.{name}-{NAME}.a", records=records).SerializeToString()


DECODERS: dict[str, tuple[Callable[[bytes], object], Callable[[], Iterable[bytes]]]] = {
    "stage": (stage, stage_seeds),
    "stage_answer": (stage_answer, answer_seeds),
}
