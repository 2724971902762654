"""The same round on Flower's own engine: a stock SuperLink, stock SuperNodes, and `flwr run`.

    seconds = flower_rounds(folder, size=1_000_000, sites=4, rounds=3)

Its ServerApp is Flower's FedAvg without a round of evaluation, its ClientApp gives back what came: no training and no
torch. Everything on loopback without TLS, which is in Flower's favour, and with the settings that it comes with (a
SuperNode asks every 3 s whether there is something to do).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from fedwon.common.quiet import QUIET

BIN = Path(sys.executable).parent
PATIENCE = 180.0

PROJECT = """[project]
name = "light"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "fedwon"
[tool.flwr.app.components]
serverapp = "light_app:server"
clientapp = "light_app:client"
[tool.flwr.app.config]
rounds = 1
sites = 1
floats = 1
out = ""
"""
APP = '''"""Rounds without training."""

import time

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

__all__ = ["client", "server"]

client, server = ClientApp(), ServerApp()


@client.train()
def train(message, context):
    metrics = MetricRecord({"num-examples": 20})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)


@server.main()
def main(grid, context):
    config = context.run_config

    def note(number, arrays):
        with open(config["out"], "a") as file:
            file.write(f"{number} {time.monotonic()}\\n")

    model = ArrayRecord({"weights": Array(np.random.default_rng(1).normal(size=config["floats"]).astype("f4"))})
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=config["sites"], min_available_nodes=config["sites"])
    strategy.start(grid, model, num_rounds=config["rounds"], evaluate_fn=note)
'''


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flower_rounds(folder: Path, *, size: int, sites: int, rounds: int) -> list[float]:
    """Return the seconds of each round but the first.

    Args:
        folder: a new one.
        size: bytes of the model.
        sites: SuperNodes.
        rounds: how many are measured; one more comes first.
    """
    bundle, out = folder / "light", folder / "rounds.txt"
    bundle.mkdir(parents=True)
    (bundle / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (bundle / "light_app.py").write_text(APP, encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n', encoding="utf-8"
    )
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"}
    port, common = address.split(":")[1], ("--insecure", "--host", "127.0.0.1")
    commands = [("flower-superlink", *common, "--port", port, "--disable-runtime-dependency-installation")]
    commands += [
        ("flower-supernode", *common, "--port", str(free_port()), "--superlink", address) for _ in range(sites)
    ]
    running = []
    try:
        with (folder / "flower.log").open("wb") as log:
            for name, *rest in commands:
                running.append(
                    subprocess.Popen(
                        [BIN / name, *rest],
                        stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
                    )
                )  # fmt: skip
        _wait_for(address)
        settings = f'rounds={rounds + 1} sites={sites} floats={size // 4} out="{out}"'
        submit = [BIN / "flwr", "run", bundle, "here", "--run-config", settings]
        done = subprocess.run(
            submit, check=False, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise SystemExit(f"flwr run has failed:\n{done.stdout}{done.stderr}")
        return _rounds(out, rounds, folder / "flower.log")
    finally:
        for process in running:
            _end(process)


def _wait_for(address: str) -> None:
    host, port = address.split(":")
    for _ in range(600):
        with suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.1)
    raise SystemExit("the SuperLink does not listen")


def _rounds(out: Path, rounds: int, log: Path) -> list[float]:
    end = time.monotonic() + PATIENCE
    moments: list[float] = []
    while len(moments) < rounds + 2:  # before the first, and after each
        if time.monotonic() > end:
            if len(moments) > 2:
                break  # those that are there count
            raise SystemExit(f"Flower's rounds do not end:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)
        moments = [float(line.split()[1]) for line in out.read_text().splitlines()] if out.exists() else []
    return [after - before for before, after in pairwise(moments[1:])]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started, which are in its session, or in sessions of their own."""
    for pid in (*_children(process.pid), process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += [*_children(int(folder.name)), int(folder.name)]
    return found
