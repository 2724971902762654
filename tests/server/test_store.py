"""The database: the schema that alembic makes is the one in the code, and what is wrong with a file is said."""

from __future__ import annotations

import importlib
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from fedwon.common.errors import DiskFull, StorageError
from fedwon.server import store as store_module
from fedwon.server.store import AuditRow, Base, RunRow, Site, Store, TaskRow, now
from tests.server.server_kit import rows


def import_all_tables() -> None:
    """A table is known once its module is loaded, whichever tests ran before."""
    folder = Path(store_module.__file__).parent
    for path in folder.rglob("*.py"):
        if "(Base):" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(["fedwon.server", *path.relative_to(folder).with_suffix("").parts]))


def test_migrations_make_what_the_models_say(store):
    import_all_tables()
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_can_be_undone(tmp_path):
    store = Store(tmp_path / "db")
    config = Config()
    config.set_main_option("script_location", str(store_module.Path(store_module.__file__).parent / "migrations"))
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    store.close()
    again = Store(tmp_path / "db")
    assert rows(again, Site) == []
    again.close()


def test_what_was_written_is_there_after_reopening(tmp_path):
    first = Store(tmp_path / "db")
    first.audit("made", "x", "detail")
    first.close()
    second = Store(tmp_path / "db")
    assert [(row.action, row.subject, row.detail) for row in rows(second, AuditRow)] == [("made", "x", "detail")]
    second.close()


def test_two_open_the_same_database(store, tmp_path):
    other = Store(tmp_path / "fedwon.db")
    other.audit("made", "by the other")
    assert [row.subject for row in rows(store, AuditRow)] == ["by the other"]
    other.close()


def test_it_survives_a_power_cut_and_lets_others_read(store):
    with store.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_kill_in_the_middle_of_a_transaction_leaves_nothing_of_it(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom fedwon.server.store import AuditRow, Store\n"
        "store = Store(Path(sys.argv[1]))\nstore.audit('whole', 'x')\n"
        "with store.session() as session:\n    session.add(AuditRow(action='half', subject='x'))\n    session.flush()\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "db")]).returncode == 9
    store = Store(tmp_path / "db")
    assert [row.action for row in rows(store, AuditRow)] == ["whole"]
    store.close()


def test_an_error_rolls_back(store):
    def half() -> None:
        with store.session() as session:
            session.add(AuditRow(action="a", subject="x"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert rows(store, AuditRow) == []


def test_a_locked_database(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.01)
    store = Store(tmp_path / "db")
    holder = sqlite3.connect(tmp_path / "db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="cannot be used: database is locked"):
        store.audit("a", "x")
    assert rows(store, AuditRow) == []  # reading goes on
    holder.execute("ROLLBACK")
    store.audit("a", "x")
    holder.close()
    store.close()


@pytest.mark.parametrize("content", [b"this is not a database at all" * 40, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database(tmp_path, content):
    (tmp_path / "db").write_bytes(content)
    with pytest.raises(StorageError, match=r"(damaged|cannot be used)"):
        Store(tmp_path / "db")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="cannot be used"):
        Store(tmp_path / "no" / "db")


def test_a_full_database_is_a_full_disk(store):
    with store.engine.connect() as connection:  # the pool hands the same connection out again
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count={pages + 2}"))
    with pytest.raises(DiskFull, match="No space left"):
        store.audit("a", "x" * 10**6)
    store.audit("a", "x")


def test_a_database_of_a_later_version(tmp_path):
    Store(tmp_path / "db").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StorageError, match="another version of fedwon") as caught:
        Store(tmp_path / "db")
    assert "newer" in caught.value.hint


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-5, minutes=-30))])
def test_a_moment_is_kept_in_utc(store, zone):
    moment = datetime(2026, 11, 23, 10, 30, 5, 123456, tzinfo=zone)
    with store.session() as session:
        session.add(Site(name="a", expires=moment))
    found = rows(store, Site)[0]
    assert found.expires == moment
    assert found.expires.tzinfo is UTC
    assert found.last_seen is None
    assert abs(found.enrolled - now()) < timedelta(hours=1)
    with store.engine.connect() as connection:
        kept = connection.execute(text("SELECT expires FROM sites")).scalar()
    assert kept.startswith(moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"))


def test_rows_belong_to_runs(store):
    with pytest.raises(StorageError), store.session() as session:
        session.add(TaskRow(id="t", run="none", round=1, site="a", kind="train", state="sent"))
    with store.session() as session:
        session.add(RunRow(id="r", config={"a": [1, {"b": None}]}, classes=["x"], state="running"))
        session.flush()
        session.add(TaskRow(id="t", run="r", round=1, site="a", kind="train", state="sent"))
    row = rows(store, TaskRow)[0]
    assert (row.reason, row.bytes_down, row.bytes_up, row.seconds) == ("", 0, 0, 0.0)
    assert rows(store, RunRow)[0].config == {"a": [1, {"b": None}]}


def test_a_database_is_looked_through(tmp_path):
    store = Store(tmp_path / "db")
    for number in range(500):
        store.audit("made", str(number), "x" * 200)
    store.check()
    store.close()
    content = bytearray((tmp_path / "db").read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    (tmp_path / "db").write_bytes(content)
    again = Store(tmp_path / "db")  # what is read at the start is whole
    with pytest.raises(StorageError, match="damaged") as caught:
        again.check()
    assert "backup" in caught.value.hint
    again.close()


def test_a_read_only_database_is_said_so(store):
    with store.engine.connect() as connection:  # the pool hands the same connection out again
        connection.execute(text("PRAGMA query_only=ON"))
    with pytest.raises(StorageError, match="readonly") as caught:
        store.audit("a", "x")
    assert "read-only" in caught.value.hint
