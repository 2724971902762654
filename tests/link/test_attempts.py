"""Tasks in which the process died: tried twice, then given back."""

from __future__ import annotations

import pytest

from fedwon.client.link.attempts import Attempts
from tests.link.link_kit import until
from tests.link.task_kit import named, play


def test_a_mark_counts_what_did_not_end(tmp_path):
    attempts = Attempts(tmp_path)
    assert attempts.deaths("a") == 0
    attempts.begin("a")
    assert Attempts(tmp_path).deaths("a") == 1
    attempts.begin("a")
    assert attempts.deaths("a") == 2
    attempts.end("a")
    attempts.end("a")
    assert attempts.deaths("a") == 0
    assert list(tmp_path.iterdir()) == []


def test_there_is_one_mark_at_a_time(tmp_path):
    attempts = Attempts(tmp_path)
    attempts.begin("a")
    attempts.begin("b")
    assert (attempts.deaths("a"), attempts.deaths("b")) == (0, 1)


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"-1", b"one"])
def test_a_mark_that_cannot_be_read_counts_as_one(tmp_path, content):
    (tmp_path / "a.attempt").write_bytes(content)
    assert Attempts(tmp_path).deaths("a") == 1


def test_a_task_that_killed_the_process_twice_is_given_back_and_the_next_one_done(federation, server, app, task):
    async def scene(site):
        attempts = Attempts(site.runner.journal.folder)
        attempts.begin(task.task_id)
        attempts.begin(task.task_id)
        site.runner.offer(task)
        await until(lambda: site.told)
        [(slug, text)] = site.reports()
        assert slug == "out-of-memory"
        assert "ended without a word 2 times in this task" in text
        assert "batch_size" in text
        assert app.calls == []
        site.runner.offer(named(task, "next"))
        await until(lambda: server.submitted)
        await until(lambda: not site.runner._known)
        site.runner.offer(task)  # asked for again, it is tried again
        await until(lambda: len(server.submitted) == 2)

    play(federation, server, scene)
    assert app.calls == ["next", task.task_id]


def test_one_death_is_forgiven(federation, server, app, task):
    async def scene(site):
        Attempts(site.runner.journal.folder).begin(task.task_id)
        site.runner.offer(task)
        await until(lambda: server.submitted)
        await until(lambda: not site.runner._known)
        assert not list(site.runner.journal.folder.glob("*.attempt"))

    play(federation, server, scene)


def test_an_error_and_an_end_in_order_are_no_deaths(federation, server, app, task):
    folders = []

    def fail():
        [folder] = folders
        assert Attempts(folder).deaths(task.task_id) == 1  # while it works
        raise ValueError

    async def failing(site):
        folders.append(site.runner.journal.folder)
        app.does = fail
        site.runner.offer(task)
        await until(lambda: site.told)
        assert not list(folders[0].glob("*.attempt"))
        app.does = lambda: None
        app.holding.clear()
        site.runner.offer(named(task, "next"))
        await until(lambda: len(app.calls) == 2)
        assert list(folders[0].glob("*.attempt"))

    play(federation, server, failing)
    assert not list(folders[0].glob("*.attempt"))
