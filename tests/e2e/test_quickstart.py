"""The quickstart, command by command as it stands there, on machines of its own: a network namespace with its names.

Left out is the installation, which `.ci/run` does on a clean checkout. What the page tells its reader to put in (the
line that `enroll` prints, where the images are) is put in, and the run is made short where it says to look.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.e2e.fleet import BIN, PATIENCE, TINY, Process, environment
from tests.network import line

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quickstart.md"
LINES = ("press-3", "press-4")


def commands() -> list[str]:
    """Every command of the page but those that install, in order."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [command for block in blocks[1:] for command in block.splitlines()]


def images(folder: Path, seed: int) -> None:
    """Images of two classes as the page says they lie."""
    rng = np.random.default_rng(seed)
    for name, least in (("good", 0), ("scratch", 128)):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(least, least + 127, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:04}.jpg")


class Machines:
    """A server and two lines, each with a folder of its own, in one namespace where `server.local` is known."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"fedwon-quickstart-{os.getpid()}"
        self.running: dict[tuple[str, str], Process] = {}
        self.names = Path("/etc/netns") / self.name
        self.names.mkdir(parents=True)
        (self.names / "hosts").write_text("127.0.0.1 localhost server.local\n")
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
        for where in ("server", *LINES):
            (folder / where).mkdir()

    def _inside(self, typed: str) -> list[str]:
        name, *rest = typed.split()
        return ["ip", "netns", "exec", self.name, str(BIN / name), *rest]

    def run(self, where: str, typed: str) -> str:
        """Type a command that ends."""
        done = subprocess.run(
            self._inside(typed), cwd=self.folder / where, capture_output=True, text=True, timeout=PATIENCE,
            env=environment(), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, (typed, done.stdout, done.stderr)
        return done.stdout

    def leave_running(self, where: str, typed: str) -> Process:
        """Type a command that goes on."""
        process = Process(self._inside(typed), self.folder / f"{where}.log", cwd=self.folder / where, env=environment())
        self.running[where, typed] = process
        return process

    def close(self) -> None:
        for process in self.running.values():
            process.process.kill()
            process.process.wait()
        subprocess.run(["ip", "netns", "delete", self.name], check=True)
        (self.names / "hosts").unlink()
        self.names.rmdir()


@pytest.fixture
def machines(tmp_path):
    if reason := line.missing():
        pytest.skip(f"the quickstart's names and ports need a network namespace, which {reason}")
    made = Machines(tmp_path)
    yield made
    made.close()


def make_short(settings: Path) -> None:
    """Change server.yaml where the page says to look."""
    content = yaml.safe_load(settings.read_text())
    content["run"] = {**TINY, "rounds": 2, "images": {"size": 16, "channels": 1}}
    settings.write_text(yaml.safe_dump(content))


def test_the_quickstart_as_it_stands(machines, tmp_path):
    typed = iter(commands())
    init, start, enroll, join, check, begin, status, sites, everywhere, alone = typed
    machines.run("server", init)
    make_short(tmp_path / "server" / "fed" / "server.yaml")
    server = machines.leave_running("server", start)
    server.wait_says("listening on 0.0.0.0:8470")
    for number, name in enumerate(LINES):
        images(tmp_path / "data" / name, number)
        printed = machines.run("server", enroll.replace("press-3", name)).strip()
        secret = re.search(r"--fingerprint \S+ --token \S+", printed)[0]
        assert join.startswith(re.sub(r"--fingerprint.*", "", printed))  # it prints what the page shows
        wanted = re.sub(r"--fingerprint \S+ --token \S+", secret, join)
        machines.run(name, wanted.replace("/data/press-3", str(tmp_path / "data" / name)))
        assert "server.local:8470" in machines.run(name, check)
        machines.leave_running(name, begin)
    server.end()
    assert "finished" in machines.run("server", status)
    assert all(name in machines.run("server", sites) for name in LINES)
    assert "press-4" in machines.run("server", everywhere)
    (model,) = (tmp_path / "server" / "fed" / "runs").glob("*/model.safetensors")
    (tmp_path / "press-3" / "model.safetensors").write_bytes(model.read_bytes())
    assert "%" in machines.run("press-3", alone)
    for name in LINES:
        machines.running[name, begin].process.send_signal(signal.SIGINT)
