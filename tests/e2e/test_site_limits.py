"""A site that does not do all that a server asks, as real processes."""

from __future__ import annotations

import json

from fedwon.common.surveys import UNTOLD
from tests.e2e.faults import change_site
from tests.e2e.fleet import command


def test_a_task_beyond_a_sites_limits_is_given_back_and_the_run_goes_on_without_it(fleets):
    fleet = fleets(rounds=1, participation={"minimum": 2, "quorum": 1})
    folder = fleet.site("paper")
    change_site(folder, limits={"least_steps": 10_000})
    fleet.site("metal")
    server = fleet.start_server()
    paper, metal = (fleet.start_site(name, "--until-finished") for name in ("paper", "metal"))
    server.wait_says("no update from paper: beyond-limits: This site sends no update of fewer than 10000 steps")
    server.end()
    for site in (paper, metal):
        site.end()
    assert len(fleet.digests()) == 2
    assert "task failed: This site sends no update of fewer than 10000 steps" in paper.text()


def test_a_site_trains_privately_until_its_own_budget_ends(fleets):
    fleet = fleets(rounds=3, participation={"minimum": 2, "quorum": 1}, privacy={"examples": {"noise": 2.0}})
    folders = {name: fleet.site(name) for name in ("paper", "metal")}
    change_site(folders["metal"], privacy={"most_epsilon": 2.5}, limits={"show_counts": False})
    server = fleet.start_server()
    sites = [fleet.start_site(name, "--until-finished") for name in folders]
    server.wait_says("no update from metal: privacy-spent: With this task all runs together would have cost epsilon")
    server.end()
    for site in sites:
        site.end()
    assert len(fleet.digests()) == 4
    steps = {name: json.loads((folder / "privacy.json").read_text())["rows"] for name, folder in folders.items()}
    listed = json.loads(command("fedwon-server", "sites", "--dir", fleet.dir, "--json").stdout)
    told = {site["site"]: site["data"] for site in listed["sites"]}
    assert set(told["metal"]) == {*told["paper"], UNTOLD}
    assert [name for name, counts in told["metal"].items() if any(counts.values())] == [UNTOLD]
    assert len(steps["paper"]) == 1
    assert sum(row["steps"] for row in steps["metal"]) < steps["paper"][0]["steps"]
