"""Fifty sites at once on a real server: all connect, none is lost, and all are noted as they are."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from benchmarks.light_processes import enrol
from benchmarks.light_sites import LightSite, run_sites
from benchmarks.recorded import Recorded
from fedwon.common.arrays import write_record
from fedwon.common.model_file import network
from fedwon.common.network_state import record_of
from fedwon.common.pki import Credentials
from fedwon.common.task_config import TaskConfig
from fedwon.common.update_settings import AdmissionConfig
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.identity.standing import revoke
from fedwon.server.runs.federating import federate
from fedwon.server.store import CertificateRow, RoundRow, Site, TaskRow
from tests.server.server_kit import federation, rows, small_run, until

MANY = 50
CONFIG = small_run(classes=tuple("0123"), rounds=2, minimum=MANY).model_copy(
    update={"admission": AdmissionConfig(replays=False)}  # they answer what was recorded, in every round
)


def payload(folder) -> bytes:
    path = folder / "update.safetensors"
    write_record(record_of(network(TaskConfig.of(CONFIG, run="r", server_round=0, classes=CONFIG.classes))), path)
    return path.read_bytes()


@asynccontextmanager
async def many(folder, running, *, answering=None):
    """Light sites that connect all at once, and leave all at once."""
    names = [f"site-{index:02d}" for index in range(MANY)]
    address, recorded = running.home.config.listen, answering or Recorded(payload(folder))
    sites = [LightSite(address, *one, recorded) for one in enrol(running.home, names)]
    stop = asyncio.Event()
    together = asyncio.create_task(run_sites(sites, stop))
    try:
        await until(lambda: len(running.hub.sessions) == MANY and all(site.seen.connected for site in sites))
        yield sites
    finally:
        stop.set()
        await together


def test_fifty_at_once_do_a_run_and_no_task_is_lost(tmp_path):
    async def course():
        async with federation(tmp_path / "server", minimum=MANY) as running:
            store = running.home.store
            async with many(tmp_path, running) as sites:
                assert all(row.connected and row.data for row in rows(store, Site))
                assert all(row.used is not None for row in rows(store, CertificateRow))
                outcome = await running.done(federate, running.grid, CONFIG, store, running.home.folder)
                await until(lambda: all(site.seen.finished for site in sites))
                seen = [site.seen for site in sites]
            await until(lambda: not running.hub.sessions)
            await until(lambda: not any(row.connected for row in rows(store, Site)))
            return outcome, seen, rows(store, TaskRow), rows(store, RoundRow)

    outcome, seen, tasks, rounds = asyncio.run(course())
    assert [one.failures for one in seen] == [{}] * MANY
    assert sorted((row.round, row.site) for row in tasks) == [(n, one.site) for n in (1, 2) for one in seen]
    assert {row.state for row in tasks} == {"averaged"}
    assert [row.number for row in rounds] == [0, 1, 2]
    assert len(outcome.evaluation.scores) == MANY
    for one in seen:
        assert len(one.connected) == 1
        assert [times.kind for times in one.tasks.values()] == ["train", "train", "evaluate"]
        assert all(times.committed and not times.cancelled for times in one.tasks.values())
        assert one.finished == "finished"


def test_a_revocation_in_the_middle_of_a_storm_is_that_sites_alone(tmp_path):
    """Calls share a transaction; a stranger, a revoked site and a good one get each its own answer."""

    async def course():
        async with federation(tmp_path / "server") as running:
            names = [f"site-{index:02d}" for index in range(20)]
            enrolled = enrol(running.home, names)
            for name in names[::5]:
                revoke(running.home.store, name, "lost")
            spare = running.credentials("stranger", enrol=False)
            enrolled = [*enrolled, ("stranger", Credentials(running.home.authority.pem, spare[1], spare[0]))]
            sites = [LightSite(running.home.config.listen, *one, Recorded(b"")) for one in enrolled]
            stop = asyncio.Event()
            together = asyncio.create_task(run_sites(sites, stop))
            await until(lambda: all(site.seen.connected or site.seen.failures for site in sites))
            connected = sorted(running.hub.sessions)
            stop.set()
            return names, connected, {one.site: one.failures for one in await together}

    names, connected, failures = asyncio.run(course())
    assert connected == [name for name in names if name not in names[::5]]
    for name in names[::5]:
        assert all(f"The certificate of site `{name}` was revoked" in text for text in failures[name])
    assert all("No site `stranger` has enrolled" in text for text in failures["stranger"])
    assert all(failures[name] == {} for name in connected)


def test_light_sites_answer_as_admission_wants_it():
    recorded = Recorded(b"update")
    train, evaluate = (recorded("a", pb.Offer(kind=kind)) for kind in ("train", "evaluate"))
    assert (train.payload, evaluate.payload) == (b"update", b"")
    assert [record.WhichOneof("kind") for record in train.records] == ["arrays", "metrics"]
    assert [record.WhichOneof("kind") for record in evaluate.records] == ["metrics"]
