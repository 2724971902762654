"""Nobody connects anywhere but to the server, and no service needs a call that its unit forbids."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.e2e.fleet import BIN, ROOT, Fleet
from tests.e2e.tracing import calls, group, needs_strace, peers, traced

ONLY_AS_ROOT = {"fchown"}
"""SQLite gives a file that it makes to the owner of the database where root runs it, and only there."""


@pytest.fixture(scope="module")
def allowed():
    """The calls that both units allow."""
    if shutil.which("systemd-analyze") is None:
        return set()
    for name in ("server", "client"):
        unit = (ROOT / "deploy" / "systemd" / f"fedwon-{name}.service").read_text()
        assert "SystemCallFilter=@system-service\nSystemCallFilter=~@privileged\n" in unit
    return group("@system-service") - group("@privileged")


@pytest.fixture(scope="module")
def audit(tmp_path_factory, allowed):
    """A run of real processes under strace; returns the fleet and the record of each process."""
    needs_strace()
    folder = tmp_path_factory.mktemp("audit")
    fleet = Fleet(folder, {"rounds": 1, "participation": {"minimum": 1}})
    fleet.site("paper")
    commands = {
        "server": ["fedwon-server", "start", "--dir", fleet.dir],
        "site": ["fedwon-client", "start", "--dir", folder / "paper", "--until-finished"],
    }
    records = {name: folder / f"{name}.strace" for name in commands}
    try:
        for name, words in commands.items():
            prefix = traced(records[name], unless=allowed)
            where = str(shutil.which(prefix[0]))
            path = str(shutil.which(words[0], path=str(BIN)))
            fleet.spawn(where, *prefix[1:], path, *words[1:], log=name, start_new_session=True)
        for process in fleet.processes:
            process.end()
        yield fleet, records
    finally:
        for process in fleet.processes:
            if process.process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        fleet.close()


def test_the_audit_sees_a_call(tmp_path):
    needs_strace()
    code = (
        "import socket as s\n"
        "s.socket(s.AF_INET, s.SOCK_DGRAM).connect(('127.0.0.2', 53))\n"
        "s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.3', 54))\n"
        "s.socket(s.AF_INET6, s.SOCK_DGRAM).connect_ex(('::1', 55))\n"
    )
    subprocess.run([*traced(tmp_path / "record"), sys.executable, "-c", code], check=True)
    assert peers(tmp_path / "record") == {("127.0.0.2", 53), ("127.0.0.3", 54), ("::1", 55)}


def test_a_site_calls_its_server_and_nobody_else(audit):
    fleet, records = audit
    host, _, port = fleet.config.listen.rpartition(":")
    assert peers(records["site"]) == {(host, int(port))}


def test_the_server_calls_nobody(audit):
    assert peers(audit[1]["server"]) == set()


def test_the_units_forbid_no_call_that_a_round_needs(audit, allowed):
    if not allowed:
        pytest.skip("systemd-analyze is not installed, which knows its groups of system calls")
    found = {name: calls(record) - (ONLY_AS_ROOT if os.geteuid() == 0 else set()) for name, record in audit[1].items()}
    assert found == {"server": set(), "site": set()}
