"""`kill -9` at any point of either side: the same round goes on, and the model has the bits of an undisturbed run.

One test a point. The process that dies does so at a named call (power_cut/sitecustomize.py); what is installed holds no
such points. Chunks are made small, so that a small model is many of them.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedwon.server.store import Store, TaskRow
from tests.e2e import faults
from tests.e2e.fleet import SITES, Fleet, wait_until
from tests.server.server_kit import rows

CHUNK = 4096
"""The tiny model is 46 of them."""
IN_UPLOAD = 70
"""Steps of a site's transfers: 47 of them bring the model, two begin the upload."""
SMALL = {"fedwon.common.wire.grpc_errors:PIECE": CHUNK}
SPARED = {"point": "", "when": "", "nth": 0, "set": SMALL}
"""What a process is told that has small chunks, too, and does not die."""
DYING_SITE, OTHER_SITE = "metal", "paper"


@dataclass(frozen=True)
class Crash:
    """Where a process dies.

    Attributes:
        moment: in words, for docs/reliability.md.
        trained: how often the site that dies trains in the round in hand, all in all.
        sent: share of an update, at most, that travels after the restart of the server.
        kept: what of an update is in the server's spool by then.
    """

    moment: str
    point: str
    when: str = "before"
    nth: int = 1
    trained: int = 1
    sent: float = 1.0
    kept: str = ""

    @property
    def fault(self) -> dict[str, object]:
        return {"point": self.point, "when": self.when, "nth": self.nth, "set": SMALL}


OF_THE_SERVER = {
    "planned": Crash(
        "round 2 planned, no task out", "fedwon.server.rounds.strategy:FedWon.configure_train", "after", 2
    ),
    "tasks-out": Crash("one of two tasks out", "fedwon.server.link.hub:Hub._tell", "after", 3),
    "model-half-sent": Crash("a model half sent", "fedwon.server.link.transfers:read_chunks", "after", 9),
    "update-half-here": Crash(
        "half an upload received", "fedwon.server.link.transfers:Upload._append", "after", 12, sent=0.95, kept="*.part"
    ),
    "update-here-unnamed": Crash(
        "an upload whole, not yet checked", "fedwon.server.link.transfers:Upload.finish", sent=0, kept="*.part"
    ),
    "update-here": Crash(
        "an upload taken, its site not told", "fedwon.server.link.hub:Hub.complete", sent=0, kept="*.safetensors"
    ),
    "all-here": Crash(
        "all received, not yet averaged", "fedwon.server.aggregation.averaging:average", sent=0, kept="*.safetensors"
    ),
    "checkpoint-half-written": Crash(
        "a checkpoint half written", "fedwon.common.files:_write_synced", "after", 3, sent=0, kept="*.safetensors"
    ),
    "checkpoint-written": Crash(
        "a checkpoint written, no manifest", "fedwon.common.arrays:write_record", "after", 2, sent=0
    ),
    "not-committed": Crash(
        "checkpoint and manifest written, not committed", "fedwon.server.runs.run:Run._checkpoint", "after", 2, sent=0
    ),
    "sites-not-told": Crash("committed, the sites not told", "fedwon.server.link.grid:GrpcGrid.committed"),
    "spool-not-cleared": Crash("committed, the spool not cleared", "fedwon.server.runs.run:Run.clear_spool"),
    "evaluating": Crash("during the last evaluation", "fedwon.server.rounds.evaluation:score_of"),
    "published": Crash(
        "model published, the run's end not noted", "fedwon.server.runs.checkpoints:Checkpoints.publish", "after"
    ),
}
OF_A_SITE = {
    "fetching": Crash("a model half fetched", "fedwon.client.link.transfers:_check_wanted", nth=9),
    "fetched": Crash("a model fetched, not yet accepted", "fedwon.client.link.journal:ModelCache.accept"),
    "before-training": Crash("before the training", "fedwon.client.link.tasks:TaskRunner._work"),
    "training": Crash("in the middle of the training", "fedwon.client.training.progress:report", nth=3, trained=2),
    "trained": Crash("trained, nothing kept", "fedwon.client.link.journal:Journal.keep", trained=2),
    "half-kept": Crash(
        "the update's arrays kept, their header not", "fedwon.client.link.journal:Journal._stored", "after", trained=2
    ),
    "kept": Crash("the update kept, not yet sent", "fedwon.client.link.journal:Journal.keep", "after"),
    "uploading": Crash("half an upload sent", "fedwon.client.link.transfers:Transfers._heard", "after", IN_UPLOAD),
    "uploaded": Crash("all sent and taken, not noted", "fedwon.client.link.transfers:Transfers._send", "after"),
    "round-over": Crash("told that the round is over", "fedwon.client.link.journal:Journal.drop", nth=3),
}


def died(process) -> None:
    process.end(-signal.SIGKILL)


def trainings(fleet: Fleet, site: str, number: int) -> int:
    return fleet.said(f"site-{site}").count(f"train, round {number} ")


def check(fleet: Fleet, undisturbed: list[str], trained: dict[str, int]) -> None:
    """The same bits in every round, one run, and nothing trained more often than it had to be."""
    assert fleet.digests() == undisturbed
    assert fleet.status()["state"] == "finished"
    assert len(fleet.runs()) == 1
    for site in SITES:
        times = [trainings(fleet, site, number) for number in (1, 2, 3)]
        assert sum(times) == 3 + trained.get(site, 1) - 1, (site, times)
        assert min(times) == 1
    for site in SITES:
        assert not list((fleet.folder / site / "journal").glob("*"))
    assert not list((fleet.runs()[-1] / "spool").glob("*"))


def bytes_sent(fleet: Fleet) -> list[float]:
    """The share of each task's update that the server that ended the run has received."""
    store = Store(fleet.dir / "fedwon.db")
    try:
        size = next(fleet.runs()[-1].glob("round-0000.safetensors")).stat().st_size
        return [row.bytes_up / size for row in rows(store, TaskRow) if row.round == 1]
    finally:
        store.close()


def half_here(fleet: Fleet, pattern: str) -> bool:
    sizes = [path.stat().st_size for path in (fleet.runs()[-1] / "spool").glob(pattern)]
    return any(0 < size < 40 * CHUNK for size in sizes)


FURTHER = {
    *("planned", "model-half-sent", "checkpoint-written", "sites-not-told", "published"),
    *("tasks-out", "update-here-unnamed", "spool-not-cleared"),
    *("fetched", "before-training", "trained", "half-kept", "uploaded"),
}
"""Points close to others, for `make matrix`."""


def points(crashes: Mapping[str, Crash]) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.matrix] if name in FURTHER else []) for name in crashes]


@pytest.mark.parametrize("name", points(OF_THE_SERVER))
def test_of_the_server(fleet, undisturbed, name):
    crash = OF_THE_SERVER[name]
    for site in SITES:
        fleet.site(site)
    server = fleet.start_server(fault=crash.fault)
    sites = [fleet.start_site(site, "--until-finished", fault=SPARED) for site in SITES]
    died(server)
    if crash.kept:
        kept = list((fleet.runs()[-1] / "spool").glob(crash.kept))
        assert kept
        assert all(path.stat().st_size > 0 for path in kept)
    again = fleet.start_server("--resume")
    again.end()
    for site in sites:
        site.end()
    check(fleet, undisturbed, {})
    assert min(bytes_sent(fleet)) <= crash.sent
    if crash.sent == 1.0:
        assert max(bytes_sent(fleet)) > 0.9


def test_of_the_server_before_the_run_exists(fleet, undisturbed):
    """A checkpoint without a row is no run: the next start begins one."""
    for site in SITES:
        fleet.site(site)
    fault = {"point": "fedwon.server.runs.run:Run._checkpoint", "when": "after", "nth": 1}
    server = fleet.start_server(fault=fault)
    sites = [fleet.start_site(site, "--until-finished") for site in SITES]
    died(server)
    fleet.start_server().end()
    for site in sites:
        site.end()
    assert fleet.digests() == undisturbed
    assert fleet.status()["state"] == "finished"


def velocities(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("round-*.velocity")}


def test_of_the_server_with_a_velocity(fleets, tmp_path):
    """Momentum's velocity after round 2 is on the disk and round 2 is not committed: it is made again, of the first."""
    changes = {"aggregation": {"server_momentum": 0.9}}
    undisturbed, fleet = faults.undisturbed(tmp_path / "undisturbed", *SITES, **changes), fleets(**changes)
    for site in SITES:
        fleet.site(site)
    fault = {"point": "fedwon.server.runs.checkpoints:Checkpoints.write_velocity", "when": "after", "nth": 2}
    server = fleet.start_server(fault=fault)
    sites = [fleet.start_site(site, "--until-finished") for site in SITES]
    died(server)
    assert sorted(velocities(fleet.runs()[-1])) == ["round-0001.velocity", "round-0002.velocity"]
    assert not (fleet.runs()[-1] / "round-0002.safetensors").exists()
    fleet.start_server("--resume").end()
    for site in sites:
        site.end()
    check(fleet, undisturbed, {})
    [simulated] = (tmp_path / "undisturbed" / "runs").iterdir()
    assert velocities(fleet.runs()[-1]) == velocities(simulated)


@pytest.mark.parametrize("name", points(OF_A_SITE))
def test_of_a_site(fleet, undisturbed, name):
    crash = OF_A_SITE[name]
    for site in SITES:
        fleet.site(site)
    server = fleet.start_server(fault=SPARED)
    other = fleet.start_site(OTHER_SITE, "--until-finished")
    site = fleet.start_site(DYING_SITE, "--until-finished", fault=crash.fault)
    died(site)
    if name == "uploading":
        wait_until(lambda: half_here(fleet, "*.metal.part"), "half an update in the server's spool")
    if name == "fetching":
        assert 0 < next((fleet.folder / DYING_SITE / "models").glob("*.part")).stat().st_size < 40 * CHUNK
    again = fleet.start_site(DYING_SITE, "--until-finished")
    for process in (server, other, again):
        process.end()
    check(fleet, undisturbed, {DYING_SITE: crash.trained})


def test_of_a_site_that_waits_for_the_others(fleet, undisturbed):
    for site in SITES:
        fleet.site(site)
    server = fleet.start_server()
    other = fleet.start_site(OTHER_SITE, "--until-finished")
    other.wait_says("connected to")
    site = fleet.start_site(DYING_SITE, "--until-finished")
    other.wait_says("train, round 1 ")
    other.send(signal.SIGSTOP)
    try:
        server.wait_says(f"round 1: {DYING_SITE}: model 0")
        site.kill()
        again = fleet.start_site(DYING_SITE, "--until-finished")
        again.wait_says("connected to")
    finally:
        other.send(signal.SIGCONT)
    for process in (server, other, again):
        process.end()
    check(fleet, undisturbed, {})


def test_of_everything_at_once(fleet, undisturbed):
    """The power of the whole plant: in the middle of round 2, with one update here and one in training."""
    for site in SITES:
        fleet.site(site)
    server = fleet.start_server()
    sites = {site: fleet.start_site(site, "--until-finished") for site in SITES}
    server.wait_says("round 1 committed")
    server.wait_says("round 2: (metal|paper): model 1")
    for process in (server, *sites.values()):
        process.kill()
    again = [fleet.start_site(site, "--until-finished") for site in SITES]
    fleet.start_server("--resume").end()
    for process in again:
        process.end()
    assert fleet.digests() == undisturbed
    assert fleet.status()["state"] == "finished"
    wait_until(lambda: not list((fleet.folder / "metal" / "journal").glob("*")), "an empty journal")
