"""The harness of the paper's tables, as its user calls it: a short run, and its checkpoint on a folder never seen."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedwon.common.errors import DataMissing, RunMissing
from tests.e2e.fleet import assert_error

ROOT = Path(__file__).resolve().parent.parent.parent


def paper(tmp_path, image_sets, *arguments, fails=None):
    """Call the harness and return what it printed to standard output; to standard error, if it is to fail."""
    command = [sys.executable, "-m", "benchmarks.paper", "--results", tmp_path / "results", "--checkpoints", tmp_path]
    done = subprocess.run(
        [*map(str, command), *arguments],
        cwd=ROOT,
        env={**os.environ, "FEDWON_DATA": str(image_sets)},
        capture_output=True,
        text=True,
        check=False,
    )
    if fails is not None:
        assert_error(done, fails)
        return done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_a_run(folder):
    """Give the checkpoint of a trial the name of a run of a table: `evaluate` leaves trials out."""
    (trial,) = folder.glob("runs/*/*-r1-seed*")
    trial.rename(trial.with_name(trial.name.replace("-r1-", "-")))


def unseen(folder):
    """A folder of two domains in a layout of their own: grey arrays, no test part, three of the six classes."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    for name in ("left", "right"):
        images, labels = rng.integers(0, 256, (12, 20, 20, 1), np.uint8), np.arange(12) % 3
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    return folder


def break_off_behind_the_commit(folder):
    """Leave what a kill leaves that comes between the commit of the last round and its score."""
    for path in [*(folder / "results").rglob("*.json"), *folder.rglob("scores/*.json")]:
        path.unlink()
    (database,) = folder.rglob("fedwon.db")
    with sqlite3.connect(database) as connection:
        connection.execute("update runs set state = 'running', ended = null")


@pytest.mark.data
@pytest.mark.parametrize(
    ("variant", "means"), [("fedwon", "the global model"), ("fedbn", "the global model with its own layers")]
)
def test_a_short_run_is_kept_and_its_checkpoint_scores_other_images(tmp_path, image_sets, variant, means):
    row = ["--protocol", "magnetic_tile", "--variant", variant, "--batch", "8"]
    paper(tmp_path, image_sets, "try", *row, "--lr", "0.05", "--clipping", "0.16", "--rounds", "1")
    (kept,) = (tmp_path / "results").rglob("*.json")
    result = json.loads(kept.read_text(encoding="utf-8"))
    assert result["failed"] is None
    assert set(result["scores"]) == {"1"}
    for site in result["scores"]["1"].values():
        assert set(site) == {"validation"}, "a trial must not look at test images"
        assert sum(site["validation"]["class_correct"]) == site["validation"]["correct"]

    before = kept.stat().st_mtime_ns
    paper(tmp_path, image_sets, "try", *row, "--lr", "0.05", "--clipping", "0.16", "--rounds", "1")
    assert kept.stat().st_mtime_ns == before, "what has a result is not run again"

    if variant == "fedwon":
        break_off_behind_the_commit(tmp_path)
        paper(tmp_path, image_sets, "try", *row, "--lr", "0.05", "--clipping", "0.16", "--rounds", "1")
        again = json.loads(kept.read_text(encoding="utf-8"))
        assert again["resumed"]
        assert again["scores"] == result["scores"]

    as_a_run(tmp_path)
    scores = json.loads(
        paper(
            tmp_path, image_sets, "evaluate", "--protocol", "magnetic_tile", "--data", str(image_sets / "magnetic_tile")
        )
    )
    (domains,) = scores["magnetic_tile"].values()
    assert {name: score["examples"] for name, score in domains.items()} == {
        "exp1": 178,
        "exp2": 178,
        "exp3": 179,
        "exp4": 179,
        "exp5": 180,
        "exp6": 180,
    }
    assert {score["served_by"] for score in domains.values()} == {means}


@pytest.mark.data
def test_classes_that_the_model_does_not_know_are_an_error_that_says_so(tmp_path, image_sets):
    row = ["--protocol", "magnetic_tile", "--variant", "fedwon", "--batch", "8"]
    paper(tmp_path, image_sets, "try", *row, "--lr", "0.05", "--rounds", "1")
    as_a_run(tmp_path)
    scores = json.loads(
        paper(
            tmp_path, image_sets, "evaluate", "--protocol", "magnetic_tile", "--data", str(unseen(tmp_path / "unseen"))
        )
    )
    (domains,) = scores["magnetic_tile"].values()
    assert all("class" in score["error"] for score in domains.values())


def test_there_must_be_a_checkpoint(tmp_path, image_sets):
    said = paper(tmp_path, image_sets, "evaluate", "--protocol", "ablation", "--data", "digits", fails=RunMissing)
    assert "no checkpoint" in said
    assert "run --protocol ablation" in said


def test_a_folder_that_is_not_there_is_an_error_in_words(tmp_path, image_sets):
    missing = tmp_path / "not-here"
    said = paper(tmp_path, image_sets, "evaluate", "--protocol", "digits_small", "--data", missing, fails=DataMissing)
    assert f"There is no folder {missing}" in said
