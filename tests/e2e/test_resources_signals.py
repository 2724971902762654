"""SIGTERM in each phase on both sides: exit 0, finished or kept, and the resumed run comes to the same bits.

How long each took is printed (`pytest -rP`) and not asserted: the machine may be busy. `STOP_SECONDS` in
`server/operating.py` and `client/cli.py` are what holds it below ten seconds.
While a site connects, while a server waits for sites and while sites train: test_survival.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from fedwon.client.link.tasks import HANDED_IN
from tests.e2e.faults import SLOW, patched, undisturbed
from tests.e2e.fleet import Fleet, Process, wait_until

SITES = ("metal", "paper")
CHANGES = {"rounds": 2, "model": {"name": "digit_cnn", "width": 0.3}, **SLOW}
"""A model of 5 MB, so that it is on its way for a moment."""

SLOW_AVERAGE = """
import time
import fedwon.server.rounds.strategy as strategy
whole = strategy.average
def average(*arguments, **named):
    print("averaging now", flush=True)
    time.sleep(3)
    return whole(*arguments, **named)
strategy.average = average
"""
ENDLESS_AVERAGE = SLOW_AVERAGE.replace("time.sleep(3)", "time.sleep(600)")
SLOW_FETCH = """
import asyncio
import fedwon.server.link.service as service
read_chunks = service.read_chunks
async def slowly(path, offset):
    async for data in read_chunks(path, offset):
        yield data
        await asyncio.sleep(0.3)
service.read_chunks = slowly
"""
"""A line on which 1 MiB takes 0.3 s."""
SLOW_UPLOAD = """
import asyncio
from fedwon.server.link.transfers import Upload
add = Upload.add
async def slowly(self, data):
    await add(self, data)
    await asyncio.sleep(0.3)
Upload.add = slowly
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[str]:
    """Digests of the run when nothing happens."""
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), *SITES, **CHANGES)


class Scene:
    """A federation of two sites, of which one side may be changed."""

    def __init__(self, fleet: Fleet, server_patch: str = "") -> None:
        self.fleet = fleet
        for name in SITES:
            fleet.site(name)
        self.server = self.start_server(server_patch)
        self.sites = {name: fleet.start_site(name, "--until-finished") for name in SITES}

    def start_server(self, patch: str = "", *options: str) -> Process:
        path = self.fleet.folder / f"patched-{len(self.fleet.processes)}.log"
        server = Process(patched("server", patch, "start", "--dir", self.fleet.dir, *options), path)
        self.fleet.processes.append(server)
        server.wait_says("listening on")
        return server

    def stop(self, process: Process, phase: str) -> None:
        seconds = process.stop(0)
        print(f"SIGTERM {phase}: ended after {seconds:.1f} s")
        assert "Traceback" not in process.text()

    def resume(self) -> None:
        assert "--resume" in self.server.text()
        self.server = self.start_server("", "--resume")

    def restart(self, site: str) -> None:
        self.sites[site] = self.fleet.start_site(site, "--until-finished")

    def finish(self, expected: list[str]) -> None:
        self.server.end()
        for site in self.sites.values():
            site.end()
        assert self.fleet.digests() == expected
        assert len(self.fleet.runs()) == 1
        assert not list((self.fleet.folder / "paper" / "journal").iterdir())

    def parts(self, folder: Path) -> bool:
        return any(path.stat().st_size > 0 for path in folder.glob("**/*.part"))


class TestServer:
    def test_while_it_receives_an_update(self, fleets, expected):
        scene = Scene(fleets(**CHANGES), SLOW_UPLOAD)
        wait_until(lambda: scene.parts(scene.fleet.dir / "runs"), "half an update")
        scene.stop(scene.server, "while the server receives an update")
        assert scene.parts(scene.fleet.dir / "runs")  # and goes on behind it
        scene.resume()
        scene.finish(expected)
        for site in scene.sites.values():
            assert site.text().count("train, round 1 ") == 1

    @pytest.mark.matrix
    @pytest.mark.parametrize("patch", [SLOW_AVERAGE, ENDLESS_AVERAGE], ids=["slowly", "for ten minutes"])
    def test_while_it_averages(self, fleets, expected, patch):
        scene = Scene(fleets(**CHANGES), patch)
        scene.server.wait_says("averaging now")
        scene.stop(scene.server, "while the server averages")
        scene.resume()
        scene.finish(expected)
        for site in scene.sites.values():
            assert site.text().count("train, round 1 ") == 1

    @pytest.mark.matrix
    def test_while_sites_evaluate_at_the_end(self, fleets, expected):
        scene = Scene(fleets(**CHANGES))
        scene.server.wait_says("round 2 committed")
        scene.sites["paper"].send(signal.SIGSTOP)  # so that the evaluation lasts
        scene.stop(scene.server, "while sites evaluate")
        scene.sites["paper"].send(signal.SIGCONT)
        scene.resume()
        scene.finish(expected)
        assert set(scene.fleet.status()["scores"]) == set(SITES)


class TestSite:
    @pytest.mark.matrix
    def test_while_it_fetches_the_model(self, fleets, expected):
        scene = Scene(fleets(**CHANGES), SLOW_FETCH)
        folder = scene.fleet.folder / "paper" / "models"
        wait_until(lambda: scene.parts(folder), "half a model")
        scene.stop(scene.sites["paper"], "while a site fetches the model")
        assert scene.parts(folder)  # and goes on behind it
        scene.restart("paper")
        scene.finish(expected)

    def test_while_it_trains(self, fleets, expected):
        scene = Scene(fleets(**CHANGES))
        journal = scene.fleet.folder / "paper" / "journal"
        for _ in range(3):  # an end in order is no death, however often
            scene.sites["paper"].wait_says("train, round 1")
            wait_until(lambda: list(journal.glob("*.attempt")), "the task's mark")
            scene.stop(scene.sites["paper"], "while a site trains")
            assert not list(journal.iterdir())
            scene.restart("paper")
        scene.finish(expected)
        assert "ended without a word" not in scene.server.text()

    def test_while_it_uploads(self, fleets, expected):
        scene = Scene(fleets(**CHANGES), SLOW_UPLOAD)
        spool = scene.fleet.dir / "runs"
        wait_until(lambda: list(spool.glob("*/spool/*.paper.part")), "half an update")
        scene.stop(scene.sites["paper"], "while a site uploads")
        assert list((scene.fleet.folder / "paper" / "journal").glob("*.header"))
        scene.restart("paper")
        scene.sites["paper"].wait_says(HANDED_IN)
        scene.finish(expected)
        assert "train, round 1 " not in scene.sites["paper"].text()

    @pytest.mark.matrix
    def test_while_it_waits_for_the_others(self, fleets, expected):
        scene = Scene(fleets(**CHANGES))
        scene.sites["metal"].wait_says("train, round 1")
        scene.sites["metal"].send(signal.SIGSTOP)
        scene.server.wait_says("round 1: paper: ")
        scene.stop(scene.sites["paper"], "while a site waits")
        scene.sites["metal"].send(signal.SIGCONT)
        scene.restart("paper")
        scene.finish(expected)
        assert "train, round 1 " not in scene.sites["paper"].text()
