"""A machine without a network: everything is collected on one with it, carried over, installed, and does a round.

Minutes and some gigabytes, most of them PyTorch's: `make airgap`, not part of `make test`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.fleet import ROOT, Fleet, environment
from tests.e2e.tracing import needs_strace, peers, traced

pytestmark = [pytest.mark.airgap, pytest.mark.timeout(3600)]
WHEELHOUSE = ROOT / "deploy" / "wheelhouse.py"
OFFLINE = 'ip link set lo up && exec "$@"'
"""A network of its own, with nothing in it but the loopback device."""


def offline(*words: object, **kwargs) -> subprocess.CompletedProcess[str]:
    arguments = ["unshare", "--net", "sh", "-c", OFFLINE, "sh", *map(str, words)]
    return subprocess.run(arguments, capture_output=True, text=True, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def _without_network():
    if shutil.which("unshare") is None or shutil.which("ip") is None or offline("true").returncode != 0:
        pytest.skip("no network namespace can be made here (needs root, unshare and ip)")
    needs_strace()
    code = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)"
    assert "unreachable" in offline(sys.executable, "-c", code).stderr  # the network is off indeed


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """The collected folder; `FEDWON_WHEELS` names one that is there already."""
    if named := os.environ.get("FEDWON_WHEELS"):
        return Path(named)
    folder = tmp_path_factory.mktemp("wheelhouse") / "wheels"
    done = subprocess.run([sys.executable, str(WHEELHOUSE), "--out", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout.splitlines()[0])
    return folder


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory) -> Path:
    """An environment that was made from it without a network, by the lines of INSTALL.txt; returns its `bin`."""
    place = tmp_path_factory.mktemp("installed") / "fedwon"
    lines = (wheels / "INSTALL.txt").read_text().replace("/opt/fedwon", str(place))
    lines = lines.replace("python3 -m venv", f"{sys.executable} -m venv")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    done = offline("sh", "-ec", lines, cwd=wheels, env={**own, "PIP_CONFIG_FILE": os.devnull})
    assert done.returncode == 0, done.stdout + done.stderr
    yield place / "bin"
    shutil.rmtree(place)


def test_a_wheel_that_was_changed_is_refused(wheels, tmp_path):
    for path in wheels.iterdir():
        (tmp_path / path.name).symlink_to(path)
    [wheel] = tmp_path.glob("fedwon-*.whl")
    content = wheel.read_bytes()
    wheel.unlink()
    wheel.write_bytes(content + b"more")
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert wheel.name in done.stdout


def test_a_round_without_a_network(installed, tmp_path):
    fleet = Fleet(tmp_path, {"rounds": 1, "participation": {"minimum": 1}})
    fleet.site("paper")
    records = {name: tmp_path / f"{name}.strace" for name in ("server", "site")}
    words = {
        "server": [installed / "fedwon-server", "start", "--dir", fleet.dir],
        "site": [installed / "fedwon-client", "start", "--dir", tmp_path / "paper", "--until-finished"],
    }
    both = " & ".join(" ".join([*traced(records[name]), *map(str, words[name])]) for name in words)
    script = f"{both}; site=$?; wait $! ; exit $((site + $?))"
    own = {name: value for name, value in environment().items() if not name.startswith("PYTHONPATH")}
    done = offline("sh", "-c", script, env=own, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "global model" in done.stdout
    [model] = fleet.dir.glob("runs/*/model.safetensors")
    assert model.stat().st_size > 1000
    host, _, port = fleet.config.listen.rpartition(":")
    assert peers(records["site"]) == {(host, int(port))}
    assert peers(records["server"]) == set()


def test_it_came_from_the_wheels(installed):
    code = "import fedwon.server.cli as cli, torch; print(cli.__file__, torch.__file__)"
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")}
    done = offline(installed / "python", "-c", code, env=own)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed.parent)) for path in done.stdout.split())
