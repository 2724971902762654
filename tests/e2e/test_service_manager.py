"""Real services under a service manager's socket: ready, alive through a round, stopping."""

from __future__ import annotations

import pytest

from tests.e2e.fleet import environment, wait_until
from tests.notify_kit import Manager

SLOW = {"training": {"batch_size": 1, "lr": 0.02, "epochs": 6}, "images": {"max_train": 60, "channels": 1}}


@pytest.fixture
def managed(tmp_path):
    """Make a manager; its processes feed the watchdog every tenth of a second."""
    made = []

    def make(name: str) -> tuple[Manager, dict[str, str]]:
        made.append(Manager(tmp_path / f"{name}.socket"))
        return made[-1], {**environment(), **made[-1].environment(0.3)}

    yield make
    for manager in made:
        manager.close()


def test_server_and_site_tell_their_manager(fleets, managed):
    fleet = fleets(rounds=50, participation={"minimum": 1}, **SLOW)
    fleet.site("paper")
    at_site, site_environment = managed("site")
    at_server, server_environment = managed("server")
    arguments = ("fedwon-client", "start", "--dir", fleet.folder / "paper")
    site = fleet.spawn(*arguments, log="site", env=site_environment)
    wait_until(lambda: at_site.has("READY=1"), "a site that is ready while its server is not there")
    wait_until(lambda: at_site.has("STATUS=not connected: "), "why the site has no session")

    server = fleet.spawn("fedwon-server", "start", "--dir", fleet.dir, log="server", env=server_environment)
    wait_until(lambda: at_server.has("READY=1"), "a server that is ready")
    assert server.says("listening on")
    assert f"STATUS=listening on {fleet.config.listen}, waiting for sites" in at_server.lines
    wait_until(lambda: at_site.has("STATUS=connected to "), "the site's session")
    site.wait_says("train, round 1")
    fed = at_server.pings(), at_site.pings()
    server.wait_says("round 1 committed")
    wait_until(lambda: "STATUS=round 1 committed" in at_server.lines, "how far the run is")
    assert at_server.pings() > fed[0] + 1
    assert at_site.pings() > fed[1] + 1

    assert not at_server.has("STOPPING=1")
    assert server.stop(0) < 10
    assert at_server.has("STOPPING=1")
    assert site.stop(0) < 10
    assert at_site.has("STOPPING=1")
    assert at_site.lines.count("READY=1") == at_server.lines.count("READY=1") == 1


def test_a_service_that_cannot_begin_is_never_ready(fleet, managed):
    manager, env = managed("server")
    (fleet.dir / "server.yaml").write_text("listn: 1")
    fleet.spawn("fedwon-server", "start", "--dir", fleet.dir, log="server", env=env).end(10)
    assert manager.lines == []
