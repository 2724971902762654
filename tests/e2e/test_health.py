"""`health` on both sides: what runs is healthy, what is dead, hung or somebody else's is not."""

from __future__ import annotations

import json
import signal
import stat

import pytest

from fedwon.common.config import dump
from fedwon.common.errors import ConfigMissing, Unhealthy
from tests.e2e.fleet import assert_error, command, free_port


def health(side: str, folder, *options):
    return command(f"fedwon-{side}", "health", "--dir", folder, *options)


class TestServer:
    def test_it_is_healthy_while_it_runs(self, fleet):
        found = assert_error(health("server", fleet.dir), Unhealthy)
        assert f"No healthy server at {fleet.config.enrolment}" in found["error"]
        server = fleet.start_server()
        done = health("server", fleet.dir)
        assert (done.returncode, done.stdout) == (0, f"healthy: address {fleet.config.enrolment}, status SERVING\n")
        assert json.loads(health("server", fleet.dir, "--json").stdout)["healthy"] is True
        server.send(signal.SIGSTOP)  # there, and hung
        try:
            found = assert_error(health("server", fleet.dir, "--timeout", 1), Unhealthy)
            assert "did not answer within 1 s" in found["error"]
        finally:
            server.send(signal.SIGCONT)
        server.kill()
        done = health("server", fleet.dir, "--json")
        assert done.returncode == Unhealthy.code
        said = json.loads(done.stdout)
        assert (said["healthy"], said["error"]) == (False, "unhealthy")
        assert done.stderr == ""

    def test_names_that_are_not_this_machines(self, fleet):
        """The certificate is made out to the address for sites; the check comes from inside."""
        listen, enrolment = free_port(), free_port()
        folder = fleet.folder / "other"
        ports = ["--listen", f"0.0.0.0:{listen}", "--enrolment", f"0.0.0.0:{enrolment}"]
        done = command("fedwon-server", "init", folder, "--name", "fed.plant.example", "--name", "10.9.8.7", *ports)
        assert done.returncode == 0, done.stderr
        server = fleet.spawn("fedwon-server", "start", "--dir", folder, log="other")
        server.wait_says("listening on")
        assert health("server", folder).stdout == f"healthy: address 127.0.0.1:{enrolment}, status SERVING\n"

    def test_another_federations_server_at_that_port_is_not_ours(self, fleets):
        ours, theirs = fleets(), fleets()
        theirs.start_server()
        config = ours.config.model_copy(update={"enrolment": theirs.config.enrolment})
        (ours.dir / "server.yaml").write_text(dump(config))
        assert_error(health("server", ours.dir), Unhealthy)

    def test_no_servers_folder(self, tmp_path):
        assert_error(health("server", tmp_path), ConfigMissing)


class TestClient:
    def test_it_is_healthy_with_and_without_a_server(self, fleet):
        fleet.site("paper")
        folder = fleet.folder / "paper"
        assert "No fedwon-client runs" in assert_error(health("client", folder), Unhealthy)["error"]
        site = fleet.start_site("paper")
        site.wait_says("Trying again until it answers")
        said = json.loads(health("client", folder, "--json").stdout)
        assert (said["healthy"], said["connected"], said["site"]) == (True, False, "paper")
        assert (said["pid"], said["server"]) == (site.pid, fleet.config.listen)
        fleet.start_server()
        site.wait_says("connected to")
        done = health("client", folder)
        assert done.returncode == 0
        assert done.stdout.startswith(f"healthy: site paper, server {fleet.config.listen}, connected yes")
        site.stop()
        assert not (folder / "client.sock").exists()
        assert_error(health("client", folder), Unhealthy)

    def test_a_hung_one_is_not_healthy(self, fleet):
        fleet.site("paper")
        folder = fleet.folder / "paper"
        site = fleet.start_site("paper")
        site.wait_says("Trying again until it answers")
        assert stat.S_IMODE((folder / "client.sock").stat().st_mode) == 0o600
        site.send(signal.SIGSTOP)
        try:
            found = assert_error(health("client", folder, "--timeout", 1), Unhealthy)
            assert "did not answer within 1 s: it hangs" in found["error"]
        finally:
            site.send(signal.SIGCONT)
        assert health("client", folder).returncode == 0
        site.kill()  # leaves its socket behind
        assert (folder / "client.sock").exists()
        assert "No fedwon-client runs" in assert_error(health("client", folder), Unhealthy)["error"]
        again = fleet.start_site("paper")
        again.wait_says("Trying again until it answers")
        assert health("client", folder).returncode == 0

    def test_no_sites_folder(self, tmp_path):
        assert_error(health("client", tmp_path), ConfigMissing)

    @pytest.mark.parametrize("depth", [3])
    def test_a_path_that_is_longer_than_a_sockets_name_may_be(self, fleet, depth):
        folder = fleet.folder.joinpath(*["a-rather-long-name-of-a-folder-on-some-drive" * 2] * depth)
        fleet.site("paper", home=folder)
        site = fleet.start_site("paper", folder=folder)
        site.wait_says("Trying again until it answers")
        assert health("client", folder).returncode == 0
