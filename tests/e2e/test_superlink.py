"""The same apps on Flower's own deployment engine: a stock SuperLink, stock SuperNodes, and `flwr run`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from fedwon.common.quiet import QUIET
from tests.e2e import faults
from tests.e2e.fleet import BIN, PATIENCE, ROOT, SITES, TINY, Process, digests, free_port, images, wait_until
from tests.e2e.marked import marked

CHANGES = {"rounds": 2}


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


def start(home: Path, environment: dict[str, str], folder: Path) -> tuple[str, list[Process]]:
    """A SuperLink and a SuperNode a site, all on loopback; return its address and the processes."""
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    )
    common = ("--insecure", "--host", host)
    server = ("flower-superlink", *common, "--port", port, "--disable-runtime-dependency-installation")
    commands = {"superlink": server}
    for site in SITES:
        data = images(folder / f"{site}.npz")
        node = f'site="{site}" data.path="{data}" threads=1'
        own = ("--port", str(free_port()), "--superlink", address, "--node-config", node)
        commands[site] = ("flower-supernode", *common, *own)
    started = [
        Process([str(BIN / name), *rest], folder / f"{log}.log", env=environment, start_new_session=True)
        for log, (name, *rest) in commands.items()
    ]
    return address, started


def test_a_stock_superlink_gives_the_same_model_in_every_round(home: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump({**TINY, **CHANGES}))
    with marked(**QUIET, FLWR_HOME=str(home)) as environment:
        _, processes = start(home, environment, tmp_path)
        processes[0].wait_says("Application startup complete|running on")
        settings = f'config="{config}" out="{out}"'
        run = flwr("run", ROOT, "here", "--run-config", settings, env=environment)["run-id"]

        def over() -> bool:
            for process in processes:
                assert process.process.poll() is None, process.text()
            return any(out.glob("runs/*/model.safetensors")) or processes[0].says("finished:failed|ServerApp raised")

        try:
            wait_until(over, "the end of the run", 2 * PATIENCE)
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
