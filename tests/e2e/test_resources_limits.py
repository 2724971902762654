"""Ports, addresses, open files and images that are not there."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedwon.common import errors
from fedwon.common.config import dump
from tests.e2e.faults import SLOW, change_site
from tests.e2e.fleet import BIN, PATIENCE, Process, assert_error, command, environment


def test_the_enrolment_port_is_taken(fleet):
    with socket.socket() as held:
        held.bind(("127.0.0.1", int(fleet.config.enrolment.split(":")[1])))
        held.listen()
        found = assert_error(command("fedwon-server", "start", "--dir", fleet.dir), errors.PortInUse)
    assert fleet.config.enrolment in found["error"]
    assert "`enrolment`" in found["error"]


def test_an_address_of_another_machine(fleet):
    listen = "192.0.2.7:8470"  # TEST-NET-1, RFC 5737
    (fleet.dir / "server.yaml").write_text(dump(fleet.config.model_copy(update={"listen": listen})))
    found = assert_error(command("fedwon-server", "start", "--dir", fleet.dir), errors.ConfigError)
    assert f"{listen} (`listen` in server.yaml) is no address of this machine" in found["error"]


def few_files(number: int, *arguments: object) -> list[str]:
    """A command that may open few files. A shell sets the limit: `preexec_fn` would fork a process that serves gRPC."""
    return ["sh", "-c", f'ulimit -n {number} && exec "$@"', "few-files", *map(str, arguments)]


@pytest.mark.matrix
def test_a_server_that_may_open_few_files_says_so_and_serves(fleets):
    names = [f"line-{number}" for number in range(3)]
    fleet = fleets(rounds=2, participation={"minimum": len(names)})
    for name in names:
        fleet.site(name)
    path = fleet.folder / "few.log"
    server = Process(few_files(64, BIN / "fedwon-server", "start", "--dir", fleet.dir), path)
    fleet.processes.append(server)
    server.wait_says(r"may open 64 files, enough for about \d sites. Raise it with `ulimit -n`")
    sites = [fleet.start_site(name, "--until-finished") for name in names]
    server.end()
    for site in sites:
        site.end()
    assert len(fleet.digests()) == 3


def test_a_server_that_may_open_too_few_files_ends_with_a_reason(fleet):
    arguments = few_files(16, BIN / "fedwon-server", "start", "--dir", fleet.dir)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, env=environment())
    found = assert_error(done, errors.StorageError)
    assert "may open 16 files" in found["error"]
    assert "ulimit -n" in found["hint"]


def pictures(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("bad", "good"):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def test_images_that_go_away_in_the_middle_of_a_run_and_come_back(fleets, tmp_path):
    fleet = fleets(rounds=2, participation={"minimum": 2, "retries": 200}, **SLOW)
    for name in ("paper", "metal"):
        folder = fleet.site(name, str(pictures(tmp_path / name)))
        change_site(folder, data={"path": str(tmp_path / name), "cache_mb": 0})  # so that each epoch reads them
    server = fleet.start_server()
    paper, metal = (fleet.start_site(name, "--until-finished") for name in ("paper", "metal"))
    paper.wait_says("train, round 1")
    shutil.move(tmp_path / "paper", tmp_path / "away")
    server.wait_says("no update from paper: data")
    assert paper.process.poll() is None
    shutil.move(tmp_path / "away", tmp_path / "paper")
    server.end()
    for site in (paper, metal):
        site.end()
    assert len(fleet.digests()) == 3
