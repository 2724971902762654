"""Databases of every schema that was ever released: the newest code opens them, and no row is lost."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from typer.testing import CliRunner

from fedwon.common import errors
from fedwon.common.version import VERSION
from fedwon.server import store as store_module
from fedwon.server.cli import app
from fedwon.server.identity import sites
from fedwon.server.runs.run import Run
from fedwon.server.store import Base, Store
from tests.e2e.fleet import Fleet, assert_error, command

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("database-*.sql"))


def revisions() -> list[str]:
    folder = ScriptDirectory(str(Path(store_module.__file__).parent / "migrations"))
    return [script.revision for script in folder.walk_revisions()][::-1]


def load(golden: Path, path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(golden.read_text(encoding="utf-8"))
        connection.execute("PRAGMA journal_mode=WAL")
    return path


def content(path: Path, like: Path | None = None) -> dict[str, list[tuple]]:
    """Rows of all tables, of those columns that the database `like` has."""
    with closing(sqlite3.connect(like or path)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'alembic_version'"
        tables = [name for (name,) in connection.execute(query)]
        columns = {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in tables}
    with closing(sqlite3.connect(path)) as connection:
        return {
            name: sorted(connection.execute(f"SELECT {', '.join(columns[name])} FROM {name}"), key=repr)  # noqa: S608
            for name in tables
        }


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def old(request, tmp_path):
    return load(request.param, tmp_path / "old.db")


@pytest.fixture
def upgraded(old, tmp_path):
    path = tmp_path / "fedwon.db"
    shutil.copy(old, path)
    opened = Store(path)
    yield opened
    opened.close()


def test_the_first_schema_is_among_them():
    assert GOLDEN[0].stem == f"database-{revisions()[0]}"
    assert {path.stem.removeprefix("database-") for path in GOLDEN} <= set(revisions())


def test_no_row_is_lost(old, upgraded):
    before = content(old)
    assert len(before["metrics"]) > 20
    assert all(before[name] for name in ("sites", "tokens", "runs", "rounds", "tasks", "audit"))
    assert content(upgraded.path, like=old) == before


def test_the_schema_is_the_one_in_the_code(upgraded):
    with upgraded.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert context.get_current_revision() == revisions()[-1]
        assert compare_metadata(context, Base.metadata) == []


def test_it_goes_on_from_there(upgraded):
    """What an operator does after the upgrade: sites, tokens, a run to resume."""
    sites.check_enrolled(upgraded, "metal")
    token = sites.make_token(upgraded, "new-line")
    assert sites.redeem_token(upgraded, token) == "new-line"
    run = Run.unfinished(upgraded, upgraded.path.parent)
    assert run.config.rounds == 5
    assert run.task(1).classes == ("0", "1", "2", "3")
    run.set_state("running")
    run.settled(f"{run.id}.r0001.train.metal", "failed", reason="x")


def test_the_commands_show_it(old, tmp_path):
    fleet = Fleet(tmp_path)
    for leftover in fleet.dir.glob("fedwon.db*"):
        leftover.unlink()
    shutil.copy(old, fleet.dir / "fedwon.db")
    runner = CliRunner()
    status = json.loads(runner.invoke(app, ["status", "--dir", str(fleet.dir), "--json"]).stdout)
    assert status["version"] == VERSION
    assert [(run["state"], run["committed"], run["rounds"]) for run in status["runs"]] == [
        ("stopped", 0, 5),
        ("finished", 3, 3),
    ]
    assert set(status["runs"][1]["scores"]) == {"metal", "paper"}
    listed = runner.invoke(app, ["sites", "--dir", str(fleet.dir), "--json"])
    assert {row["site"] for row in json.loads(listed.stdout)["sites"]} == {"metal", "paper", "glass"}


def test_an_older_server_says_that_it_is_older(old, tmp_path):
    fleet = Fleet(tmp_path)
    with closing(sqlite3.connect(fleet.dir / "fedwon.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = content(fleet.dir / "fedwon.db")
    found = assert_error(command("fedwon-server", "start", "--dir", fleet.dir), errors.StorageError)
    assert "was made by another version of fedwon" in found["error"]
    assert "newer fedwon-server" in found["hint"]
    assert content(fleet.dir / "fedwon.db") == before
