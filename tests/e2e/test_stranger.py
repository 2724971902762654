"""The way of somebody who has never seen fedwon: init, enroll, join, check, start, status, evaluate."""

from __future__ import annotations

import json
import re
import signal
import stat
from pathlib import Path

import pytest
import yaml

from fedwon.common import errors
from tests.e2e.fleet import TINY, Fleet, Process, assert_error, command, environment, free_port

NAMES = ("paper", "backlight")


class Journey:
    """What the stranger has typed, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, folder / "fed"
        self.processes: list[Process] = []
        self.said: dict[str, str] = {}

    def typed(self, *arguments: object, cwd: Path | None = None):
        done = command(*arguments, cwd=cwd or self.folder)
        assert done.returncode == 0, done.stderr
        return done

    def spawn(self, *arguments: object, log: str) -> Process:
        from tests.e2e.fleet import BIN

        name, *rest = map(str, arguments)
        process = Process([str(BIN / name), *rest], self.folder / log, cwd=self.folder, env=environment())
        self.processes.append(process)
        return process


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    walk = Journey(tmp_path_factory.mktemp("stranger"))
    listen, enrolment = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    options = ["--name", "127.0.0.1", "--listen", listen, "--enrolment", enrolment]
    walk.said["init"] = walk.typed("fedwon-server", "init", "fed", *options).stdout
    settings = yaml.safe_load((walk.server / "server.yaml").read_text())
    (walk.server / "server.yaml").write_text(yaml.safe_dump({**settings, "heartbeat_seconds": 0.5, "run": TINY}))
    server = walk.spawn("fedwon-server", "--log-format", "json", "start", "--dir", "fed", log="server.log")
    server.wait_says("listening on")
    for name in NAMES:
        line = walk.typed("fedwon-server", "enroll", name, "--dir", "fed").stdout
        join = [*line.split(), "--data", f"digits:{name}", "--threads", "1", "--dir", name]
        walk.said[f"join {name}"] = walk.typed(*join).stdout
    walk.said["check"] = walk.typed("fedwon-client", "check", "--dir", NAMES[0]).stdout
    walk.said["check json"] = walk.typed("fedwon-client", "check", "--quick", "--dir", NAMES[0], "--json").stdout
    sites = [
        walk.spawn(
            "fedwon-client", "--log-format", "json", "start", "--dir", name, "--until-finished", log=f"{name}.log"
        )
        for name in NAMES
    ]
    walk.said["server"] = server.end()
    for name, site in zip(NAMES, sites, strict=True):
        walk.said[f"site {name}"] = site.end()
    yield walk
    for process in walk.processes:
        if process.process.poll() is None:
            process.kill()


def model_of(journey: Journey) -> Path:
    [run] = (journey.server / "runs").iterdir()
    return run / "model.safetensors"


def test_init_says_what_comes_next(journey):
    said = journey.said["init"]
    assert re.search(r"[0-9a-f]{64}", said)
    assert "fedwon-server enroll" in said
    assert "fedwon-server start" in said


def test_join_says_what_comes_next(journey):
    said = journey.said["join paper"]
    assert "joined as site paper" in said
    assert "fedwon-client check --dir paper" in said
    assert "fedwon-client start --dir paper" in said


def test_secrets_are_for_their_owner_only(journey):
    keys = [*journey.folder.glob("**/*.key")]
    assert sorted(key.name for key in keys) == ["ca.key", "server.key", "site.key", "site.key"]
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600, key
        assert stat.S_IMODE(key.parent.stat().st_mode) & 0o077 == 0, key.parent


def test_check_finds_nothing_wrong(journey):
    assert [line[:6] for line in journey.said["check"].splitlines()] == ["ok    "] * 8
    content = json.loads(journey.said["check json"])
    assert [finding["name"] for finding in content["findings"]] == ["images", "certificate", "disk", "server"]
    assert all(finding["ok"] for finding in content["findings"])


def test_check_says_what_is_wrong(journey):
    done = command(
        "fedwon-client", "check", "--quick", "--dir", journey.folder / NAMES[0]
    )  # the server has ended by now
    assert done.returncode == errors.Unreachable.code
    assert "Traceback" not in done.stderr
    assert "FAILED server" in done.stdout
    done = command("fedwon-client", "check", "--quick", "--dir", journey.folder / NAMES[0], "--json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["images"]["ok"]
    assert not findings["server"]["ok"]
    assert findings["server"]["code"] == errors.Unreachable.code
    assert findings["server"]["hint"]


def test_log_lines_are_json(journey):
    for who in ("server", *(f"site {name}" for name in NAMES)):
        lines = [line for line in journey.said[who].splitlines() if line.startswith("{")]
        for line in lines:
            assert {"time", "level", "logger", "message"} <= set(json.loads(line))
        assert len(lines) >= 5
        if who != "server":  # the server ends with its table
            assert len(lines) == len(journey.said[who].splitlines())
            assert {json.loads(line)["site"] for line in lines} == {who.split()[1]}


def test_the_server_ends_with_a_table_and_the_model(journey):
    tail = [line for line in journey.said["server"].splitlines() if not line.startswith("{")]
    assert tail[0].split() == ["site", "images", "accuracy", "correct", "loss"]
    assert [line.split()[0] for line in tail[1:3]] == ["backlight", "paper"]
    assert tail[-1] == f"global model: {model_of(journey).relative_to(journey.folder)}"


def test_status(journey):
    content = json.loads(journey.typed("fedwon-server", "status", "--dir", "fed", "--json").stdout)
    [run] = content["runs"]
    assert run["state"] == "finished"
    assert (run["committed"], run["rounds"]) == (3, 3)
    assert set(run["scores"]) == set(NAMES)
    assert (journey.server / run["model"]).exists()
    table = journey.typed("fedwon-server", "status", "--dir", "fed").stdout
    assert "3 of 3" in table


def test_sites(journey):
    content = json.loads(journey.typed("fedwon-server", "sites", "--dir", "fed", "--json").stdout)
    by_name = {site["site"]: site for site in content["sites"]}
    assert set(by_name) == set(NAMES)
    for site in by_name.values():
        assert not site["connected"]
        assert site["certificate_days"] > 29
        assert len(site["data"]) == 10
        assert all(parts["validation"] > 0 for parts in site["data"].values())
    table = journey.typed("fedwon-server", "sites", "--dir", "fed").stdout
    assert len(table.splitlines()) == 3


def test_journals_are_empty_after_the_run(journey):
    for name in NAMES:
        assert not list((journey.folder / name / "journal").glob("*"))


def test_a_site_measures_the_model_by_itself(journey):
    done = journey.typed("fedwon-client", "evaluate", model_of(journey), "--dir", "paper", "--json")
    result = json.loads(done.stdout)
    status = json.loads(journey.typed("fedwon-server", "status", "--dir", "fed", "--json").stdout)["runs"][0]
    assert result["parts"]["test"]["correct"] == status["scores"]["paper"]["correct"]
    table = journey.typed("fedwon-client", "evaluate", model_of(journey), "--data", "digits:metal").stdout
    assert "test" in table


def test_the_server_lets_every_site_measure_it(journey):
    server = journey.spawn("fedwon-server", "evaluate", "--dir", "fed", "--json", log="evaluate.log")
    sites = [journey.spawn("fedwon-client", "start", "--dir", name, log=f"{name}-again.log") for name in NAMES]
    result = json.loads(server.end().splitlines()[-1])
    assert set(result["sites"]) == set(NAMES)
    assert result["failures"] == {}
    for site in sites:
        site.wait_says("has closed the session")
        assert site.stop(0, signal.SIGTERM) < 10


def test_joining_again_needs_another_folder(journey):
    line = f"fedwon-client join 127.0.0.1:1 --fingerprint {'0' * 64} --token x --data digits:paper --dir paper"
    assert_error(command(*line.split(), cwd=journey.folder), errors.FolderTaken)


def test_init_without_a_name_says_who_can_reach_it(tmp_path):
    done = command("fedwon-server", "init", tmp_path / "fed")
    assert done.returncode == 0
    assert "--name" in done.stdout


def test_enroll_as_json(tmp_path):
    fleet = Fleet(tmp_path)
    done = command("fedwon-server", "enroll", "press-3", "--dir", fleet.dir, "--json")
    content = json.loads(done.stdout)
    assert content["site"] == "press-3"
    assert content["token"] in content["join"]
    assert content["fingerprint"] in content["join"]
    assert content["server"] == fleet.config.enrolment
