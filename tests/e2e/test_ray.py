"""Flower's simulation engine and the one process give the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fedwon.common.config import load
from fedwon.server.engines.simulating import SimulationConfig, simulate
from tests.e2e.fleet import PATIENCE, TINY, command, digests, images
from tests.e2e.marked import MARK, marked, wait_gone

LAST_WORDS = 30.0  # Ray's agents look once in a while whether their parent lives


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """FedBN: what stays at a site must find its way through Ray's workers as well."""
    (tmp_path / "data").mkdir()
    for name in ("paper", "metal"):
        images(tmp_path / "data" / f"{name}.npz")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**TINY, "rounds": 2, "method": "fedbn", "sites": {"metal": {"batch_size": 4}}}))
    return path


def test_ray_and_the_one_process_give_the_same_model_in_every_round(config: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="fedwon[simulation] is not installed")
    data = str(tmp_path / "data")
    with marked() as environment:
        done = command(
            *("fedwon-server", "simulate", config, "--data", data, "--out", tmp_path / "ray", "--json"),
            *("--sites", 4, "--fraction", 0.75, "--engine", "ray", "--workers", 2),
            env=environment,
            timeout=2 * PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert wait_gone(environment[MARK], LAST_WORDS) == []
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report["sites"]) == {"metal--0000", "metal--0001", "paper--0000", "paper--0001"}
    assert report["failures"] == {}
    assert len(report["round_seconds"]) == 2

    settings = load(SimulationConfig, config).changed(None, 0.75)
    alone = simulate(settings, data, tmp_path / "alone", [], virtual=4)
    [run] = (tmp_path / "ray" / "runs").iterdir()
    expected = digests(alone.outcome.model.parent)
    assert len(set(expected)) == 3  # the initial model and two rounds
    assert digests(run) == expected
    assert {site: row["correct"] for site, row in report["sites"].items()} == {
        score.site: score.correct for score in alone.outcome.evaluation.scores
    }
