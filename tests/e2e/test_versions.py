"""One federation whose sites run the version before the server's and the one after it."""

from __future__ import annotations

import json
import os

import pytest

from fedwon.common.version import VERSION
from tests.e2e.fleet import command, environment

MAJOR, MINOR, *_ = VERSION.split(".")
BEFORE, AFTER = f"{MAJOR}.{int(MINOR) - 1}.7", f"{MAJOR}.{int(MINOR) + 1}.0"


def installed_as(version: str, folder) -> dict[str, str]:
    """An environment in which this code is installed under another version, as the other side cannot tell apart."""
    described = folder / version / f"fedwon-{version}.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fedwon\nVersion: {version}\n")
    found = {**environment(), "PYTHONPATH": f"{described.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    assert command("fedwon-client", "--version", env=found).stdout.strip() == version
    return found


@pytest.mark.skipif(MINOR == "0", reason="there is no minor version before this one")
def test_neighbours_take_part_in_one_run(fleets, tmp_path):
    fleet = fleets(rounds=2)
    server = fleet.start_server()
    sites = []
    for name, version in (("paper", BEFORE), ("metal", AFTER)):
        where = fleet.site(name)
        arguments = ("fedwon-client", "start", "--dir", where, "--until-finished")
        sites.append(fleet.spawn(*arguments, log=name, env=installed_as(version, tmp_path)))
    server.end()
    for site in sites:
        site.end()
    assert fleet.status()["state"] == "finished"
    listed = json.loads(command("fedwon-server", "sites", "--dir", fleet.dir, "--json").stdout)["sites"]
    assert {row["site"]: row["version"] for row in listed} == {"paper": BEFORE, "metal": AFTER}
