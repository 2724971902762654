"""`fedwon-server demo`: a real federation on one machine, and what it is good for.

One server process and one client process a site, on loopback with mutual TLS, exactly as on a factory floor. Then the
same network trained on one line alone, measured on the others, to show what federating them brought.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import typer

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.domains import discover
from fedwon.common.config import load
from fedwon.common.console import show_table
from fedwon.common.errors import FedwonError, FolderTaken, RunError
from fedwon.common.files import write_atomic
from fedwon.common.flower import host_app
from fedwon.common.model_file import read_model
from fedwon.common.pki import fingerprint
from fedwon.common.run_config import ImageConfig, ModelConfig, ParticipationConfig, RunConfig, TrainingConfig
from fedwon.server import sites
from fedwon.server.app import federate
from fedwon.server.config import ServerConfig
from fedwon.server.evaluation import Evaluation, evaluate_model
from fedwon.server.runs import Run
from fedwon.server.serving import Home
from fedwon.server.simulation import InProcessGrid
from fedwon.server.store import Store

MARK = ".fedwon-demo"
START_SECONDS = 60.0
STOP_SECONDS = 10.0

DIGITS = RunConfig(
    name="demo",
    rounds=10,
    model=ModelConfig(width=0.25),
    images=ImageConfig(size=28),
    training=TrainingConfig(epochs=1, batch_size=8, lr=0.02),
)
"""The demo on the built-in digits; chosen on validation images (docs/demo.md)."""


def demo_config(domains: Mapping[str, DataConfig], path: Path | None) -> RunConfig:
    """Return the demo's run: a file's, or one that fits the data and three minutes.

    Raises:
        ConfigError: the file is not valid.
    """
    base = load(RunConfig, path) if path else DIGITS
    if path is None and not all(where.path.startswith("digits:") for where in domains.values()):
        small = all(where.path.endswith(".npz") for where in domains.values())
        base = base.model_copy(update={"images": ImageConfig(size=28 if small else 64, max_train=400)})
    participation = base.participation.model_copy(update={"minimum": len(domains)})
    return base.model_copy(update={"participation": participation})


def run_demo(data: str, folder: Path, path: Path | None) -> None:
    """Run the demo and print its tables.

    Args:
        data: a folder of domains, or "digits".
        folder: where server and sites live; what an earlier demo left there is deleted.
        path: a run's configuration in place of the demo's own.

    Raises:
        FolderTaken: the folder holds something that no demo made.
        DataMissing: there are no domains in the data folder.
        RunError: a process of the demo failed.
    """
    started = time.monotonic()
    domains = discover(data)
    config = demo_config(domains, path)
    _clear(folder)
    home = Home.create(folder / "server", _server_config(config))
    typer.echo(f"{len(domains)} sites: {', '.join(domains)}. One of them, {_weak(domains)}, trains at batch size 1.")
    with _children() as children:
        server = children.start("server", ["fedwon.server.cli", "start", "--dir", str(home.folder)])
        _join_all(home, domains, folder, children)
        for name in domains:
            arguments = ["fedwon.client.cli", "start", "--dir", str(folder / name), "--until-finished"]
            children.start(name, arguments, log=folder / name / "client.log")
        children.wait(server)
    run = Run.open(home.store, home.folder)
    model = run.folder / "model.safetensors"
    typer.echo(f"\nFor comparison: the same network trained on {next(iter(domains))} alone ...")
    _compare(domains, model, config)
    typer.echo(f"\nglobal model: {model}")
    typer.echo(f"all of it took {time.monotonic() - started:.0f} s; logs and settings are in {folder}")


def _weak(domains: Mapping[str, DataConfig]) -> str:
    return list(domains)[-1]


def _clear(folder: Path) -> None:
    if folder.exists():
        if not (folder / MARK).exists() and any(folder.iterdir()):
            raise FolderTaken(f"{folder} holds something that no demo made.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_atomic(folder / MARK, b"")


def _server_config(config: RunConfig) -> ServerConfig:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in (first, second)]
    return ServerConfig(
        federation="demo",
        listen=f"127.0.0.1:{ports[0]}",
        enrolment=f"127.0.0.1:{ports[1]}",
        names=("127.0.0.1", "localhost"),
        heartbeat_seconds=2.0,
        run=config,
    )


def _join_all(home: Home, domains: Mapping[str, DataConfig], folder: Path, children: Children) -> None:
    """Enrol every site as its engineer would: with the operator's line."""
    _wait_for_port(home.config.enrolment, children)
    mark = fingerprint(home.authority.pem)
    joining = []
    for name, where in domains.items():
        arguments = ["fedwon.client.cli", "join", home.enrolment_address, "--fingerprint", mark]
        arguments += ["--token", sites.make_token(home.store, name), "--dir", str(folder / name), "--threads", "1"]
        arguments += ["--data", where.path, *(["--test", where.test] if where.test else [])]
        arguments += ["--batch-size", "1"] if name == _weak(domains) else []
        joining.append(children.start(f"join {name}", arguments, log=folder / f"{name}.join.log"))
    for process in joining:
        children.wait(process)


def _wait_for_port(address: str, children: Children) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        children.check()
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.05)
    raise RunError(f"The server did not listen on {address} within {START_SECONDS:.0f} s.")


def _compare(domains: Mapping[str, DataConfig], model: Path, config: RunConfig) -> None:
    """Print the global model beside the same network trained on the first line alone."""
    alone = next(iter(domains))
    task, record = read_model(model)
    host_app()
    grid = InProcessGrid({name: SiteConfig(data=where, threads=1) for name, where in domains.items()}, Path.cwd())
    federated = evaluate_model(grid, task, record, timeout=0)
    own = InProcessGrid({alone: SiteConfig(data=domains[alone], threads=1)}, Path.cwd())
    single = config.model_copy(update={"participation": ParticipationConfig(minimum=1), "classes": task.classes})
    with TemporaryDirectory(prefix="fedwon-") as scratch:
        store = Store(Path(scratch) / "fedwon.db")
        outcome = federate(own, single, store, Path(scratch))
        standalone = evaluate_model(grid, *read_model(outcome.model), timeout=0)
        store.close()
    _show(federated, standalone, alone)


def _show(federated: Evaluation, standalone: Evaluation, alone: str) -> None:
    by_site = {score.site: score for score in standalone.scores}
    rows = [
        (
            score.site,
            f"{score.examples} {score.part}",
            f"{100 * score.accuracy:.1f} %",
            f"{100 * by_site[score.site].accuracy:.1f} %" + (" (its own line)" if score.site == alone else ""),
        )
        for score in federated.scores
    ]
    show_table(("site", "images", "federation", f"{alone} alone"), rows, title="What the federation brought")
    others = [score for score in standalone.scores if score.site != alone]
    if others:
        worst = min(others, key=lambda score: score.accuracy)
        typer.echo(
            f"worst line with the global model: {100 * min(s.accuracy for s in federated.scores):.1f} %; "
            f"worst other line with {alone} alone: {100 * worst.accuracy:.1f} % ({worst.site})"
        )


class Children:
    """The processes of the demo, ended with it."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}

    def start(self, name: str, arguments: list[str], log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start `python -m` with these arguments; its output goes to a file, or to this terminal without one."""
        command = [sys.executable, "-m", *arguments]
        if log is None:
            process = subprocess.Popen(command)  # noqa: S603  # our own module
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as file:
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603
            self._logs[name] = log
        self._running[name] = process
        return process

    def check(self) -> None:
        """Look whether a process has failed.

        Raises:
            RunError: one has; the message has the end of what it said.
        """
        for name, process in self._running.items():
            if process.poll() not in {None, 0}:
                log = self._logs.get(name)
                raise RunError(
                    f"{name} ended with exit code {process.returncode}{_said(log)}",
                    hint=f"The whole log: {log}" if log else "What it said stands above.",
                )

    def busy(self) -> bool:
        """Tell whether a process still runs."""
        return any(process.poll() is None for process in self._running.values())

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a process has ended well.

        Raises:
            RunError: it, or another one, has failed.
        """
        while process.poll() is None:
            self.check()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        self.check()

    def stop(self) -> None:
        """End all that still run: politely, then not."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0.1))
            if process.poll() is None:
                process.kill()
                process.wait()


def _said(log: Path | None) -> str:
    """Return the error that a process ended with, from its log."""
    lines = log.read_text(errors="replace").splitlines() if log else []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f": {errors[-1]}" if errors else "."


@contextmanager
def _children() -> Iterator[Children]:
    """Start processes that end with the block, also on Ctrl-C and SIGTERM."""

    def leave(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    children = Children()
    try:
        yield children
        _settle(children)
    finally:
        children.stop()
        signal.signal(signal.SIGTERM, before)


def _settle(children: Children) -> None:
    """Give sites a moment to hear that the run has finished and to end by themselves."""
    end = time.monotonic() + STOP_SECONDS
    with suppress(FedwonError):
        while time.monotonic() < end and children.busy():
            time.sleep(0.1)
            children.check()
