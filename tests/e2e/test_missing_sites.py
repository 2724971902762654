"""Sites that leave for good, come late, or are too few: as an operator meets them, with real processes."""

from __future__ import annotations

import re

from tests.e2e.fleet import SITES, wait_until


def started(fleet, *names):
    for name in names:
        fleet.site(name)
    server = fleet.start_server()
    return server, *(fleet.start_site(name, "--until-finished") for name in names)


def test_who_leaves_is_not_waited_for(fleets):
    participation = {"minimum": 2, "away_seconds": 1}
    fleet = fleets(rounds=4, participation=participation, training={"batch_size": 1, "epochs": 3})
    server, *sites = started(fleet, *SITES, "tilted")
    sites[-1].wait_says("train, round")
    sites[-1].kill()
    server.wait_says("no update from tilted: the site has had no connection for 1 s")
    server.end()
    for site in sites[:2]:
        site.end()
    assert fleet.status()["committed"] == 4


def test_a_run_short_of_sites_pauses_and_goes_on_with_another(fleets):
    participation = {"minimum": 2, "away_seconds": 1, "retries": 0, "pause_seconds": 600}
    fleet = fleets(rounds=2, participation=participation, training={"batch_size": 1, "epochs": 3})
    server, metal, paper = started(fleet, *SITES)
    metal.wait_says("train, round 1 ")
    metal.kill()
    server.wait_says("the run pauses: Round 1 of .* has 1 usable updates of 2 needed")
    status = fleet.status()
    assert status["state"] == "paused"
    assert "metal (the site has had no connection for 1 s)" in status["reason"]
    fleet.site("tilted")
    tilted = fleet.start_site("tilted", "--until-finished")
    server.end()
    for site in (paper, tilted):
        site.end()
    assert fleet.status()["state"] == "finished"
    assert set(fleet.status()["scores"]) == {"paper", "tilted"}


def test_a_paused_run_stops_in_order_and_is_resumed(fleets, undisturbed):
    participation = {"minimum": 2, "away_seconds": 1, "retries": 0, "pause_seconds": 600}
    fleet = fleets(participation=participation)
    server, metal, paper = started(fleet, *SITES)
    server.wait_says("round 1 committed")
    metal.kill()
    wait_until(lambda: fleet.status()["state"] == "paused", "a pause")
    server.stop(0)
    assert fleet.status()["state"] == "stopped"
    again = fleet.start_server("--resume")
    site = fleet.start_site("metal", "--until-finished")
    for process in (again, paper, site):
        process.end()
    assert fleet.digests() == undisturbed


def test_a_late_update_counts_in_a_later_round(fleets):
    """One site takes twenty times as many steps as the other."""
    participation = {"minimum": 2, "quorum": 1, "patience_seconds": 0.1, "late_rounds": 40}
    fleet = fleets(rounds=40, participation=participation, training={"batch_size": 20, "lr": 0.001, "epochs": 40})
    fleet.site("paper")
    fleet.site("metal", batch_size=1)
    server = fleet.start_server()
    sites = [fleet.start_site(name, "--until-finished") for name in SITES]
    server.end()
    for site in sites:
        site.end()
    said = server.text()
    assert "round 1: no update from metal: no answer before the round closed; it still counts" in said
    assert re.search(r"round ([2-9]|[1-4]\d): metal: model 0 has", said)
    assert fleet.said("site-metal").count("train, round 1 ") == 1
