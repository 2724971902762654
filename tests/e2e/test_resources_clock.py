"""Clocks that are off by an hour, that jump, and that are off by more than a certificate bears."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fedwon.common import errors
from fedwon.common.pki import (
    Credentials,
    certificate_days_left,
    load_authority,
    load_credentials,
    request,
    save_credentials,
    sign_request,
)
from tests.e2e.faults import SLOW
from tests.e2e.fleet import Fleet, Process, assert_error, command, environment

HOUR, DAY = 3600, 86400
SOURCE = Path(__file__).with_name("shifted_clock.c")
Clock = Callable[[int], dict[str, str]]


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: one process's clock cannot be set apart from the machine's")
    path = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    done = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(path), str(SOURCE), "-ldl"], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"the clock's library cannot be built here: {done.stderr}")
    return path


@pytest.fixture
def clock(library, tmp_path) -> Clock:
    """Return the environment of a process whose clock is off by so many seconds; a second call lets it jump there."""

    def set_to(seconds: int, name: str = "clock") -> dict[str, str]:
        (tmp_path / name).write_text(str(seconds))
        return {**environment(), "LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(tmp_path / name)}

    return set_to


def joined(fleet: Fleet, name: str, env: dict[str, str]) -> Path:
    """Join for real, with that clock, a run's image sets and client.yaml included."""
    line = command("fedwon-server", "enroll", name, "--dir", fleet.dir).stdout.split()
    folder = fleet.folder / name
    data = fleet.site(f"{name}-images").parent / f"{name}-images.npz"
    done = command(*line, "--data", data, "--threads", 1, "--dir", folder, env=env)
    assert done.returncode == 0, done.stderr
    return folder


def short_lived(fleet: Fleet, name: str, days: int) -> bytes:
    """Make a site whose certificate ends soon, and return that."""
    folder = fleet.site(name)
    held, authority = load_credentials(folder / "pki", "site"), load_authority(fleet.dir / "pki")
    certificate = sign_request(authority, request(name, held.key), name, days)
    save_credentials(folder / "pki", "site", Credentials(held.authority, certificate, held.key))
    return certificate


def start(fleet: Fleet, name: str, env: dict[str, str]) -> Process:
    return fleet.spawn(
        "fedwon-client", "start", "--until-finished", "--dir", fleet.folder / name, log=f"site-{name}", env=env
    )


@pytest.mark.parametrize("off", [pytest.param(-HOUR, marks=pytest.mark.matrix), HOUR])
def test_a_site_whose_clock_is_an_hour_off_joins_takes_part_and_renews(fleets, clock, off):
    fleet = fleets(rounds=2)
    server = fleet.start_server()
    folder = joined(fleet, "paper", clock(off))
    certificate = folder / "pki" / "site.pem"
    before = certificate.read_bytes()
    short = short_lived(fleet, "metal", days=10)  # less than half of its life is left: it is renewed at once
    paper, metal = start(fleet, "paper", clock(off)), start(fleet, "metal", clock(off))
    server.end()
    for site in (paper, metal):
        said = site.end()
        assert "Traceback" not in said
    assert "certificate was renewed" in metal.text()
    renewed = (fleet.folder / "metal" / "pki" / "site.pem").read_bytes()
    assert certificate_days_left(renewed) > certificate_days_left(short) + 15
    assert certificate.read_bytes() == before
    assert len(fleet.digests()) == 3


@pytest.mark.matrix
def test_clocks_that_jump_in_the_middle_of_a_round(fleets, clock):
    """A day forth at the site, an hour back at the server; nothing that waits looks at the wall clock."""
    fleet = fleets(rounds=2, **SLOW)
    for name in ("paper", "metal"):
        fleet.site(name)
    server = fleet.spawn("fedwon-server", "start", "--dir", fleet.dir, log="server", env=clock(0, "server"))
    server.wait_says("listening on")
    paper, metal = start(fleet, "paper", clock(0)), start(fleet, "metal", environment())
    paper.wait_says("train, round 1")
    clock(DAY)
    clock(-HOUR, "server")
    server.end()
    for site in (paper, metal):
        said = site.end()
        assert said.count("train, round 1 ") == 1
    assert "no update from" not in server.text()
    assert len(fleet.digests()) == 3


def test_a_clock_that_is_days_behind_is_named_and_waited_for(fleets, clock):
    fleet = fleets(rounds=1)
    for name in ("paper", "metal"):
        fleet.site(name)
    server = fleet.start_server()
    env = clock(-3 * DAY)
    paper, metal = start(fleet, "paper", env), start(fleet, "metal", environment())
    paper.wait_says("certificate is not yet valid.* This machine's clock is more than a day behind the server's")
    paper.wait_says("Trying again")
    assert paper.process.poll() is None
    done = command("fedwon-client", "check", "--quick", "--dir", fleet.folder / "paper", env=env)
    assert done.returncode == errors.Refused.code
    assert "clock is more than a day behind" in done.stdout
    clock(0)  # the time server answers at last
    server.end()
    for site in (paper, metal):
        site.end()


@pytest.mark.matrix
def test_a_clock_that_is_years_ahead_is_named(fleets, clock):
    fleet = fleets()
    fleet.site("paper")
    fleet.start_server()
    env = clock(500 * DAY)
    done = command("fedwon-client", "start", "--dir", fleet.folder / "paper", env=env)
    found = assert_error(done, errors.Refused)
    assert "this machine's clock is ahead" in found["hint"]
