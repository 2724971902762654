"""What is done to a federation's resources: disks, files, clocks, locks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store
from tests.e2e.fleet import digests, images, run_config

SLOW = {"training": {"batch_size": 1, "lr": 0.02, "epochs": 3}, "images": {"max_train": 60, "channels": 1}}
"""A round of a second or two, so that something can happen in the middle of it."""

PATCHED = """
import sys
{patch}
from fedwon.{side}.cli import run
sys.argv = sys.argv[1:]
run()
"""


@contextmanager
def small_disk(place: Path, megabytes: int = 16) -> Iterator[Path]:
    """A file system of so many megabytes."""
    _need_root()
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take the space that is left, but for so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while shutil.disk_usage(disk).free > leave:
            file.write(b"\0" * 4096)
    return ballast


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nothing be written below a folder while the block runs; what is open already stays as it is."""
    _need_root()
    _mount("--bind", folder, folder)
    try:
        _mount("-o", "remount,ro,bind", folder)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")


def _mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


def flip(path: Path, at: int = -1) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Take the second half away."""
    os.truncate(path, path.stat().st_size // 2)


def change_site(folder: Path, **changes: object) -> None:
    """Change a site's client.yaml."""
    path = folder / "client.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def patched(side: str, patch: str, *arguments: object) -> list[str]:
    """The command line of one side with something in it changed first."""
    code = PATCHED.format(side=side, patch=patch)
    return [sys.executable, "-c", code, f"fedwon-{side}", *map(str, arguments)]


def undisturbed(folder: Path, *names: str, **changes: object) -> list[str]:
    """Digests of the models of a run in which nothing happens, from a simulation."""
    folder.mkdir(exist_ok=True)
    sites = {name: SiteConfig(data=DataConfig(path=str(images(folder / f"{name}.npz"))), threads=1) for name in names}
    store = Store(folder / "fedwon.db")
    outcome = federate(InProcessGrid(sites, folder), run_config(changes), store, folder)
    store.close()
    return digests(outcome.model.parent)
