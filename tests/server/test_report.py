"""What `status` and `sites` say."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from fedwon.server import report
from fedwon.server.identity import sites
from fedwon.server.store import now


def test_no_runs_and_no_sites(store):
    assert report.runs(store) == report.sites(store) == []


def test_a_run_that_has_just_begun(make_run, store):
    run = make_run(rounds=3)
    shown = report.runs(store)[0]
    assert json.loads(json.dumps(shown)) == shown
    assert {key: shown[key] for key in ("run", "state", "reason", "method", "classes", "rounds", "committed")} == {
        "run": run.id,
        "state": "running",
        "reason": "",
        "method": "fedwon",
        "classes": ["bad", "good"],
        "rounds": 3,
        "committed": 0,
    }
    assert shown["model"] == f"runs/{run.id}/round-0000.safetensors"
    assert shown["digest"] == run.last()[1].blob.digest
    assert shown["made"].endswith("+00:00")
    assert (shown["ended"], shown["waiting_for"], shown["scores"]) == (None, [], {})
    assert report.run_row(shown, Path("x")) == (run.id, "running", "0 of 3", "-", "-", "-")


def test_what_a_server_that_was_killed_has_left(make_run, store):
    run = make_run(rounds=3)
    run.sent("t0", 1, "a", "train")
    shown = report.runs(store, served=False)[0]
    assert (shown["state"], shown["reason"]) == ("interrupted", report.INTERRUPTED)
    assert shown["waiting_for"] == ["a"]
    run.finish("failed", "a reason")
    shown = report.runs(store, served=False)[0]
    assert (shown["state"], shown["reason"]) == ("failed", "a reason")


def test_whom_a_running_round_waits_for(make_run, store):
    run = make_run()
    run.sent("t0", 1, "left over from a crash", "train")
    run.commit(1, run.last()[1], seconds=1, sites=())
    for site in ("b", "a", "c"):
        run.sent(f"t-{site}", 2, site, "train")
    run.settled("t-c", "received")
    assert report.runs(store)[0]["waiting_for"] == ["a", "b"]
    run.finish("stopped")
    assert report.runs(store)[0]["waiting_for"] == []


def measured(correct, examples, part="validation", loss=0.5):
    return {f"{part}-correct": correct, f"{part}-examples": examples, f"{part}-loss": loss}


def test_the_newest_scores_of_each_site(make_run, store):
    run = make_run()
    run.measured(0, "a", measured(1, 10))
    run.measured(1, "a", {**measured(5, 10), "train-loss": 1.0})
    run.measured(2, "a", {"train-loss": 0.9})  # trained, not yet measured
    run.measured(2, "b", measured(9, 10, "test"))
    scores = report.runs(store)[0]["scores"]
    assert scores["a"] == {
        "round": 1,
        "site": "a",
        "part": "validation",
        "correct": 5,
        "examples": 10,
        "loss": 0.5,
        "accuracy": 0.5,
    }
    assert (scores["b"]["part"], scores["b"]["accuracy"]) == ("test", 0.9)
    row = report.run_row(report.runs(store)[0], Path("x"))
    assert row[3:5] == ("70.0 %", "a 50.0 %")
    assert row[5] == f"x/runs/{run.id}/round-0000.safetensors"


def test_a_site_without_images_to_measure_on(make_run, store):
    make_run().measured(0, "a", measured(0, 0))
    assert report.runs(store)[0]["scores"]["a"]["accuracy"] == 0.0


def test_runs_come_newest_first(make_run, store):
    first, second = make_run(), make_run()
    assert [row["run"] for row in report.runs(store)] == [second.id, first.id]


def test_sites(store):
    sites.enrolled(store, "b", now() + timedelta(days=29.7))
    sites.enrolled(store, "a", now() - timedelta(days=1))
    sites.enrolled(store, "c", now() + timedelta(days=3))
    sites.connected(store, "b", "0.1.0", {"good": {"train": 5, "validation": 1}, "bad": {"train": 4}})
    sites.connected(store, "c", "0.1.0", {})
    sites.disconnected(store, "c")
    shown = report.sites(store)
    assert json.loads(json.dumps(shown)) == shown
    assert [row["site"] for row in shown] == ["a", "b", "c"]
    assert (shown[1]["connected"], shown[1]["version"]) == (True, "0.1.0")
    assert shown[1]["certificate_days"] == pytest.approx(29.7, abs=0.1)
    lines = [report.site_row(row) for row in shown]
    assert lines[0] == ("a", "never connected", "-", "-", "-", "-", "expired")
    assert lines[1][1:2] + lines[1][3:] == ("connected", "10", "2", "0.1.0", "30 days")
    assert lines[2][1] == "away"
    assert lines[2][6] == "3 days, ends soon"
