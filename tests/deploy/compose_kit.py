"""The federation of deploy/compose.yaml, run by `docker compose` as its user does, with a run of seconds."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.e2e.fleet import digests

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy" / "compose.yaml"
SITES = ("backlight", "metal", "paper", "tilted")
TAG = "test"
PATIENCE = 240.0
"""Seconds for what takes twenty on a quiet machine."""

RUN = {
    "name": "boxes",
    "rounds": 5,
    "retention": {"rounds": None},
    "seed": 7,
    "model": {"name": "digit_cnn", "width": 0.05},
    "images": {"size": 28, "max_train": 60},
    "training": {"epochs": 2, "batch_size": 4, "lr": 0.05, "clipping": 0.64},
    "participation": {"minimum": 4},
}
"""Rounds of a second or two, so that something can happen in the middle of one."""


def docker(*arguments: str, check: bool = True, both: bool = False, timeout: float = 600.0, **variables: str) -> str:
    """Run a docker command and return what it printed; with `both`, or unchecked, also to standard error."""
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=ROOT,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.returncode}\n{said[-4000:]}"
    return done.stdout if check and not both else said


def build_images() -> str:
    """Build both images as compose.yaml says, under a tag of the tests."""
    # a machine that cannot reach PyTorch's own index takes PyPI's wheels
    index = os.environ.get("TORCH_INDEX", "")
    docker("compose", "-f", str(COMPOSE), "build", timeout=1500, FEDWON_VERSION=TAG, TORCH_INDEX=index)
    return TAG


class Federation:
    """One `docker compose` project: its containers, volumes and networks are removed by `remove`.

    Args:
        name: tells projects apart.
        tag: of the images.
        folder: for the run's configuration and its outcome.
    """

    def __init__(self, name: str, tag: str, folder: Path, **changes: object) -> None:
        self.project = f"fedwon-{name}-{os.getpid()}"
        self.outcome = folder / "outcome"
        self.outcome.mkdir()
        run = folder / "run.yaml"
        run.write_text(yaml.safe_dump({**RUN, **changes}))
        self._folder = folder
        self._containers: dict[str, str] = {}
        self._variables = {"FEDWON_VERSION": tag, "FEDWON_RUN": str(run), "FEDWON_OUTCOME": str(self.outcome)}

    def compose(self, *arguments: str, check: bool = True, timeout: float = 600.0) -> str:
        """Run `docker compose` on this project."""
        start = ("compose", "-f", str(COMPOSE), "-p", self.project)
        return docker(*start, *arguments, check=check, timeout=timeout, **self._variables)

    def up(self) -> None:
        """Start everything; returns when all have been started."""
        self.compose("up", "--detach", "--no-build", "--quiet-pull")

    def run_to_the_end(self) -> None:
        """Start everything and wait until the server has ended by itself."""
        self.up()
        self.wait_ended("server", *SITES)

    def container(self, service: str) -> str:
        """Return the id of a service's container; it stays the same when the container is started again."""
        if service not in self._containers:
            self._containers[service] = self.compose("ps", "--all", "--quiet", service).strip()
        return self._containers[service]

    def inspect(self, service: str) -> dict:
        """Return what the engine knows of a service's container."""
        return json.loads(docker("inspect", self.container(service)))[0]

    def logs(self, service: str) -> str:
        """Return what a service has said, in all its lives."""
        return docker("logs", self.container(service), both=True)

    def wait(self, true: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        """Wait until something is so."""
        end = time.monotonic() + patience
        while not true():
            if time.monotonic() > end:
                said = "\n".join(f"--- {name}\n{self.logs(name)[-2500:]}" for name in ("server", *SITES))
                raise AssertionError(f"waited {patience:.0f} s in vain for {what}\n{said}")
            time.sleep(0.1)

    def wait_says(self, service: str, pattern: str, patience: float = PATIENCE) -> None:
        """Wait until a service has said something."""
        self.wait(lambda: re.search(pattern, self.logs(service)), f"{service} to say {pattern!r}", patience)

    def wait_healthy(self, service: str) -> None:
        """Wait until the engine calls a service's container healthy."""
        self.wait(lambda: self.inspect(service)["State"]["Health"]["Status"] == "healthy", f"{service} to be healthy")

    def wait_ended(self, *services: str) -> None:
        """Wait until services have ended by themselves, and well."""
        for service in services:
            self.wait(lambda name=service: self.inspect(name)["State"]["Status"] == "exited", f"{service} to end")
            state = self.inspect(service)["State"]
            assert state["ExitCode"] == 0, f"{service}: {state}\n{self.logs(service)}"

    def crash(self, service: str) -> None:
        """Kill a service's process from outside, as the kernel does when memory runs out; its policy applies."""
        os.kill(self.inspect(service)["State"]["Pid"], signal.SIGKILL)

    def execute(self, service: str, *command: str, check: bool = True) -> str:
        """Run a command in a service's running container."""
        return docker("exec", self.container(service), *command, check=check)

    def runs(self) -> list[Path]:
        """Return the server's runs, copied out of its volume."""
        place = self._folder / "runs"
        shutil.rmtree(place, ignore_errors=True)
        docker("cp", f"{self.container('server')}:/var/lib/fedwon/runs", str(place))
        return sorted(place.iterdir())

    def digests(self) -> list[str]:
        """Return a digest of each round's model of the only run."""
        [run] = self.runs()
        return digests(run)

    def remove(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
