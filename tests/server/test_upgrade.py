"""A database from before certificates were on record."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from fedwon.common.errors import TokenUsed
from fedwon.server import store
from fedwon.server.auditing import trail
from fedwon.server.identity import sites
from fedwon.server.store import AuditRow, Site, Store, Token, now
from tests.server.server_kit import rows


@pytest.fixture
def old(tmp_path):
    """A database of revision 0001 with a site, a used token and an audit line."""
    path = tmp_path / "fedwon.db"
    engine = create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(store.Path(store.__file__).resolve().parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    moment = f"{now():%Y-%m-%d %H:%M:%S.%f}"
    later = f"{now() + timedelta(days=20):%Y-%m-%d %H:%M:%S.%f}"
    with sqlite3.connect(path) as raw:
        raw.execute("insert into sites values (1, 'line-1', ?, ?, null, 0, '0.1.0', null)", (moment, later))
        raw.execute(
            "insert into tokens values (?, 'line-1', ?, ?, ?)", (sites.token_digest("t"), moment, later, moment)
        )
        raw.execute("insert into audit values (1, ?, 'token made', 'line-1', 'valid for 24 h')", (moment,))
    raw.close()
    return path


def test_everything_is_still_there(old):
    opened = Store(old)
    [site] = rows(opened, Site)
    assert (site.name, site.version, site.revoked, site.reason) == ("line-1", "0.1.0", None, "")
    sites.check_enrolled(opened, "line-1")
    assert rows(opened, Token)[0].key is None
    with pytest.raises(TokenUsed):  # nobody knows with which key it was used
        sites.redeem_token(opened, "t", "some key")
    [line] = trail(opened)
    assert (line["actor"], line["times"], line["until"]) == ("", 1, None)
    opened.audit("something", "new")
    assert len(rows(opened, AuditRow)) == 2
    opened.close()
