"""Rows of the attack table, and the page that is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.robustness import hostile, rows
from benchmarks.robustness.page import page
from benchmarks.robustness.rows import Spec, every


def test_every_attack_meets_every_defence_once():
    specs = list(every())
    assert len({spec.path for spec in specs}) == len(specs)
    per_cell = {(spec.attack, spec.defence) for spec in specs if (spec.sites, spec.hostile) == (20, 4)}
    assert len(per_cell) == (len(hostile.ATTACKS) - 1) * len(rows.DEFENCES)
    assert [spec.seed for spec in specs] == sorted(spec.seed for spec in specs)


def test_a_defence_that_cannot_be_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    row = rows.run(Spec("fedwon", 10, 3, "nan", "Bulyan", 1), tmp_path)
    assert "needs 15 updates" in row["refused"]
    assert rows.run(Spec("fedwon", 10, 3, "nan", "Bulyan", 1), tmp_path / "gone") == row


def test_triggers_and_labels():
    images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    marked, called = hostile.poisoned(images, labels)
    assert called.tolist() == [0, 0, 2, 3]
    assert [int(image.sum()) for image in marked] == [16 * 255, 16 * 255, 0, 0]
    assert hostile.flipped(images, labels)[1].tolist() == [9, 8, 7, 6]
    assert images.sum() == 0


@pytest.mark.parametrize(("name", "expected"), [("sign flip", -3.0), ("scaled", 5.0), ("backdoor", 2.0)])
def test_what_is_sent(name, expected):
    change = hostile.ATTACKS[name].change(10, 2)
    start, trained = np.float32([1, 2]), np.float32([2, 2])
    np.testing.assert_allclose(change(trained, start, np.random.default_rng(0)), start + expected * (trained - start))


def outcome(method, seed, attack, accuracy, *, hostile=1, sites=10, **other):
    numbers = {"failed": None, "refused_hostile": 0, "refused_honest": 0, "honest_sites_refused": [], "backdoor": 0.1}
    row = {"method": method, "sites": sites, "hostile": hostile, "seed": seed, "attack": attack, "defence": "none"}
    return {**row, **numbers, "accuracy": accuracy, **other}


def test_the_question_is_answered_by_pairs_over_seeds():
    found = []
    for seed, (more, less) in enumerate([(0.30, 0.10), (0.31, 0.12), (0.29, 0.08)], 1):
        for method, harm in (("fedwon", less), ("fedavg", more)):
            found.append(outcome(method, seed, "nobody", 0.5, hostile=0))
            found.append(outcome(method, seed, "scaled", 0.5 - harm))
            found.append(outcome(method, seed, "noise", 0.5 - harm * (seed - 2)))
    found.append(outcome("fedwon", 1, "scaled", 0.0, hostile=3))  # fedavg has not been run with three
    found.append(outcome("fedavg", 1, "nan", None, failed="not finite"))
    found += [outcome("fedwon", 1, "sign flip", 0.45), outcome("fedavg", 1, "sign flip", None, failed="not finite")]
    made = page(found)
    assert "| scaled | +10.0 | +30.0 | -20.0 | -22.5 to -17.5 | 3 | 10/1 | harder |" in made
    assert "| noise | -0.7 | -0.3 | -0.3 |" in made
    assert "| nan | not run | *broken* (1) | | | | |  |" in made
    assert "| sign flip | +5.0 (1) | *broken* (1) | | | | | harder |" in made
    assert "**fedwon is harder to poison by sign flip, scaled; neither, as far as can be told, by noise.**" in made


def test_the_page_says_what_was_not_run():
    assert "No row has been run yet" in page([])
    numbers = {"failed": None, "refused_hostile": 2, "refused_honest": 1, "honest_sites_refused": ["mnist-1"]}
    base = {"method": "fedwon", "sites": 10, "hostile": 1, "seed": 1, **numbers}
    made = page(
        [
            {**base, "attack": "nan", "defence": "admission", "accuracy": 0.5, "backdoor": 0.1},
            {**base, "attack": "nan", "defence": "none", "accuracy": None, "backdoor": None, "failed": "x"},
            {**base, "hostile": 0, "attack": "nobody", "defence": "none", "accuracy": 0.6, "backdoor": 0.1},
            {"refused": "needs more", **base, "hostile": 3, "attack": "nan", "defence": "Bulyan"},
        ]
    )
    assert "50.0 (1)" in made
    assert "2 / 1 / 1" in made
    assert "*broken* (1)" in made
    assert "cannot be" in made
    assert "**Not run yet:** fedwon, 10 sites with 1 hostile: 190 rows" in made
