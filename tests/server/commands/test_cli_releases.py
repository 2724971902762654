"""The operator's commands about releases, as typed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from fedwon.common.errors import ConfigError, Refused, ReleaseMissing
from fedwon.server.cli import app
from fedwon.server.commands import releases as cli_releases
from fedwon.server.releases.orders import by_site, open_orders
from tests.server.release_kit import make_home, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("typed") / "server")
    run = make_run(home, rounds=1)

    def type_(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--dir", str(home.folder)])

    released = type_("release", run.id, "--round", "1", "--name", "r1")
    yield SimpleNamespace(home=home, run=run, type=type_, released=released)
    home.store.close()


def test_a_release_is_told_in_words(made):
    assert made.released.exit_code == 0, made.released.output
    lines = made.released.stdout.splitlines()
    assert lines[0].startswith(f"released r1: round 1 of {made.run.id}, in ")
    assert "model.onnx: largest difference" in lines[1]
    assert "random images" in lines[1]
    assert lines[2] == "  worst of 1 sites: left 25.0%"
    assert made.type("release", "--round", "two").exit_code == 2


def test_promote_hold_and_rollback(made):
    gates = ["--accuracy", 0.9, "--defect", "bad", "--escape", 0.01, "--overkill", 0.1, "--images", 5]
    done = made.type("promote", "r1", "--all", *gates)
    assert done.exit_code == 0, done.output
    assert "r1 is promoted to left; no server runs" in done.stdout
    row = by_site(made.home.store)[0]
    assert row["gates"] == {"accuracy": 0.9, "defects": ["bad"], "escape": 0.01, "overkill": 0.1, "images": 5}
    assert "waiting since" in made.type("releases").stdout
    assert "left: held" in made.type("hold", "--site", "left").stdout
    assert open_orders(made.home.store) == {}
    assert "promoted to no site" in made.type("promote", "r1", "--all").stdout
    assert "go back" in made.type("rollback", "--site", "left").stdout
    assert open_orders(made.home.store)["left"].kind == "rollback"


def test_what_cannot_be_promoted(made):
    for error, arguments in (
        (ReleaseMissing, ["r9", "--all"]),
        (Refused, ["r1", "--site", "nobody"]),
        (ConfigError, ["r1"]),
        (ConfigError, ["r1", "--all", "--accuracy", 1.5]),
        (ConfigError, ["r1", "--all", "--escape", 0.1]),
        (ConfigError, ["r1", "--all", "--defect", "dent"]),
    ):
        assert isinstance(made.type("promote", *arguments).exception, error), arguments


def test_releases_for_machines_and_before_there_are_any(made, tmp_path):
    shown = json.loads(made.type("releases", "--json").stdout)
    assert [release["name"] for release in shown["releases"]] == ["r1"]
    assert "task" not in shown["releases"][0]
    other = make_home(tmp_path / "other")
    other.store.close()
    done = CliRunner().invoke(app, ["releases", "--dir", str(other.folder)])
    assert done.stdout.startswith("no releases yet")
    assert cli_releases._worst(SimpleNamespace(metrics={})) is None
