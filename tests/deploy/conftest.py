"""Tests of what deploy/ holds. Those with containers need a Docker engine; docs/containers.md says what they do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.compose_kit import Federation, build_images


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine with `docker compose`, and the right to kill a container's process; skips where there is none."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-200:]}")
    if os.geteuid() != 0:
        pytest.skip("killing a container's process from outside needs root")


@pytest.fixture(scope="session")
def images(engine: None) -> str:
    """The images, built from this tree by the project's own files; returns their tag."""
    return build_images()


@pytest.fixture(scope="session")
def undisturbed(images: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The federation of compose.yaml after a run in which nothing happened."""
    federation = Federation("undisturbed", images, tmp_path_factory.mktemp("undisturbed"))
    try:
        federation.run_to_the_end()
        yield federation
    finally:
        federation.remove()


@pytest.fixture
def federation(images: str, tmp_path: Path) -> Iterator[Federation]:
    """A federation of compose.yaml that nobody has started."""
    made = Federation("disturbed", images, tmp_path)
    try:
        yield made
    finally:
        made.remove()
