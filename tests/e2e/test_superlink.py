"""The same apps on Flower's own deployment engine: a stock SuperLink, stock SuperNodes, and `flwr run`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedwon.common.quiet import QUIET
from tests.e2e import faults
from tests.e2e.fleet import BIN, PATIENCE, ROOT, SITES, TINY, Process, digests, free_port, images, wait_until
from tests.e2e.marked import marked

CHANGES = {"rounds": 2}
RUN_PATIENCE = 400.0  # half a minute is usual; Flower gives up a task that starts slower than its heartbeats


def flwr(*arguments: object, env: dict[str, str]) -> dict:
    done = subprocess.run(
        [BIN / "flwr", *map(str, arguments), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """FLWR_HOME, with a connection for the commands."""
    folder = tmp_path / "flwr"
    folder.mkdir()
    return folder


def commands(home: Path, folder: Path) -> dict[str, tuple[str, ...]]:
    """A SuperLink and a SuperNode a site, all on loopback, by the names of their logs."""
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    )
    common = ("--insecure", "--host", host)
    server = ("flower-superlink", *common, "--port", port, "--disable-runtime-dependency-installation")
    found = {"superlink": server}
    for site in SITES:
        data = images(folder / f"{site}.npz")
        node = f'site="{site}" data.path="{data}" threads=1'
        own = ("--port", str(free_port()), "--superlink", address, "--node-config", node)
        found[site] = ("flower-supernode", *common, *own)
    return found


@pytest.fixture
def flower(home: Path, tmp_path: Path) -> Iterator[tuple[list[Process], dict[str, str]]]:
    """The processes, the SuperLink first, and the environment for Flower's commands."""
    started: list[Process] = []
    with marked(**QUIET, FLWR_HOME=str(home)) as environment:
        for log, (name, *rest) in commands(home, tmp_path).items():
            started.append(Process([str(BIN / name), *rest], tmp_path / f"{log}.log", env=environment))
        yield started, environment
    for process in started:
        process.process.wait()


@pytest.mark.timeout(600)
def test_a_stock_superlink_gives_the_same_model_in_every_round(
    flower: tuple[list[Process], dict[str, str]], tmp_path: Path
) -> None:
    processes, environment = flower
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump({**TINY, **CHANGES}))
    processes[0].wait_says("running on")
    settings = f'config="{config}" out="{out}"'
    run = flwr("run", ROOT, "here", "--run-config", settings, env=environment)["run-id"]

    def over() -> bool:
        assert all(process.process.poll() is None for process in processes)
        return any(out.glob("runs/*/model.safetensors")) or processes[0].says("ServerApp raised")

    try:
        wait_until(over, "the end of the run", RUN_PATIENCE)
        wait_until(lambda: status(run, environment) != "running", "its end in Flower's eyes")
        assert status(run, environment) == "finished:completed"
    except AssertionError as error:
        said = "\n".join(process.text() for process in processes)
        raise AssertionError(f"{error}\n{said}") from None
    [folder] = (out / "runs").iterdir()
    found = digests(folder)
    assert len(set(found)) == 3  # the initial model and two rounds
    assert found == faults.undisturbed(tmp_path / "simulated", *SITES, **CHANGES)


def status(run: str, environment: dict[str, str]) -> str:
    [row] = flwr("ls", "here", "--run-id", run, env=environment)["runs"]
    return row["status"]
