"""The harness of the paper's tables, as its user calls it: a short run, and its checkpoint on a folder never seen."""

import json
import os
import sqlite3
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper.__main__ import _wanted
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.table_rows import test_scores as scores_on_test
from fedwon.client.config import DataConfig
from fedwon.common.errors import DataMissing, RunMissing
from tests.e2e.fleet import assert_error
from tests.server.comparison.test_paired import score

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


def test_what_is_in_no_table_can_be_tried():
    asked = {"protocol": ["digits_small"], "variant": ["fedwon_momentum"], "batch": [4], "seed": None}
    own = Namespace(**asked, command="try", lr=0.1, clipping=0.16, rounds=2)
    (spec,) = _wanted(own)
    assert (spec.variant, spec.batch, spec.rounds) == ("fedwon_momentum", 4, 2)
    assert spec.config.aggregation.server_momentum == 0.9
    assert spec.config.aggregation.weights == "uniform"
    assert all("fedwon_momentum" not in protocol.rows for protocol in PROTOCOLS.values())


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
    sites, model = len(result["scores"]["1"]), sum(path.stat().st_size for path in tmp_path.rglob("round-0001.safe*"))
    assert result["bytes"] == 2 * sites * model
    assert result["seconds"] > 0
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
        assert again["seconds"] >= result["seconds"], "what was worked before the kill counts"
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


def test_a_stand_in_gives_way_to_what_it_stands_for():
    digits, left_out = PROTOCOLS["digits"], PROTOCOLS["digits_without_synth_like"]
    here = {"mnist", "mnist_m", "svhn", "synth_like", "usps"}
    there = {"mnist", "mnist_m", "svhn", "synth_digits", "usps"}
    assert digits.on(here) == digits
    assert left_out.on(here) == left_out
    assert set(digits.on(there).domains) == there
    assert left_out.on(there).partition.unseen(dict.fromkeys(there, DataConfig(path="x"))).keys() == {"synth_digits"}
    assert PROTOCOLS["office"].on({"amazon"}) == PROTOCOLS["office"]


def test_an_unseen_domain_is_scored_alone():
    both = {part: score([1, 0], [2]) for part in ("validation", "test")}
    result = {"failed": None, "scores": {"20": {"seen": both, "unseen": {"test": score([1, 1], [2])}}}}
    assert scores_on_test(result, PROTOCOLS["digits_small"]).keys() == {"unseen"}
    del result["scores"]["20"]["unseen"]
    assert scores_on_test(result, PROTOCOLS["digits_small"]).keys() == {"seen"}


def test_there_must_be_a_checkpoint(tmp_path, image_sets):
    said = paper(tmp_path, image_sets, "evaluate", "--protocol", "ablation", "--data", "digits", fails=RunMissing)
    assert "no checkpoint" in said
    assert "run --protocol ablation" in said


def test_a_folder_that_is_not_there_is_an_error_in_words(tmp_path, image_sets):
    missing = tmp_path / "not-here"
    said = paper(tmp_path, image_sets, "evaluate", "--protocol", "digits_small", "--data", missing, fails=DataMissing)
    assert f"There is no folder {missing}" in said
