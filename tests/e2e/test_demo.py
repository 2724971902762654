"""The demo itself: its tables, and that it leaves no process behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedwon.common import errors
from tests.e2e.fleet import BIN, TINY, Process, assert_error, command, environment, wait_until


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**TINY, "rounds": 1}))
    return path


@pytest.fixture
def domains(tmp_path):
    """Two lines of noise: small enough for a demo of seconds, and as good as any for being stopped."""
    folder = tmp_path / "domains"
    folder.mkdir()
    for number, name in enumerate(("left", "right")):
        rng = np.random.default_rng(number)
        images = rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=np.arange(40) % 2)
    return folder


def processes_of(folder: Path) -> list[str]:
    """Command lines of whatever runs with something below that folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if str(folder) in line:
            found.append(line)
    return found


def start_demo(tmp_path, domains, **training) -> Process:
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump({**TINY, "rounds": 500, "training": {"epochs": 20, "batch_size": 1}}))
    arguments = [BIN / "fedwon-server", "demo", "--data", domains, "--dir", tmp_path / "demo", "--config", path]
    # a session of its own: its processes are a group, as those of a terminal are
    return Process([*map(str, arguments)], tmp_path / "demo.log", start_new_session=True, env=environment())


def test_the_demo_on_the_built_in_digits(config, tmp_path):
    place = tmp_path / "demo"
    done = command("fedwon-server", "demo", "--config", config, "--dir", place, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "4 sites: backlight, metal, paper, tilted. One of them, tilted, trains at batch size 1." in done.stdout
    model = Path(re.search(r"^global model: (.*)$", done.stdout, re.MULTILINE)[1])
    assert model.is_file()
    assert place in model.parents
    rows = re.findall(r"^(\w+) +\d+ test +\d+\.\d % +\d+\.\d %", done.stdout, re.MULTILINE)
    assert rows == ["backlight", "metal", "paper", "tilted"]
    assert "(its own line)" in done.stdout
    assert "worst line with the global model" in done.stdout
    assert processes_of(tmp_path) == []
    again = command("fedwon-server", "demo", "--config", config, "--dir", place, "--data", tmp_path / "nothing")
    assert_error(again, errors.DataMissing)
    assert model.is_file()  # what is wrong is said before anything is deleted


@pytest.mark.parametrize(
    ("moment", "number", "group"),
    [
        ("sites: left, right", signal.SIGTERM, False),
        ("listening on", signal.SIGINT, True),  # Ctrl-C at a terminal: everybody gets it
        ("round 1: left, right", signal.SIGINT, False),
    ],
)
def test_a_demo_that_is_stopped_leaves_no_process(tmp_path, domains, moment, number, group):
    demo = start_demo(tmp_path, domains)
    try:
        demo.wait_says(moment)
        began = time.monotonic()
        (os.killpg if group else os.kill)(demo.pid, number)
        said = demo.end(130)
        assert time.monotonic() - began < 15
        assert processes_of(tmp_path) == []
        assert "Traceback" not in said
        assert "unexpected error" not in said
    finally:
        for _ in processes_of(tmp_path):
            os.killpg(demo.pid, signal.SIGKILL)
            break


def test_two_demos_in_one_folder(tmp_path, domains):
    demo = start_demo(tmp_path, domains)
    try:
        wait_until((tmp_path / "demo" / "server").exists, "the demo's server folder")
        done = command("fedwon-server", "demo", "--data", domains, "--dir", tmp_path / "demo")
        found = assert_error(done, errors.FolderTaken)
        assert "Another demo" in found["error"]
    finally:
        demo.stop(130)


def test_a_folder_that_no_demo_made_is_refused(tmp_path, domains):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("the only copy")
    done = command("fedwon-server", "demo", "--data", domains, "--dir", tmp_path / "mine")
    found = assert_error(done, errors.FolderTaken)
    assert "no demo made" in found["error"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert_error(
        command("fedwon-server", "demo", "--data", domains, "--dir", tmp_path / "mine" / "thesis.txt"),
        errors.FolderTaken,
    )
