"""The systemd units: systemd itself finds them right and tight, and what they say of our commands is true."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from fedwon.client.cli import app as client_app
from fedwon.common import errors
from fedwon.server.cli import app as server_app
from tests.e2e.fleet import BIN, ROOT

FOLDER = ROOT / "deploy" / "systemd"
NAMES = ("fedwon-server", "fedwon-client")
EXPOSURE = 1.5
"""The most that `systemd-analyze security` may say, of 10."""
A_PERSON_MUST_ACT = {
    "fedwon-server": {errors.ConfigError, errors.KeyExposed, errors.MissingExtra},
    "fedwon-client": {errors.ConfigError, errors.KeyExposed, errors.MissingExtra, errors.Refused},
}
WRONG_COMMAND_LINE = 2


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str
    parser.read(FOLDER / f"{name}.service")
    return parser


@pytest.fixture
def installed(request, tmp_path) -> Path:
    """A unit whose command is the one of this environment."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (FOLDER / f"{request.param}.service").read_text()
    path = tmp_path / f"{request.param}.service"
    path.write_text(text.replace("/opt/fedwon/bin", str(BIN)))
    return path


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("installed", NAMES, indirect=True)
def test_systemd_finds_nothing_wrong(installed):
    done = analyze("verify", installed)
    said = [line for line in done.stderr.splitlines() if installed.name in line]  # of other units it may say much
    assert said == []
    assert done.returncode == 0, done.stderr


def test_systemd_would_find_a_mistake(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "fedwon-server.service"
    path.write_text((FOLDER / path.name).read_text().replace("/opt/fedwon/bin", str(tmp_path / "nowhere")))
    assert analyze("verify", path).returncode != 0


@pytest.mark.parametrize("installed", NAMES, indirect=True)
def test_a_service_is_exposed_little(installed):
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", "--no-pager", installed)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at a unit that is not loaded")
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1]) <= EXPOSURE


@pytest.mark.parametrize("name", NAMES)
def test_errors_that_a_person_must_mend_do_not_start_it_again(name):
    kinds = {kind for kind in errors.all_errors() if issubclass(kind, tuple(A_PERSON_MUST_ACT[name]))}
    listed = unit(name)["Service"]["RestartPreventExitStatus"].split()
    assert sorted(map(int, listed)) == sorted({kind.code for kind in kinds} | {WRONG_COMMAND_LINE})


@pytest.mark.parametrize(("name", "app"), [("fedwon-server", server_app), ("fedwon-client", client_app)])
def test_it_starts_a_command_that_there_is(name, app):
    path, verb, *options = unit(name)["Service"]["ExecStart"].split()
    assert path == f"/opt/fedwon/bin/{name}"
    known = {text for parameter in typer.main.get_command(app).commands[verb].params for text in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known
    state = unit(name)["Service"]["StateDirectory"]
    assert options[options.index("--dir") + 1] == f"/var/lib/{state}"


@pytest.mark.parametrize("name", NAMES)
def test_the_manager_is_told_and_the_watchdog_looks(name):
    service = unit(name)["Service"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 60
    assert int(service["TimeoutStopSec"]) > 10  # both end within ten seconds
    assert service["User"] == name
    assert service["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in service


def test_the_users_are_made(tmp_path):
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers is not installed")
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", "--replace=/usr/lib/sysusers.d/fedwon.conf", "-"],
        input=(FOLDER / "fedwon.sysusers.conf").read_text(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    users = (tmp_path / "etc" / "passwd").read_text()
    assert [name for name in NAMES if re.search(rf"^{name}:.*:/var/lib/{name}:", users, re.MULTILINE)] == list(NAMES)
