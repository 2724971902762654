"""What a site refuses in secure aggregation, whatever the server asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flwr.app import RecordDict

from fedwon.client import sitting as seat
from fedwon.common.errors import TaskFailed, UnsafeRequest
from fedwon.common.secagg import keys
from fedwon.common.secagg.messages import Circle, Keys, MaskOrder, Opening, Setup, pack, read
from fedwon.server.secure.sitting import Sitting

NAMES = ("a", "b", "c", "d", "e")


class Table:
    """A sitting of five sites, as far as it was brought."""

    def __init__(self, secrets=()):
        secrets = dict.fromkeys(NAMES, b"") | dict(secrets)
        self.server, self.secrets = Sitting(), secrets
        self.states, self.noted = {name: RecordDict() for name in NAMES}, []
        self.keys = {name: seat.set_up(self.states[name], self.server.setup, name, secrets[name]) for name in NAMES}
        self.circles = self.server.circles(self.keys)

    def share(self):
        self.shares = {
            name: seat.share_keys(self.states[name], self.circles[name], name, self.secrets[name]) for name in NAMES
        }
        self.orders = self.server.orders(self.shares, clip_norm=1.0, largest_weight=1.0, by_examples=False)
        return self

    def mask(self):
        for name in NAMES:
            seat.note_masked(self.states[name], self.take(name))
        return self

    def take(self, name="a", **changes):
        return seat.take_order(self.states[name], replace(self.orders[name], **changes), name)

    def reveal(self, counted, lost, name="a", sitting=None):
        opening = Opening(sitting or self.server.name, tuple(counted), tuple(lost))
        return seat.reveal(self.states[name], opening, name, lambda *row: self.noted.append(row))


@pytest.fixture
def masked():
    return Table().share().mask()


class TestRevealing:
    def test_one_secret_of_each_peer(self, masked):
        answer = masked.reveal("abc", "de")
        assert (answer.counted, answer.lost) == (("a", "b", "c"), ("d", "e"))
        held = {len(share) for share in (*answer.counted_shares, *answer.lost_shares)}
        assert held == {35}

    def test_never_both_of_one_peer(self, masked):
        with pytest.raises(UnsafeRequest, match="Both secrets of d"):
            masked.reveal("abcd", "de")

    def test_never_the_other_one_later(self, masked):
        masked.reveal("abcd", "e")
        with pytest.raises(UnsafeRequest, match="no keys of this sitting"):
            masked.reveal("abce", "d")
        with pytest.raises(UnsafeRequest, match="no keys of this sitting"):
            masked.reveal("abcd", "e")

    def test_never_of_itself_that_it_was_lost(self, masked):
        with pytest.raises(UnsafeRequest, match="is not opened"):
            masked.reveal("bcd", "ae")

    def test_not_in_a_sum_of_few(self, masked):
        with pytest.raises(UnsafeRequest, match="A sum of 2 of this circle's sites is not opened"):
            masked.reveal("ab", "cde")

    @pytest.mark.parametrize(("counted", "lost"), [("abcd", ""), ("abcdx", "e"), ("aabcd", "e"), ("abcd", "ee")])
    def test_only_where_the_server_says_all(self, masked, counted, lost):
        with pytest.raises(UnsafeRequest, match="does not say of each peer"):
            masked.reveal(counted, lost)

    def test_not_before_the_update_was_masked(self):
        table = Table().share()
        with pytest.raises(UnsafeRequest, match="out of turn"):
            table.reveal("abcd", "e")

    def test_not_of_another_sitting(self, masked):
        with pytest.raises(UnsafeRequest, match="no keys of this sitting"):
            masked.reveal("abcd", "e", sitting="another")

    def test_what_was_kept_is_forgotten(self, masked):
        masked.reveal("abcd", "e")
        assert not masked.states["a"]


class TestMasking:
    def test_one_update_in_a_sitting(self):
        table = Table().share()
        seat.note_masked(table.states["a"], table.take())
        with pytest.raises(UnsafeRequest, match="before"):
            table.take()

    def test_also_where_two_are_trained_side_by_side(self):
        table = Table().share()
        one, other = table.take(), table.take()
        seat.note_masked(table.states["a"], one)
        with pytest.raises(UnsafeRequest, match="before"):
            seat.note_masked(table.states["a"], other)

    def test_not_with_fewer_than_can_be_made_up_for(self):
        table = Table().share()
        order = table.orders["a"]
        with pytest.raises(UnsafeRequest, match="2 are left, and 3 are needed"):
            table.take(neighbours=order.neighbours[:1], sealed=order.sealed[:1])

    def test_not_with_strangers_or_twice_with_one(self):
        table = Table().share()
        order = table.orders["a"]
        for names in (("x", *order.neighbours[1:]), ("b", "b", "c", "d")):
            with pytest.raises(UnsafeRequest, match="others to mask with"):
                table.take(neighbours=names)

    def test_not_with_shares_of_somebody_else(self):
        table = Table().share()
        sealed = table.orders["a"].sealed
        with pytest.raises(UnsafeRequest, match="site `b` sent for this one cannot be read"):
            table.take(sealed=(sealed[1], sealed[0], *sealed[2:]))

    @pytest.mark.parametrize(
        "changes",
        [
            {"clip_norm": 0.0},
            {"clip_norm": float("inf")},
            {"clip_norm": 5e-324},
            {"largest_weight": -1.0},
            {"largest_weight": float("inf")},
            {"sites": 3},
            {"sites": 2**40},
        ],
    )
    def test_not_in_numbers_that_overflow(self, changes):
        with pytest.raises(UnsafeRequest, match="cannot be added up"):
            Table().share().take(**changes)

    def test_not_before_the_shares_are_out(self):
        table = Table()
        order = MaskOrder(table.server.name, (), (), 1.0, 1.0, False, 5)
        with pytest.raises(UnsafeRequest, match="out of turn"):
            seat.take_order(table.states["a"], order, "a")


class TestSharing:
    def share(self, table, **changes):
        return seat.share_keys(table.states["a"], replace(table.circles["a"], **changes), "a")

    def test_once_in_a_sitting(self):
        table = Table()
        self.share(table)
        with pytest.raises(UnsafeRequest, match="before"):
            self.share(table)

    @pytest.mark.parametrize("threshold", [1, 2, 6])
    def test_not_so_that_half_can_open_it(self, threshold):
        with pytest.raises(UnsafeRequest, match="not more than half"):
            self.share(Table(), threshold=threshold)

    def test_not_among_two(self):
        circle = Table().circles["a"]
        few = {key: getattr(circle, key)[:1] for key in ("neighbours", "sealing", "masking", "tags")}
        table = Table()
        with pytest.raises(UnsafeRequest, match="sum would be of 2 sites"):
            self.share(table, threshold=2, **few)

    def test_nobody_sits_there_twice(self):
        table = Table()
        circle = table.circles["a"]
        doubles = (
            {"neighbours": ("a", *circle.neighbours[1:])},
            {"neighbours": ("b", "b", *circle.neighbours[2:])},
            {"masking": (circle.masking[1], *circle.masking[1:])},
            {"sealing": (table.keys["a"].sealing, *circle.sealing[1:])},
        )
        for changes in doubles:
            with pytest.raises(UnsafeRequest, match="twice"):
                self.share(table, **changes)

    def test_keys_that_are_none(self):
        table = Table()
        circle = table.circles["a"]
        with pytest.raises(UnsafeRequest, match="key of site `b` is no key"):
            self.share(table, sealing=(bytes(32), *circle.sealing[1:]))
        with pytest.raises(UnsafeRequest, match="without keys"):
            self.share(table, sealing=circle.sealing[1:])

    def test_a_new_sitting_forgets_the_old_one(self):
        table = Table().share().mask()
        seat.set_up(table.states["a"], Setup("another"), "a")
        with pytest.raises(UnsafeRequest, match="another one began"):
            table.reveal("abcd", "e")


class TestCircle:
    """A secret that the sites share and the server does not have: it cannot put keys of its own between them."""

    SECRET = b"sixteen bytes or more"

    def test_those_who_know_it_share(self):
        assert Table(dict.fromkeys(NAMES, self.SECRET)).share().orders

    def test_keys_that_the_server_puts_in_their_place_are_refused(self):
        table = Table(dict.fromkeys(NAMES, self.SECRET))
        circle = table.circles["a"]
        own = keys.public_of(keys.new_key())
        with pytest.raises(UnsafeRequest, match=r"do not know the secret of this circle.*: b\."):
            seat.share_keys(table.states["a"], replace(circle, masking=(own, *circle.masking[1:])), "a", self.SECRET)

    def test_a_tag_holds_for_one_site_and_one_sitting(self):
        one, other = (Table(dict.fromkeys(NAMES, self.SECRET)) for _ in range(2))
        circle = one.circles["a"]
        for tags in (circle.tags[::-1], other.circles["a"].tags):
            with pytest.raises(UnsafeRequest, match="do not know the secret"):
                seat.share_keys(one.states["a"], replace(circle, tags=tags), "a", self.SECRET)

    def test_a_site_without_it_is_named(self):
        table = Table({name: self.SECRET for name in NAMES if name != "c"})
        with pytest.raises(UnsafeRequest, match=r": c\."):
            seat.share_keys(table.states["a"], table.circles["a"], "a", self.SECRET)


def test_a_message_that_is_none():
    good = pack(Setup("x"))
    assert read(Setup, good) == Setup("x")
    for kind, record in ((Keys, good), (Circle, good), (Setup, {**good, "more": 1}), (Setup, {"sitting": b"x"})):
        with pytest.raises(TaskFailed, match="is no"):
            read(kind, record)
