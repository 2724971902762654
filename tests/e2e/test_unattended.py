"""Joining without a person: invitations in files, one command that joins and takes part, folders left alone."""

from __future__ import annotations

import json
import stat

import pytest
import yaml

from fedwon.common.errors import ConfigError, ConfigMissing, FolderTaken, StorageError, TokenUsed
from tests.e2e.fleet import assert_error, command, images


@pytest.fixture
def invited(fleet):
    """A server that runs, and an invitation for each of two sites."""
    server = fleet.start_server("--outcome", fleet.folder / "outcome")
    out = fleet.folder / "invitations" / "{site}.json"
    done = command("fedwon-server", "enroll", "metal", "paper", "--out", out, "--dir", fleet.dir)
    assert done.returncode == 0, done.stderr
    return fleet, server


def joining(fleet, name, *options):
    data = images(fleet.folder / f"{name}.npz")
    invitation = fleet.folder / "invitations" / f"{name}.json"
    own = ["--data", data, "--threads", 1, "--dir", fleet.folder / name]
    return ["fedwon-client", "join", "--from", invitation, *own, *options]


def test_from_an_invitation_to_the_outcome(invited):
    fleet, server = invited
    for name in ("metal", "paper"):
        path = fleet.folder / "invitations" / f"{name}.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert set(json.loads(path.read_text())) == {"site", "server", "fingerprint", "token"}
    start = ["--unless-joined", "--start", "--until-finished"]
    first = [fleet.spawn(*joining(fleet, name, *start), log=f"first-{name}") for name in ("metal", "paper")]
    server.wait_says("round 1 committed")
    first[0].kill()  # and what restarts it does not know that it has joined
    again = fleet.spawn(*joining(fleet, "metal", *start), log="again-metal")
    said = server.end()
    assert "joined as" not in again.end()
    assert "joined as site paper" in first[1].end()

    assert f"model and scores are in {fleet.folder / 'outcome'} too" in said
    scores = json.loads((fleet.folder / "outcome" / "scores.json").read_text())
    assert set(scores["sites"]) == {"metal", "paper"}
    status = fleet.status()
    assert scores["run"] == status["run"]
    model = (fleet.folder / "outcome" / "model.safetensors").read_bytes()
    assert model == (fleet.runs()[-1] / "model.safetensors").read_bytes()

    out = fleet.folder / "again" / "{site}.json"
    more = command("fedwon-server", "enroll", "paper", "tilted", "--unless-enrolled", "--out", out, "--dir", fleet.dir)
    assert more.returncode == 0
    assert [path.name for path in out.parent.iterdir()] == ["tilted.json"]


def test_an_invitation_counts_once(invited):
    fleet, _ = invited
    assert command(*joining(fleet, "paper")).returncode == 0
    assert_error(command(*joining(fleet, "paper")), FolderTaken)
    assert "Next:" in command(*joining(fleet, "paper", "--unless-joined")).stdout
    other = [*joining(fleet, "paper"), "--dir", fleet.folder / "elsewhere"]
    assert_error(command(*other), TokenUsed)


class TestWrongInput:
    def test_files_that_are_no_invitations(self, fleet, tmp_path):
        (tmp_path / "invitations").mkdir()
        path = fleet.folder / "invitations" / "paper.json"
        line = joining(fleet, "paper")
        assert str(path) in assert_error(command(*line), ConfigMissing)["error"]
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"site": "paper"}')
        assert "`token` is missing" in assert_error(command(*line), ConfigError)["error"]
        path.write_text('{"site": ')
        assert "not valid YAML" in assert_error(command(*line), ConfigError)["error"]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["localhost:1", "--from", "x.json"], "give no other"),
            (["localhost:1", "--token", "x"], "whole line"),
            ([], "whole line"),
        ],
    )
    def test_half_a_line(self, tmp_path, arguments, text):
        done = command("fedwon-client", "join", *arguments, "--data", "digits:paper", cwd=tmp_path)
        assert done.returncode == 2
        assert text in " ".join(done.stderr.replace("│", " ").split())

    def test_one_file_for_two_sites(self, fleet):
        done = command("fedwon-server", "enroll", "a", "b", "--out", fleet.folder / "x.json", "--dir", fleet.dir)
        assert "{site}" in assert_error(done, ConfigError)["hint"]
        assert not (fleet.folder / "x.json").exists()

    def test_a_name_that_would_leave_the_folder(self, fleet):
        out = fleet.folder / "invitations" / "{site}.json"
        done = command("fedwon-server", "enroll", "paper", "../ca", "--out", out, "--dir", fleet.dir)
        assert_error(done, ConfigError)
        assert not out.parent.exists()

    def test_an_outcome_that_cannot_be_written(self, fleet):
        (fleet.folder / "file").write_text("")
        done = command("fedwon-server", "start", "--dir", fleet.dir, "--outcome", fleet.folder / "file")
        assert_error(done, StorageError)
        assert fleet.runs() == []


def test_init_leaves_a_folder_that_is_there_as_it_is(fleet):
    before = (fleet.dir / "server.yaml").read_text()
    assert_error(command("fedwon-server", "init", fleet.dir), FolderTaken)
    assert command("fedwon-server", "init", fleet.dir, "--if-missing").returncode == 0
    assert (fleet.dir / "server.yaml").read_text() == before
    made = command("fedwon-server", "init", fleet.folder / "new", "--if-missing", "--heartbeat", 3)
    assert made.returncode == 0
    assert yaml.safe_load((fleet.folder / "new" / "server.yaml").read_text())["heartbeat_seconds"] == 3.0
