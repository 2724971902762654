"""`start --auto-resume`: what a service manager or a container's restart policy calls, whatever happened before."""

from __future__ import annotations

import re

import pytest

from tests.e2e.fleet import command

SITES = ("metal", "paper")


def test_a_run_that_was_cut_off_goes_on_and_a_finished_one_is_followed_by_a_new_one(fleet):
    for name in SITES:
        fleet.site(name)
        fleet.start_site(name)
    first = fleet.start_server("--auto-resume")
    first.wait_says("round 1 committed")
    first.kill()

    second = fleet.start_server("--auto-resume")
    said = second.end()
    assert re.search(r"going on: run tiny-\S+ has \d of 3 rounds", said)
    assert "a new run begins" not in said
    assert len(fleet.runs()) == 1

    third = fleet.start_server("--auto-resume")
    assert "going on" not in third.end()
    cut_off, undisturbed = fleet.runs()
    assert len(fleet.digests(cut_off)) == 4
    assert fleet.digests(cut_off) == fleet.digests(undisturbed)

    fourth = fleet.start_server("--auto-resume", "--once")  # of a cluster, which starts again whatever ends
    fourth.wait_says(r"run tiny-\S+ has finished, and --once begins no other: serving sites until stopped")
    assert command("fedwon-server", "health", "--dir", fleet.dir).returncode == 0
    fourth.stop(0)
    assert len(fleet.runs()) == 2
    fleet.configure(name="another", rounds=1)
    fleet.start_server("--auto-resume", "--once").end()
    assert [path.name.split("-")[0] for path in fleet.runs()] == ["tiny", "tiny", "another"]


@pytest.mark.parametrize("other", ["--auto-resume", "--run", "--once"])
def test_what_resume_cannot_be_joined_with(fleet, other):
    wrong = [other, *([fleet.dir / "server.yaml"] if other == "--run" else [])]
    done = command("fedwon-server", "start", "--dir", fleet.dir, "--resume", *wrong)
    assert done.returncode == 2
    assert "goes with none of" in " ".join(done.stderr.split())
    assert fleet.runs() == []
