"""What a site remembers of the sums that it helped to open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.app import RecordDict

from fedwon.client import opened_sums
from fedwon.client import sitting as seat
from fedwon.client.config import ClientConfig, DataConfig, SiteConfig
from fedwon.client.opened_sums import OpenedSums
from fedwon.client.site import Site
from fedwon.common.errors import BrokenFile, DiskFull, UnsafeRequest
from fedwon.common.flower import make_context
from fedwon.common.secagg.messages import Opening
from fedwon.server.secure.sitting import Sitting

NAMES = ("a", "b", "c")


def site(folder, name="opened.json") -> Site:
    return Site("a", SiteConfig(data=DataConfig(path="x"), opened_sums=name), Path(folder))


@pytest.fixture(params=["file", "state"])
def remembered(request, tmp_path):
    """Opens what a site remembers, anew each time as after a restart; in Flower's state only the state stays."""
    state = RecordDict()

    def at(folder=tmp_path) -> OpenedSums:
        return OpenedSums(site(folder, "opened.json" if request.param == "file" else None), state)

    return at


def test_a_round_once_and_only_forward(remembered):
    remembered().check("run", 3)
    remembered().note("run", 3, "aa")
    for number in (1, 3):
        with pytest.raises(UnsafeRequest, match="a sum of round 3 of run run before"):
            remembered().check("run", number)
        with pytest.raises(UnsafeRequest):
            remembered().note("run", number, "bb")
    remembered().check("run", 4, "bb")
    remembered().check("other", 1, "bb")


def test_an_update_once_in_whatever_run(remembered):
    remembered().note("run", 1, "aa")
    with pytest.raises(UnsafeRequest, match="this very update"):
        remembered().note("other", 1, "aa")
    remembered().note("other", 1, "")
    remembered().note("run", 2, "")


def test_it_does_not_grow_without_end(remembered, monkeypatch):
    monkeypatch.setattr(opened_sums, "KEPT_RUNS", 3)
    monkeypatch.setattr(opened_sums, "KEPT_UPDATES", 4)
    for number in range(1, 10):
        remembered().note("first", number, f"first-{number}")
        remembered().note(f"run-{number}", 1, f"update-{number}")
    known = remembered().read()
    assert known.rounds == {"run-8": 1, "first": 9, "run-9": 1}
    assert known.updates == ("first-8", "update-8", "first-9", "update-9")


@pytest.mark.parametrize("text", ["", "{", '{"rounds": {"run": "x"}}', '{"more": 1}'])
def test_what_cannot_be_understood_is_not_taken_for_nothing(tmp_path, text):
    (tmp_path / "opened.json").write_text(text)
    with pytest.raises(BrokenFile, match="masks none"):
        OpenedSums(site(tmp_path), RecordDict()).check("run", 1)


def test_a_site_of_a_server_keeps_it_in_a_file():
    config = ClientConfig(data=DataConfig(path="x"), server="here:1")
    read = Site.of(make_context(1, config.for_node("a", Path("/site"))))
    assert (read.base, read.config.opened_sums) == (Path("/site"), "opened-sums.json")


def test_shares_leave_only_when_it_is_written_down(tmp_path, monkeypatch):
    server, states = Sitting(), {name: RecordDict() for name in NAMES}
    circles = server.circles({name: seat.set_up(states[name], server.setup, name) for name in NAMES})
    shares = {name: seat.share_keys(states[name], circles[name], name) for name in NAMES}
    order = server.orders(shares, clip_norm=1.0, largest_weight=1.0, by_examples=False)["a"]
    seat.note_masked(states["a"], seat.replace(seat.take_order(states["a"], order, "a"), run="run", round=7))
    opened = OpenedSums(site(tmp_path), states["a"])

    def reveal():
        return seat.reveal(states["a"], Opening(server.name, NAMES, ()), "a", opened.note)

    def full(path, data):
        raise DiskFull(f"no space for {path}")

    with monkeypatch.context() as patched:
        patched.setattr(opened_sums, "write_atomic", full)
        with pytest.raises(DiskFull):
            reveal()
    assert not (tmp_path / "opened.json").exists()
    assert reveal().counted == NAMES  # nothing had left, so it may be asked again
    assert json.loads((tmp_path / "opened.json").read_text())["rounds"] == {"run": 7}
