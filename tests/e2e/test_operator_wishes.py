"""`fedwon-server pause`, `resume` and `stop` on a real run."""

from __future__ import annotations

import subprocess

import pytest

from fedwon.common.errors import ConfigError, RunMissing
from tests.e2e.fleet import BIN, PATIENCE, SITES, assert_error, command, environment, wait_until


@pytest.fixture
def running(fleets):
    """A run that would go on for long, past its first round."""
    fleet = fleets(rounds=2000)
    for site in SITES:
        fleet.site(site)
    server = fleet.start_server()
    for site in SITES:
        fleet.start_site(site)
    server.wait_says("round 1 committed")
    return fleet, server


def asked(fleet, wish):
    done = command("fedwon-server", wish, "--dir", fleet.dir)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_pauses_also_over_a_crash_goes_on_and_stops(running):
    fleet, server = running
    assert "pauses at the end of its round" in asked(fleet, "pause")
    wait_until(lambda: fleet.status()["state"] == "paused", "the pause")
    held = fleet.status()
    assert (held["wish"], held["waiting_for"]) == ("pause", [])
    assert "an operator paused it" in held["reason"]
    server.kill()
    server = fleet.start_server("--resume")
    server.wait_says("an operator paused it")
    assert fleet.status()["committed"] == held["committed"]
    asked(fleet, "resume")
    wait_until(lambda: fleet.status()["committed"] > held["committed"], "the next round")
    assert "start --dir" in asked(fleet, "stop")
    assert "--resume" in server.end(0)
    stopped = fleet.status()
    assert stopped["state"] == "stopped"
    assert "An operator asked the run to stop" in stopped["reason"]
    server = fleet.start_server("--resume")  # and the wish was granted: it does not stop again
    wait_until(lambda: fleet.status()["committed"] > stopped["committed"], "the round after that")
    trail = command("fedwon-server", "audit", "--dir", fleet.dir).stdout
    assert all(action in trail for action in ("pause asked for", "pause ended", "stop asked for"))


def test_a_run_that_waits_for_sites_can_be_stopped(fleets):
    fleet = fleets(rounds=2000, participation={"minimum": 2, "away_seconds": 1})
    for site in SITES:
        fleet.site(site)
    server = fleet.start_server()
    sites = [fleet.start_site(site) for site in SITES]
    server.wait_says("round 1 committed")
    sites[0].kill()
    wait_until(lambda: fleet.status()["state"] == "paused", "the pause")
    asked(fleet, "stop")
    server.end(0)
    assert fleet.status()["state"] == "stopped"


def test_without_a_run_there_is_nothing_to_wish(fleet):
    for wish in ("pause", "resume", "stop"):
        assert_error(command("fedwon-server", wish, "--dir", fleet.dir), RunMissing)


def test_the_password_of_the_page(fleet):
    def given(text):
        words = [str(BIN / "fedwon-server"), "page", "password", "--stdin", "--dir", str(fleet.dir)]
        return subprocess.run(words, input=text, capture_output=True, text=True, env=environment(), timeout=PATIENCE)

    assert_error(given("short\n"), ConfigError)
    assert given("three odd words\n").returncode == 0
    assert (fleet.dir / "pki" / "page-password").read_text().startswith("$argon2id$")
