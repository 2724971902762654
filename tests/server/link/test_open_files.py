"""How many files a server may open."""

from __future__ import annotations

import logging
import resource

import pytest

from fedwon.common.errors import StorageError
from fedwon.server.link import open_files
from fedwon.server.link.open_files import allow_open_files, sites_within

UNLIMITED = resource.RLIM_INFINITY


def test_for_how_many_sites_they_suffice():
    assert [sites_within(limit) for limit in (10, 64, 1024)] == [0, 8, 328]


@pytest.mark.parametrize(
    ("limits", "asked"),
    [((1024, 4096), (4096, 4096)), ((1024, UNLIMITED), (65536, UNLIMITED)), ((64, 64), None), ((10**6, 10**6), None)],
)
def test_as_many_as_this_user_may_have(monkeypatch, limits, asked):
    wanted = []
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(open_files.resource, "setrlimit", lambda _, pair: wanted.append(pair))
    allow_open_files()
    assert wanted == ([asked] if asked else [])


def test_few_are_said(monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: (64, 64))
    allow_open_files()
    assert "may open 64 files, enough for about 8 sites" in caplog.text


def test_too_few_are_an_error(monkeypatch):
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: (16, 16))
    with pytest.raises(StorageError, match="may open 16 files; a server needs 43") as caught:
        allow_open_files()
    assert "ulimit -n" in caught.value.hint
