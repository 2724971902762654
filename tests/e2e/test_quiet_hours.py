"""A site whose line runs: the server sees it, does not ask it, and goes on when the line stops."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.fleet import command, wait_until

NICE = 7


def nice_levels(pid: int) -> set[int]:
    """Of all threads of a process."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {int(text.rsplit(")", 1)[1].split()[16]) for text in stats}


def test_a_run_waits_for_a_site_whose_line_runs_and_begins_when_it_stops(fleets):
    fleet = fleets(rounds=1, participation={"minimum": 1})
    folder = fleet.site("paper", nice=NICE, schedule={"busy_file": "busy"})
    (folder / "busy").touch()
    server = fleet.start_server()
    site = fleet.start_site("paper", "--until-finished")
    site.wait_says(r"connected to")
    site.wait_says(r"this site is not available \(its line runs\)")

    def state() -> dict:
        done = command("fedwon-server", "sites", "--dir", fleet.dir, "--json")
        return json.loads(done.stdout)["sites"][0]

    wait_until(lambda: state()["unavailable"], "the site's word on record")
    assert state()["connected"]
    assert nice_levels(site.pid) == {NICE}
    assert not server.says("round 1: paper")
    (folder / "busy").unlink()
    server.end()
    assert server.says("round 1 committed")
    assert "site is available" in server.text()
    site.end()
