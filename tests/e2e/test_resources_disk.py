"""Disks that are full or read-only in the middle of a run: said clearly, nothing lost, and it goes on afterwards.

A full disk of the server when it commits a round, and of a site when it fetches a model: test_full_disk.
"""

from __future__ import annotations

import re

import pytest

from fedwon.common import errors
from tests.e2e.faults import SLOW, fill, read_only
from tests.e2e.fleet import Fleet, assert_error, command, wait_until

STUBBORN = {"minimum": 2, "quorum": 2, "retries": 200}
"""A site that fails at once is asked again often: a pause would last ten minutes."""


@pytest.fixture
def with_close(tmp_path):
    made = []

    def make(*arguments, **settings) -> Fleet:
        made.append(Fleet(*arguments, **settings))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def pair(fleet: Fleet):
    return tuple(fleet.start_site(name, "--until-finished") for name in ("paper", "metal"))


def test_an_update_that_finds_no_room_at_the_server_is_sent_when_there_is_some(tmp_path, small_disk, with_close):
    changes = {"rounds": 1, "model": {"name": "digit_cnn", "width": 0.1}, **SLOW}
    fleet = with_close(tmp_path, changes, server=small_disk / "server")
    for name in ("paper", "metal"):
        fleet.site(name)
    server = fleet.start_server()
    paper, metal = pair(fleet)
    paper.wait_says("train, round 1")
    ballast = fill(small_disk, leave=200_000)  # for the database
    paper.wait_says("handing in failed, trying again: No space left on the disk while writing .*spool")
    server.wait_says("ERROR .*refused: No space left on the disk while writing .*spool")
    assert server.process.poll() is None
    ballast.unlink()
    server.end()
    for site in (paper, metal):
        assert site.end().count("train, round 1") == 1  # nothing was trained again
    assert len(fleet.digests()) == 2


def test_an_outcome_that_cannot_be_kept_at_a_site(tmp_path, small_disk, with_close):
    changes = {"rounds": 1, "model": {"name": "digit_cnn", "width": 0.1}, "participation": STUBBORN, **SLOW}
    fleet = with_close(tmp_path, changes)
    folder = fleet.site("paper", home=small_disk / "paper")
    fleet.site("metal")
    server, metal = fleet.start_server(), fleet.start_site("metal", "--until-finished")
    paper = fleet.start_site("paper", "--until-finished", folder=folder)
    paper.wait_says("train, round 1")
    wait_until(lambda: list((folder / "journal").glob("*.attempt")), "the task's mark")
    ballast = fill(small_disk)
    server.wait_says("no update from paper: disk-full: No space left on the disk while writing .*journal")
    assert paper.process.poll() is None
    ballast.unlink()
    server.end()
    metal.end()
    assert len(fleet.digests()) == 2


@pytest.mark.matrix
def test_a_folder_that_becomes_read_only_at_a_site(fleets):
    fleet = fleets(rounds=1, participation=STUBBORN)
    folder = fleet.site("paper")
    fleet.site("metal")
    server, paper = fleet.start_server(), fleet.start_site("paper", "--until-finished")
    paper.wait_says("connected to")
    with read_only(folder):
        metal = fleet.start_site("metal", "--until-finished")
        server.wait_says("no update from paper: storage: Read-only file system while writing")
        paper.wait_says("task failed: Read-only file system .*mounted read-only, as the kernel does after an error")
        assert paper.process.poll() is None
    server.end()
    metal.end()


def test_a_folder_that_becomes_read_only_at_the_server(fleets):
    """Updates wait at the sites; the run ends with a reason once it must write, and goes on with the same round."""
    fleet = fleets(rounds=2, **SLOW)
    for name in ("paper", "metal"):
        fleet.site(name)
    server = fleet.start_server()
    paper, metal = pair(fleet)
    for site in (paper, metal):
        site.wait_says("train, round 1")
    with read_only(fleet.dir):
        for site in (paper, metal):
            site.wait_says(
                "handing in failed, trying again: (Read-only file system|The database .* readonly|No answer)"
            )
    said = server.end(None)
    if server.process.returncode != 0:  # something was to be noted in the database meanwhile
        assert server.process.returncode == errors.StorageError.code, said
        assert re.search("error: .*(readonly database|Read-only file system)", said.splitlines()[-3])
        fleet.start_server("--resume").end()
    for site in (paper, metal):
        assert site.end().count("train, round 1 ") == 1
    assert len(fleet.digests()) == 3
    assert len(fleet.runs()) == 1


def test_starting_on_a_read_only_disk(fleets):
    fleet = fleets()
    folder = fleet.site("paper")
    with read_only(fleet.dir), read_only(folder):
        found = assert_error(command("fedwon-server", "start", "--dir", fleet.dir), errors.StorageError)
        assert "fedwon.db" in found["error"]
        assert "read-only" in found["hint"]
        found = assert_error(command("fedwon-client", "start", "--dir", folder), errors.StorageError)
        assert "Read-only file system" in found["error"]
        assert "remount" in found["hint"]
