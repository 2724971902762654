"""A database that is locked, damaged or cut from its log."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedwon.common import errors
from tests.e2e.faults import SLOW, patched
from tests.e2e.fleet import Fleet, Process, assert_error, command

HASTY = "import fedwon.server.store as store; store.BUSY_SECONDS = 1.0"
PAGE = 4096


def start(fleet: Fleet):
    for name in ("paper", "metal"):
        fleet.site(name)
    return fleet.start_server(), *(fleet.start_site(name, "--until-finished") for name in ("paper", "metal"))


def three_lines(said: str, kind: type[errors.FedwonError]) -> str:
    """Check that a process that went on ended with an error in its three lines; return its first one."""
    assert "Traceback" not in said
    last = said.splitlines()[-3:]
    assert [line.split(":")[0] for line in last] == ["error", "hint", "see"], said
    assert last[2] == f"see: docs/errors/{kind.slug}.md"
    return last[0]


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the write lock, as a backup tool does."""
    holder = sqlite3.connect(database, isolation_level=None, timeout=60)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


def test_a_lock_of_some_seconds_is_waited_for(fleet):
    server, paper, metal = start(fleet)
    server.wait_says("round 1: (paper|metal)")
    with locked(fleet.dir / "fedwon.db"):
        time.sleep(5)  # a tenth of what a transaction waits for
        assert server.process.poll() is None
    for process in (server, paper, metal):
        process.end()
    assert len(fleet.digests()) == 4
    assert fleet.status()["state"] == "finished"


def test_a_lock_that_stays_ends_the_run_with_a_reason_and_it_is_resumed(fleets):
    fleet = fleets(rounds=2, **SLOW)
    for name in ("paper", "metal"):
        fleet.site(name)
    server = Process(patched("server", HASTY, "start", "--dir", fleet.dir), fleet.folder / "hasty.log")
    fleet.processes.append(server)
    server.wait_says("listening on")
    paper, metal = (fleet.start_site(name, "--until-finished") for name in ("paper", "metal"))
    paper.wait_says("train, round 1")
    metal.wait_says("train, round 1")
    with locked(fleet.dir / "fedwon.db"):
        said = server.end(errors.StorageError.code)
    assert "database is locked" in three_lines(said, errors.StorageError)
    assert "backup or a database tool" in said
    server = fleet.start_server("--resume")
    for process in (server, paper, metal):
        process.end()
    assert len(fleet.digests()) == 3
    assert len(fleet.runs()) == 1


def spoil(database: Path) -> None:
    """Write garbage over all but the first page, as a failing disk may."""
    holder = sqlite3.connect(database, isolation_level=None, timeout=60)
    holder.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    holder.close()
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(PAGE)
        file.write(b"\xa5" * (size - PAGE))


@pytest.mark.matrix
def test_a_database_that_is_damaged_is_said_so_and_a_backup_helps(fleets):
    fleet = fleets(rounds=2, **SLOW)
    server, paper, metal = start(fleet)
    server.wait_says("round 1 committed")
    server.stop()
    database = fleet.dir / "fedwon.db"
    backup = database.read_bytes()  # closed in order, so this one file is all
    assert not database.with_name("fedwon.db-wal").exists()
    middle = len(backup) // 2 // PAGE * PAGE
    database.write_bytes(backup[:middle] + b"\xa5" * 4 * PAGE + backup[middle + 4 * PAGE :])
    found = assert_error(command("fedwon-server", "start", "--resume", "--dir", fleet.dir), errors.StorageError)
    assert "damaged" in found["error"]
    assert "put back the last backup of fedwon.db" in found["hint"]
    database.write_bytes(backup)
    server = fleet.start_server("--resume")
    for process in (server, paper, metal):
        process.end()
    assert len(fleet.digests()) == 3


def test_a_database_that_breaks_in_the_middle_of_a_run_ends_it_with_a_reason(fleets):
    fleet = fleets(rounds=2, **SLOW)
    server, paper, metal = start(fleet)
    paper.wait_says("train, round 1")
    metal.wait_says("train, round 1")
    spoil(fleet.dir / "fedwon.db")
    said = server.end(errors.StorageError.code)
    assert "damaged" in three_lines(said, errors.StorageError)
    assert "put back the last backup" in said
    for site in (paper, metal):
        assert site.process.poll() is None


@pytest.mark.matrix
def test_a_database_whose_log_was_deleted_has_no_run_to_go_on_with(fleets):
    """What was written since the last checkpoint of the log is lost with it: that is said, and nothing is made up."""
    fleet = fleets(rounds=2, **SLOW)
    server, paper, _ = start(fleet)
    paper.wait_says("train, round 1")
    server.kill()
    for name in ("fedwon.db-wal", "fedwon.db-shm"):
        (fleet.dir / name).unlink()
    found = assert_error(command("fedwon-server", "start", "--resume", "--dir", fleet.dir), errors.RunMissing)
    assert "no unfinished run" in found["error"]
    assert fleet.runs()  # its models are still there
