"""A site's part in one sitting of secure aggregation: its secrets, and what it refuses to say.

The secrets stay in Flower's state of the site, in memory and never on the disk: a site that starts anew in the middle
of a sitting is lost to it, which the others' shares make up for. Each stage is gone through once. The rules that
everything hangs on are in `reveal`: of each peer a site gives away a share of one secret, never of both, and once; and
for each update of its own in one sitting only, which `opened_sums` remembers on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from flwr.app import RecordDict

from fedwon.common.errors import UnsafeRequest
from fedwon.common.secagg import graph, keys, shamir
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.graph import FEWEST, FEWEST_COUNTED
from fedwon.common.secagg.masking import Mask, pair_sign
from fedwon.common.secagg.messages import Circle, Keys, MaskOrder, Opening, Revealed, Setup, Shares, pack, read
from fedwon.common.secagg.stages import SECURE

_KEYS, _SHARED, _MASKED = 0, 1, 2
_HALF = shamir.SHARE_BYTES


@dataclass(frozen=True)
class Seat:
    """What a site keeps of a sitting.

    Attributes:
        stage: the last one that it went through.
        sealing_key: private key for what is sealed.
        masking_key: private key for masks with others.
        own_seed: seed of its own mask.
        own_share: its share of that seed.
        neighbours: their names; their public keys in the same order.
        masked_with: the neighbours that it masked with; the shares that it holds for them in the same order.
        run: whose update was masked, and in which round; `update` is its digest, empty where it moves nothing.
    """

    sitting: str
    stage: int
    sealing_key: bytes
    masking_key: bytes
    own_seed: bytes
    own_share: bytes = b""
    threshold: int = 0
    neighbours: tuple[str, ...] = ()
    sealing: tuple[bytes, ...] = ()
    masking: tuple[bytes, ...] = ()
    masked_with: tuple[str, ...] = ()
    seed_shares: tuple[bytes, ...] = ()
    key_shares: tuple[bytes, ...] = ()
    run: str = ""
    round: int = 0
    update: str = ""


def set_up(state: RecordDict, request: Setup, site: str, secret: bytes = b"") -> Keys:
    """Take a seat, with fresh keys; whatever was kept of another sitting is forgotten.

    Args:
        state: Flower's state of the site.
        request: what the server asks.
        site: the site's name.
        secret: of the circle of sites; empty where there is none.
    """
    seat = Seat(request.sitting, _KEYS, keys.new_key(), keys.new_key(), keys.new_key())
    state[SECURE] = pack(seat)
    sealing, masking = keys.public_of(seat.sealing_key), keys.public_of(seat.masking_key)
    tag = keys.tag_of(secret, request.sitting, site, sealing, masking) if secret else b""
    return Keys(request.sitting, sealing, masking, tag)


def share_keys(state: RecordDict, circle: Circle, site: str, secret: bytes = b"") -> Shares:
    """Share the two secrets out among the neighbours.

    Raises:
        UnsafeRequest: the circle is too small, knows somebody twice, or is not of this circle's sites; or there was one
            in this sitting before.
    """
    seat = _seat(state, circle.sitting, _KEYS)
    _check_circle(circle, seat, site)
    if secret:
        _check_tags(circle, secret)
    holders = len(circle.neighbours) + 1
    of_seed = shamir.split(seat.own_seed, holders, circle.threshold)
    of_key = shamir.split(seat.masking_key, holders, circle.threshold)
    sealed = tuple(
        _sealed(seat, of_seed[place] + of_key[place], circle.sealing[place], (site, name))
        for place, name in enumerate(circle.neighbours)
    )
    known = replace(seat, stage=_SHARED, own_share=of_seed[-1], threshold=circle.threshold)
    known = replace(known, neighbours=circle.neighbours, sealing=circle.sealing, masking=circle.masking)
    state[SECURE] = pack(known)
    return Shares(circle.sitting, circle.neighbours, sealed, keys.digest_of(seat.own_seed, circle.sitting))


def _sealed(seat: Seat, content: bytes, other: bytes, way: tuple[str, str]) -> bytes:
    try:
        return keys.seal(content, seat.sealing_key, other, sitting=seat.sitting, way=way)
    except ValueError as error:
        raise UnsafeRequest(f"The key of site `{way[1]}` is no key: {error}.") from None


def _seat(state: RecordDict, sitting: str, stage: int) -> Seat:
    """Return what is kept of a sitting, if it is at this stage."""
    record = state.config_records.get(SECURE)
    seat = None if record is None else read(Seat, record)
    if seat is None or seat.sitting != sitting:
        raise UnsafeRequest("This site has no keys of this sitting: it was started anew since, or another one began.")
    if seat.stage != stage:
        raise UnsafeRequest("This site has answered this stage of the sitting before, or is asked out of turn.")
    return seat


def _check_circle(circle: Circle, seat: Seat, site: str) -> None:
    names, holders = circle.neighbours, len(circle.neighbours) + 1
    public = {keys.public_of(seat.sealing_key), keys.public_of(seat.masking_key)}
    if not len(names) == len(circle.sealing) == len(circle.masking) == len(circle.tags):
        raise UnsafeRequest("The server names neighbours without keys.")
    if holders < FEWEST:
        raise UnsafeRequest(f"The sum would be of {holders} sites; {FEWEST} are the fewest that hide one another.")
    if not graph.threshold(holders) <= circle.threshold <= holders:
        raise UnsafeRequest(f"{circle.threshold} shares of {holders} are not more than half, or more than there are.")
    everybody = {*names, site, *circle.sealing, *circle.masking, *public}
    if len(everybody) < 3 * holders:
        raise UnsafeRequest("The server names a site or a key twice, or this site as its own neighbour.")


def _check_tags(circle: Circle, secret: bytes) -> None:
    rows = zip(circle.neighbours, circle.sealing, circle.masking, circle.tags, strict=True)
    strangers = [
        name for name, *public, tag in rows if not keys.same(tag, keys.tag_of(secret, circle.sitting, name, *public))
    ]
    if strangers:
        raise UnsafeRequest(
            f"These do not know the secret of this circle (`circle` in client.yaml): {', '.join(strangers)}."
        )


def take_order(state: RecordDict, order: MaskOrder, site: str) -> Seat:
    """Look whether an update may be masked as the server asks, before it is trained.

    Returns:
        The seat as it will be once the update is masked.

    Raises:
        UnsafeRequest: it may not, or was masked in this sitting before.
    """
    seat = _seat(state, order.sitting, _SHARED)
    with_whom = order.neighbours
    if len(order.sealed) != len(with_whom) or len({*with_whom}) < len(with_whom) or {*with_whom} - {*seat.neighbours}:
        raise UnsafeRequest("The server names others to mask with than the neighbours that got this site's shares.")
    if len(with_whom) + 1 < max(seat.threshold, FEWEST):
        raise UnsafeRequest(f"Of this site's circle {len(with_whom) + 1} are left, and {seat.threshold} are needed.")
    if order.sites <= len(with_whom) or not (_can_be_added(order) and 0 < order.largest_weight < math.inf):
        raise UnsafeRequest("The server asks for numbers that cannot be added up.")
    opened = [_opened(seat, name, sealed, site) for name, sealed in zip(with_whom, order.sealed, strict=True)]
    held = tuple(row[:_HALF] for row in opened), tuple(row[_HALF:] for row in opened)
    return replace(seat, stage=_MASKED, masked_with=with_whom, seed_shares=held[0], key_shares=held[1])


def _can_be_added(order: MaskOrder) -> bool:
    try:
        return FixedPoint(order.clip_norm, order.sites).step > 0
    except ValueError:
        return False


def _opened(seat: Seat, name: str, sealed: bytes, site: str) -> bytes:
    other = seat.sealing[seat.neighbours.index(name)]
    try:
        content = keys.unseal(sealed, seat.sealing_key, other, sitting=seat.sitting, way=(name, site))
    except ValueError as error:
        raise UnsafeRequest(f"What site `{name}` sent for this one cannot be read: {error}.") from None
    if len(content) != 2 * _HALF:
        raise UnsafeRequest(f"What site `{name}` sent for this one are no shares.")
    return content


def masks(seat: Seat, site: str) -> list[Mask]:
    """Return the masks that go on the site's update: its own, and one with each neighbour.

    Raises:
        UnsafeRequest: a neighbour's key is none.
    """
    public = dict(zip(seat.neighbours, seat.masking, strict=True))
    try:
        shared = [
            Mask(keys.mask_seed(seat.masking_key, public[name], seat.sitting), pair_sign(site, name))
            for name in seat.masked_with
        ]
    except ValueError as error:
        raise UnsafeRequest(f"A neighbour's key is no key: {error}.") from None
    return [Mask(seat.own_seed, 1), *shared]


def note_masked(state: RecordDict, seat: Seat) -> None:
    """Keep that an update was masked: there is no second one in this sitting.

    Raises:
        UnsafeRequest: there was one meanwhile.
    """
    _seat(state, seat.sitting, _SHARED)
    state[SECURE] = pack(seat)


def reveal(
    state: RecordDict, opening: Opening, site: str, note: Callable[[str, int, str], None], fewest: int = FEWEST_COUNTED
) -> Revealed:
    """Give the shares away that open the sum, and forget the sitting.

    Args:
        state: Flower's state of the site.
        opening: whose updates are in the sum and who was lost.
        site: the site's name.
        note: writes down, so that it lasts, for which run, round and update shares are given away; raises where they
            were before.
        fewest: sites of this circle without which there is no sum.

    Raises:
        UnsafeRequest: somebody would be both in the sum and lost, is no peer of this sitting, or is missing in what the
            server says; the sum is of too few; or the site has answered before, or for the same update in another
            sitting.
    """
    seat = _seat(state, opening.sitting, _MASKED)
    counted, lost, peers = {*opening.counted}, {*opening.lost}, {*seat.masked_with, site}
    if counted & lost:
        raise UnsafeRequest(f"Both secrets of {', '.join(sorted(counted & lost))} would uncover one update.")
    if len(counted) + len(lost) < len(opening.counted) + len(opening.lost) or counted | lost != peers:
        raise UnsafeRequest("The server does not say of each peer of this sitting, once, whether it counts.")
    if site in lost or len(counted) < max(seat.threshold, fewest):
        raise UnsafeRequest(f"A sum of {len(counted)} of this circle's sites is not opened; {seat.threshold} may be.")
    seeds = {**dict(zip(seat.masked_with, seat.seed_shares, strict=True)), site: seat.own_share}
    held = dict(zip(seat.masked_with, seat.key_shares, strict=True))
    note(seat.run, seat.round, seat.update)  # first: whatever happens from here on, these shares may be out
    del state[SECURE]
    return Revealed(
        opening.sitting, opening.counted, _of(seeds, opening.counted), opening.lost, _of(held, opening.lost)
    )


def _of(shares: Mapping[str, bytes], names: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(shares[name] for name in names)
