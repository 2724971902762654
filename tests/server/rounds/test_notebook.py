"""Notes that are written behind whoever makes them: all, in order, also where the database fails for a while."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest
from sqlalchemy import select, text

from fedwon.common.errors import StorageError
from fedwon.server.rounds.notebook import Notebook
from fedwon.server.store import AuditRow, Store


def note(detail):
    return text("INSERT INTO audit (at, action, subject, detail, actor) VALUES ('2026-11-25', 'x', '', :d, '')"), {
        "d": detail
    }


def details(store):
    with store.session() as session:
        return [
            row.detail for row in session.scalars(select(AuditRow).where(AuditRow.action == "x").order_by(AuditRow.id))
        ]


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "fedwon.db")
    yield made
    made.close()


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_notes_are_written_without_being_asked_for(store):
    Notebook(store).add([note("a")])
    wait_until(lambda: details(store))
    assert details(store) == ["a"]


def test_a_transaction_comes_behind_all_that_was_noted(store):
    notebook = Notebook(store)
    for number in range(50):
        notebook.add([note(f"{number:02}")])
    with notebook.transaction() as session:
        session.execute(*note("last"))
    assert details(store) == [*(f"{number:02}" for number in range(50)), "last"]


def test_what_comes_while_one_writes_shares_the_next_transaction(store, monkeypatch):
    notebook, session, opened, go = Notebook(store), store.session, [], threading.Event()

    @contextmanager
    def slow():
        opened.append(1)
        assert go.wait(20)
        with session() as inner:
            yield inner

    monkeypatch.setattr(store, "session", slow)
    notebook.add([note("first")])
    wait_until(lambda: opened)
    for number in range(30):
        notebook.add([note(str(number))])
    go.set()
    with notebook.transaction():
        pass
    assert len(opened) <= 3
    monkeypatch.undo()
    assert details(store) == ["first", *map(str, range(30))]


def test_where_the_database_fails_the_next_one_hears_of_it_and_nothing_is_lost(store, monkeypatch):
    notebook, session = Notebook(store), store.session

    @contextmanager
    def failing():
        raise StorageError("the disk is gone")
        yield

    monkeypatch.setattr(store, "session", failing)
    notebook.add([note("a")])
    wait_until(lambda: notebook._failed is not None)
    with pytest.raises(StorageError, match="gone"):
        notebook.add([note("b")])
    monkeypatch.setattr(store, "session", session)
    with notebook.transaction():
        pass
    assert details(store) == ["a"]
    notebook.add([note("c")])
    wait_until(lambda: details(store) == ["a", "c"])


def test_a_block_that_raises_takes_its_own_along_and_not_what_was_noted_before(store, monkeypatch):
    notebook = Notebook(store)
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    notebook.add([note("before")])

    def fails():
        with notebook.transaction() as session:
            session.execute(*note("inside"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert details(store) == []
    with notebook.transaction():
        pass
    assert details(store) == ["before"]
