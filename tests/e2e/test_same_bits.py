"""A federation of real processes and the simulation give the same bits."""

from __future__ import annotations

import json

import yaml

from tests.e2e.fleet import TINY, command, digests


def test_grpc_and_simulation_give_the_same_model_in_every_round(fleet, tmp_path):
    fleet.site("metal", "digits:metal", batch_size=1)
    fleet.site("paper", "digits:paper")
    server = fleet.start_server()
    sites = [fleet.start_site(name, "--until-finished") for name in ("paper", "metal")]
    server.end()
    for site in sites:
        site.end()
    real = fleet.digests()

    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({**TINY, "domains": ["metal", "paper"], "sites": {"metal": {"batch_size": 1}}}))
    out = tmp_path / "simulated"
    done = command("fedwon-server", "simulate", config, "--data", "digits", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    [run] = (out / "runs").iterdir()

    assert len(real) == 4  # the initial model and three rounds
    assert len(set(real)) == 4
    assert digests(run) == real
    check_report(done.stdout.splitlines()[-1], fleet.status())


def check_report(line: str, status: dict) -> None:
    report = json.loads(line)
    assert set(report["sites"]) == {"metal", "paper"}
    scores = [site["accuracy"] for site in report["sites"].values()]
    assert report["mean_accuracy"] == sum(scores) / 2
    assert report["seed"] == 7
    assert report["rounds"] == 3
    assert report["seconds"] > 0
    assert report["failures"] == {}
    assert {"fedwon", "flwr", "torch", "python"} <= set(report["versions"])
    for name, site in report["sites"].items():  # the same counts as the federation had
        assert status["scores"][name]["correct"] == site["correct"]
