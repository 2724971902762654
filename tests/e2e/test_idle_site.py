"""A site that is connected and has nothing to do: small, because PyTorch comes with the first task."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.fleet import Process

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has loaded is in /proc")

IDLE = 150 * 1024
"""Kilobytes that an idle site may take (issue 5)."""
HEAVY = ("torch", "torchvision", "sklearn", "scipy", "pandas", "sqlalchemy", "PIL")


def loaded(process: Process) -> set[str]:
    """Packages of which a process has mapped a file; of all these some part is compiled."""
    places = [line.partition("site-packages/")[2] for line in Path(f"/proc/{process.pid}/maps").read_text().split("\n")]
    return {place.split("/")[0] for place in places if "/" in place}


def resident(process: Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def folder_of_images(path: Path) -> str:
    for name in ("good", "bad"):
        (path / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (8, 8), number).save(path / name / f"{number}.png")
    return str(path)


def test_an_idle_site_of_any_form_of_images_has_not_loaded_pytorch(fleets, tmp_path):
    fleet = fleets(participation={"minimum": 4})
    fleet.site("arrays")
    fleet.site("folder", folder_of_images(tmp_path / "images"))
    fleet.site("digits", "digits:paper")
    fleet.start_server()
    sites = {name: fleet.start_site(name) for name in ("arrays", "folder", "digits")}
    for site in sites.values():
        site.wait_says("connected to")
    for name, site in sites.items():
        packages = loaded(site)
        assert {"grpc", "numpy"} <= packages, packages  # else this reads nothing at all
        assert not packages.intersection(HEAVY), name
        assert resident(site) < IDLE, name
