"""Strangers and a hostile site flood a real server: its memory stays within the bound, and rounds go on.

`python -m benchmarks.floods` does the same with 10,000 connections; docs/security.md states the bound.
"""

from __future__ import annotations

import pytest

from benchmarks.flooding import FLOODS, SITES, STRANGERS
from benchmarks.floods import PARTICIPATION, Flooded, table
from fedwon.server.link.doors import ADDRESS_AT_ONCE, STRANGERS_CALLS

CHEAP = {"silent": 300, "unfinished_calls": 160, "big_messages": 1, "endless_hellos": 1, "slow_readers": 40}


@pytest.fixture
def flooded(fleets, tmp_path):
    fleet = fleets(rounds=1_000_000, participation={**PARTICIPATION, "pause_seconds": None})
    fleet.site("metal")
    fleet.enrol("hostile", tmp_path / "hostile")
    server = fleet.start_server()
    fleet.start_site("metal")
    config = fleet.config
    made = Flooded(config.listen, config.enrolment, server.process, fleet.dir / "fedwon.db", tmp_path / "hostile")
    yield made
    made.stop()


def test_a_flooded_server_stays_within_its_memory_and_ends_its_rounds(flooded):
    rows = [flooded.flood(kind, 1.0, count) for kind, count in CHEAP.items()]
    assert [row["kind"] for row in rows if not row["holds"]] == [], table(rows)
    seen = {row["kind"]: row for row in rows}
    assert seen["silent"]["standing"] == 300  # below the limit nobody is turned away
    assert seen["unfinished_calls"]["standing"] <= ADDRESS_AT_ONCE < 160 - STRANGERS_CALLS
    assert seen["big_messages"]["refused"] == seen["big_messages"]["tried"] > 0


def test_every_flood_says_what_it_is_and_who_does_it():
    assert set(FLOODS) == set(STRANGERS) | set(SITES)
    assert all(flood.__doc__ for flood in FLOODS.values())
