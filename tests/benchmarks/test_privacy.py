"""The table of accuracy against epsilon: from the runs that are kept, tuned without a look at test images."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import privacy
from benchmarks.privacy import MARK, PAGE, RATES, RESULTS, TUNING_SEED, Spec, chosen, rows, table


def test_the_page_shows_the_runs_that_are_kept():
    assert table() in PAGE.read_text(encoding="utf-8").split(MARK)[1]


def test_no_tuning_run_has_opened_test_images_and_no_rate_at_the_end_of_the_grid_won():
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    assert all((row["accuracy"] is None) == (row["seed"] == TUNING_SEED) for row in kept)
    assert {chosen(row, -1.0).lr for row in rows()} <= set(RATES[1:-1])


def test_runs_differ_by_name_and_are_as_private_as_they_say():
    specs = [replace(row, lr=0.3, seed=seed) for row in rows() for seed in (1, 2)]
    assert len({spec.path for spec in specs}) == len(specs)
    strong, weak = (Spec("fedwon", "sites", epsilon, 0.3, 1).config().privacy.sites for epsilon in (10.0, 1000.0))
    assert strong.epsilon(privacy.ROUNDS) == pytest.approx(10.0, rel=0.01)
    assert weak.epsilon(privacy.ROUNDS) == pytest.approx(1000.0, rel=0.01)
    assert Spec("fedwon", "none", 0.0, 0.3, 1).config().privacy.examples.noise is None


def test_the_climb_follows_the_validation_images(monkeypatch, tmp_path):
    monkeypatch.setattr(privacy, "RESULTS", tmp_path)
    asked = []
    best = {3.0: 0.9, 1.0: 0.8, 0.3: 0.7}
    monkeypatch.setattr(privacy, "run", lambda spec: asked.append(spec) or {"validation": best.get(spec.lr, 0.1)})
    found = chosen(Spec("group norm", "examples", 2.0, 0.0, 0), float("inf"))
    assert (found.lr, found.epsilon) == (3.0, 2.0)
    assert [spec.lr for spec in asked] == [0.3, 0.1, 1.0, 3.0, 10.0]
    assert {(spec.seed, spec.epsilon) for spec in asked} == {(TUNING_SEED, 8.0)}
