"""From a run to the lines, with real processes: release, promote, predict without PyTorch, roll back, refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fedwon.client.releases.shelf import Shelf
from fedwon.common.errors import UntrustedRelease
from fedwon.common.gates import Gates
from fedwon.common.release import ONNX, WEIGHTS
from fedwon.server.releases.making import make_release
from fedwon.server.releases.orders import by_site, give
from fedwon.server.releases.shelves import find_release
from fedwon.server.releases.wish import Wish
from fedwon.server.serving import Home
from tests.e2e.fleet import SITES, assert_error, command, wait_until
from tests.release.edge_box import EdgeBox


def answers(home: Home) -> dict[str, dict]:
    return {row["site"]: row for row in by_site(home.store)}


def wait_answer(home: Home, site: str) -> dict:
    wait_until(lambda: answers(home)[site]["state"] != "open", f"the answer of {site}")
    return answers(home)[site]


def test_a_model_goes_from_a_run_to_a_line_and_back(fleets, tmp_path):
    fleet = fleets(rounds=1)
    for name in SITES:
        fleet.site(name)
    server = fleet.start_server()
    sites = {name: fleet.start_site(name) for name in SITES}
    server.end()
    run = fleet.status()["run"]

    # release: in a process of its own, and one more in this one for the way back
    done = command("fedwon-server", "release", run, "--name", "first", "--dir", fleet.dir, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"].keys() == set(SITES)
    home = Home.open(fleet.dir)
    make_release(home, Wish(name="second"))

    # promote while no server runs; then one site's gate keeps it out
    done = command("fedwon-server", "promote", "first", "--site", "metal", "--accuracy", "0", "--dir", fleet.dir)
    assert done.returncode == 0, done.stderr
    assert "no server runs" in done.stdout
    give(home.store, "promote", ["paper"], "first")
    server = fleet.start_server("--once")
    assert wait_answer(home, "metal")["in_use"] == "first"
    assert wait_answer(home, "paper")["state"] == "in use"
    give(home.store, "promote", ["paper"], "second", Gates(images=999))
    refused = wait_answer(home, "paper")
    assert (refused["state"], refused["in_use"]) == ("refused", "first")
    assert refused["reason"] == "20 validation images, and 999 are needed"

    # killed on both sides in the middle of an order
    sites["metal"].kill()
    give(home.store, "promote", ["metal"], "second")
    server.kill()
    fleet.start_server("--once")
    fleet.start_site("metal")
    assert wait_answer(home, "metal")["in_use"] == "second"

    # predict without PyTorch, Flower and gRPC, and without a server
    box, shelf, part = EdgeBox(tmp_path / "venv"), Shelf(fleet.folder / "metal"), tmp_path / "part.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(part)
    predict = ["predict", part, "--dir", fleet.folder / "metal", "--json"]
    assert "No module named 'torch'" in box.run("-c", "import torch").stderr
    assert json.loads(box.client(*predict).stdout)["release"] == "second"

    # roll back: what the line uses is the release before
    give(home.store, "rollback", ["metal"])
    assert wait_answer(home, "metal")["in_use"] == "first"
    assert json.loads(box.client(*predict).stdout)["release"] == "first"

    # a byte changed, at the line or on the server
    model = shelf.place("first") / ONNX
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert "digest differs" in assert_error(box.client(*predict), UntrustedRelease)["error"]
    (fleet.dir / "releases" / "second" / WEIGHTS).write_bytes(b"other")
    with pytest.raises(UntrustedRelease):
        find_release(home, "second")
    assert {site: row["in_use"] for site, row in answers(home).items()} == {"metal": "first", "paper": "first"}
    home.store.close()
