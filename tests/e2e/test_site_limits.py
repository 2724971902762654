"""A site that does not do all that a server asks, as real processes."""

from __future__ import annotations

from tests.e2e.faults import change_site


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
