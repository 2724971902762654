"""Damaged files on either side: found by their digest, and made good from what is whole."""

from __future__ import annotations

import signal
from hashlib import sha256
from pathlib import Path

import pytest

from fedwon.client.link.tasks import HANDED_IN
from fedwon.server.store import AuditRow, Store
from tests.e2e.faults import SLOW, cut, flip, undisturbed
from tests.e2e.fleet import wait_until

SITES = ("metal", "paper")
CHANGES = {"rounds": 2, **SLOW}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[str]:
    """Digests of the run when nothing happens."""
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), *SITES, **CHANGES)


def start(fleet, *options):
    for name in SITES:
        if not (fleet.folder / name).exists():
            fleet.site(name)
    return fleet.start_server(*options), *(fleet.start_site(name, "--until-finished") for name in SITES)


def finish(fleet, expected, *processes) -> None:
    for process in processes:
        process.end()
    assert fleet.digests() == expected
    assert len(fleet.runs()) == 1


def test_a_damaged_model_at_a_site_is_fetched_again(fleets, expected):
    fleet = fleets(**CHANGES)
    server, metal, paper = start(fleet)
    paper.wait_says("train, round 1")
    paper.kill()
    [model] = (fleet.folder / "paper" / "models").glob("*.safetensors")
    flip(model)
    paper = fleet.start_site("paper", "--until-finished")
    paper.wait_says("the model in .* is damaged on this site's disk; it is fetched again")
    paper.wait_says("train, round 1")
    assert sha256(model.read_bytes()).hexdigest() == model.stem
    finish(fleet, expected, server, metal, paper)


def test_a_damaged_outcome_at_a_site_is_made_again_and_never_sent(fleets, expected):
    fleet = fleets(**CHANGES)
    processes = server, metal, paper = start(fleet)
    paper.wait_says("train, round 1")
    server.send(signal.SIGSTOP)  # it hears nothing any more
    journal: Path = fleet.folder / "paper" / "journal"
    wait_until(lambda: list(journal.glob("*.header")), "a kept update")
    for process in processes:
        process.kill()
    [update] = journal.glob("*.safetensors")
    flip(update)
    server, metal, paper = start(fleet, "--resume")
    paper.wait_says("the kept outcome of .* is damaged on this site's disk; the task is done again")
    finish(fleet, expected, server, metal, paper)
    assert "train, round 1 " in paper.text()
    assert HANDED_IN not in paper.text()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(fleets, expected):
    fleet = fleets(**CHANGES)
    server, metal, paper = start(fleet)
    server.wait_says("round 1 committed")
    server.kill()
    cut(fleet.runs()[-1] / "round-0001.safetensors")
    for manifest in fleet.runs()[-1].glob("*.json"):
        manifest.unlink()  # and those are nothing that a run needs
    server = fleet.start_server("--resume")
    server.wait_says(r"ERROR .*round-0001\.safetensors is cut short")
    server.wait_says("round 0 is the newest whole one; the run goes on from there")
    finish(fleet, expected, server, metal, paper)
    store = Store(fleet.dir / "fedwon.db")
    with store.session() as session:
        [line] = session.query(AuditRow).where(AuditRow.action == "checkpoint damaged").all()
    store.close()
    assert "back to round 0" in line.detail
