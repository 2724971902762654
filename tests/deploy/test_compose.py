"""`docker compose up` for real: the demo as its user runs it, and what it survives."""

from __future__ import annotations

import json
import re
import time

import pytest

from fedwon.common.model_file import read_model
from tests.deploy.compose_kit import SITES, Federation, docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

SERVICES = ("server", *SITES)


class TestDemo:
    def test_a_row_a_site_is_in_the_servers_log(self, undisturbed: Federation):
        said = undisturbed.logs("server")
        for site in SITES:
            assert re.search(rf"^{site} +test +\d+\.\d % +\d+/\d+ ", said, re.MULTILINE), said
        assert "mean over sites" in said

    def test_model_and_scores_are_in_the_mounted_folder(self, undisturbed: Federation):
        scores = json.loads((undisturbed.outcome / "scores.json").read_text())
        assert {score["site"] for score in scores["sites"].values()} == set(SITES)
        task, record = read_model(undisturbed.outcome / "model.safetensors")
        assert task.run == scores["run"]
        assert (task.round, len(task.classes)) == (5, 10)
        assert len(list(record.items())) > 4

    def test_each_round_has_a_model(self, undisturbed: Federation):
        found = undisturbed.digests()
        assert len(found) == len(set(found)) == 6

    def test_everybody_ended_by_himself_without_a_restart(self, undisturbed: Federation):
        for service in SERVICES:
            state = undisturbed.inspect(service)
            assert (state["State"]["ExitCode"], state["RestartCount"]) == (0, 0), service

    def test_nobody_is_root_or_may_write_anything_but_his_volume(self, undisturbed: Federation):
        for service in ("init", *(f"invite-{site}" for site in SITES), *SERVICES):
            found = undisturbed.inspect(service)
            host = found["HostConfig"]
            assert found["Config"]["User"] == "10001:10001", service
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert not host["CapAdd"], service
            assert host["SecurityOpt"] == ["no-new-privileges:true"], service
            assert not host["Privileged"], service
            assert not host["PortBindings"], service

    def test_a_site_sees_its_own_volumes_only(self, undisturbed: Federation):
        seen = {}
        for site in SITES:
            mounts = undisturbed.inspect(site)["Mounts"]
            seen[site] = {mount["Name"] for mount in mounts if mount["Type"] == "volume"}
            assert len(seen[site]) == len(mounts) == 2, mounts
            assert all(name.endswith(f"-{site}") for name in seen[site])
        assert len(set.union(*seen.values())) == 8

    def test_the_authoritys_key_is_in_the_servers_volume_and_nowhere_else(self, undisturbed: Federation):
        assert "ca.key" in listing(undisturbed, "server")
        for site in SITES:
            for name in (f"site-{site}", f"invitation-{site}"):
                assert "ca.key" not in listing(undisturbed, name)
        for site in SITES:
            assert "-rw------- 10001 ./invitation.json" in listing(undisturbed, f"invitation-{site}")

    def test_a_token_that_was_used_is_of_no_use(self, undisturbed: Federation):
        with_paper = read_volume(undisturbed, "invitation-paper", "invitation.json")
        assert json.loads(with_paper)["site"] == "paper"
        assert "token" in json.loads(with_paper)
        database = ["-c", "import sqlite3; print(sqlite3.connect('file:/v/fedwon.db?immutable=1', uri=True)"]
        database[1] += ".execute('select count(*) from tokens where used is not null').fetchone()[0])"
        assert in_volume(undisturbed, "server", "python", *database).strip() == "4"


def in_volume(federation: Federation, name: str, *command: str) -> str:
    """Run a command with a volume mounted to look at, as the engine's owner can."""
    volume = f"{federation.project}_{name}:/v:ro"
    arguments = ["--rm", "--network", "none", "--user", "0", "-v", volume, "-w", "/v", "--entrypoint", command[0]]
    return docker("run", *arguments, "fedwon-server:test", *command[1:])


def listing(federation: Federation, name: str) -> str:
    return in_volume(federation, name, "find", ".", "-type", "f", "-printf", "%M %U %p\n")


def read_volume(federation: Federation, name: str, path: str) -> str:
    return in_volume(federation, name, "cat", path)


CONNECT = """
import socket, sys
for host, port in [(sys.argv[1], 8470), (sys.argv[1], 8471), (sys.argv[2], 8470)]:
    try:
        socket.create_connection((host, port), 4).close()
        print("reached")
    except OSError as error:
        print("failed")
"""


def test_what_is_killed_or_cut_off_goes_on_to_the_same_bits(undisturbed: Federation, federation: Federation):
    """A site's and the server's process die in mid-run, a container is killed by its operator, a network goes away."""
    federation.up()
    federation.wait_says("paper", "train, round 1")
    federation.crash("paper")  # its policy starts it again
    federation.wait_says("server", "round 1 committed")
    docker("kill", federation.container("tilted"))  # an operator's kill: nobody starts it again but he
    federation.crash("server")  # in the middle of a run that cannot end without tilted
    federation.wait_says("server", r"going on: run boxes-\S+ has [1-4] of 5 rounds")
    for service in ("server", "paper", "backlight", "metal"):
        federation.wait_healthy(service)
    cut(federation, "metal", seconds=8)
    docker("start", federation.container("tilted"))
    federation.wait_ended(*SERVICES)

    assert federation.digests() == undisturbed.digests()
    assert federation.inspect("paper")["RestartCount"] >= 1
    assert federation.inspect("server")["RestartCount"] >= 1
    assert federation.logs("tilted").count("joined as site") == 1
    assert (federation.outcome / "model.safetensors").exists()


def cut(federation: Federation, site: str, seconds: float) -> None:
    network = f"{federation.project}_{site}"
    docker("network", "disconnect", network, federation.container(site))
    federation.wait_says(site, "Trying again until it answers|closed the session|No word from")
    time.sleep(seconds)
    assert federation.inspect(site)["State"]["Status"] == "running"
    docker("network", "connect", network, federation.container(site))


def test_sites_reach_the_server_and_nobody_else(federation: Federation):
    federation.compose("up", "--detach", "--no-build", "server", "paper", "metal")  # a run needs four: these wait
    for site in ("paper", "metal"):
        federation.wait_says(site, "connected to server:8470 as site")
    addresses = federation.inspect("metal")["NetworkSettings"]["Networks"]
    [metal] = [network["IPAddress"] for network in addresses.values()]
    # the server twice, by both ports; the other site by its address; the other site by its name; the world
    assert federation.execute("paper", "python", "-c", CONNECT, "server", metal).split() == ["reached"] * 2 + ["failed"]
    assert federation.execute("paper", "python", "-c", CONNECT, "metal", "192.0.2.1").split() == ["failed"] * 3
    refused = federation.execute("metal", "python", "-c", LISTEN)
    assert refused.strip() == "listening"
    assert federation.execute("paper", "python", "-c", CONNECT, "server", metal).split()[2] == "failed"
    # and nothing can be written outside of the volume
    for service in ("server", "paper"):
        said = federation.execute(service, "python", "-c", "open('/opt/fedwon/x', 'w')", check=False)
        assert "Read-only file system" in said
        assert federation.execute(service, "id", "-u").strip() == "10001"


LISTEN = """
import os, socket
listener = socket.create_server(("0.0.0.0", 8470))
if os.fork():
    print("listening")
else:  # stays, so that there is something to be reached
    os.close(1), os.close(2)
    import time
    time.sleep(60)
"""
