"""`fedwon-server demo`: a real federation on one machine, and what it is good for.

One server process and one client process a site, on loopback with mutual TLS, exactly as on a factory floor. Then the
same network trained on one line alone, measured on the others, to show what federating them brought.
"""

from __future__ import annotations

import fcntl
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.images.domains import discover
from fedwon.common.config import load
from fedwon.common.console import show_table
from fedwon.common.errors import FolderTaken, RunError
from fedwon.common.model_file import read_model
from fedwon.common.pki import fingerprint
from fedwon.common.run_config import RunConfig
from fedwon.common.task_settings import ImageConfig, ModelConfig, TrainingConfig
from fedwon.server import report
from fedwon.server.children import Children
from fedwon.server.config import ServerConfig
from fedwon.server.engines.simulating import standalone
from fedwon.server.identity import sites
from fedwon.server.rounds.evaluation import Evaluation
from fedwon.server.runs.run import Run
from fedwon.server.serving import Home

MARK = ".fedwon-demo"
START_SECONDS = 60.0

DIGITS = RunConfig(
    name="demo",
    rounds=10,
    model=ModelConfig(width=0.25),
    images=ImageConfig(size=28),
    training=TrainingConfig(epochs=2, batch_size=8, lr=0.1, clipping=0.16),
)
"""The demo on the built-in digits; chosen on validation images (docs/results.md)."""


def demo_config(domains: Mapping[str, DataConfig], path: Path | None) -> RunConfig:
    """Return the demo's run: a file's, or one that fits the data and three minutes.

    Raises:
        ConfigError: the file is not valid.
    """
    base = load(RunConfig, path) if path else DIGITS
    if path is None and not all(where.path.startswith("digits:") for where in domains.values()):
        small = all(where.path.endswith(".npz") for where in domains.values())
        base = base.model_copy(update={"images": ImageConfig(size=28 if small else 64, max_train=300)})
    participation = base.participation.model_copy(update={"minimum": len(domains), "pause_seconds": None})
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
    typer.echo(f"{len(domains)} sites: {', '.join(domains)}. {_note(domains, config)}")
    with Children() as children, _claimed(folder):
        model, federated = _federate(domains, config, folder, children)
        typer.echo(f"\nFor comparison: the same network trained on {next(iter(domains))} alone ...")
        _compare(domains, model, federated, config)
    typer.echo(f"\nglobal model: {model}")
    typer.echo(f"all of it took {time.monotonic() - started:.0f} s; logs and settings are in {folder}")


def _federate(
    domains: Mapping[str, DataConfig], config: RunConfig, folder: Path, children: Children
) -> tuple[Path, Evaluation]:
    """Run server and sites to the end of the run; return the global model and how it does at each site."""
    home = Home.create(folder / "server", _server_config(config))
    typer.echo(f"watch it in a browser: http://{home.config.page}/")
    server = children.start("server", ["fedwon.server.cli", "start", "--dir", str(home.folder)])
    _join_all(home, domains, folder, children)
    for name in domains:
        arguments = ["fedwon.client.cli", "start", "--dir", str(folder / name), "--until-finished"]
        children.start(name, arguments, log=folder / name / "client.log")
    children.wait(server)
    children.settle()
    model = Run.open(home.store, home.folder).folder / "model.safetensors"
    federated = report.last_evaluation(home.store)
    home.store.close()
    if not model.exists():
        raise RunError("The server was stopped before the run had finished.", hint="Start the demo again.")
    return model, federated


def _note(domains: Mapping[str, DataConfig], config: RunConfig) -> str:
    if config.rules.minimum_batch > 1:  # batch norm
        return f"Method {config.method} cannot train at batch size 1."
    return f"One of them, {_weak(domains)}, trains at batch size 1."


def _weak(domains: Mapping[str, DataConfig]) -> str:
    return list(domains)[-1]


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Empty a demo's folder, and keep another demo out of it while the block runs."""
    if folder.exists() and not folder.is_dir():
        raise FolderTaken(f"{folder} is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).exists() and any(folder.iterdir()):
        raise FolderTaken(f"{folder} holds something that no demo made.")
    with (folder / MARK).open("w") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(f"Another demo runs in {folder}.") from None
        _clear(folder)
        yield


def _clear(folder: Path) -> None:
    for found in folder.iterdir():
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        elif found.name != MARK:
            found.unlink()


def _server_config(config: RunConfig) -> ServerConfig:
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        ports = []
        for probe in (first, second, third):
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    return ServerConfig(
        federation="demo",
        listen=f"127.0.0.1:{ports[0]}",
        enrolment=f"127.0.0.1:{ports[1]}",
        names=("127.0.0.1", "localhost"),
        heartbeat_seconds=2.0,
        page=f"127.0.0.1:{ports[2]}",
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
        weak = name == _weak(domains) and home.config.run.rules.minimum_batch == 1
        arguments += ["--batch-size", "1"] if weak else []
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


def _compare(domains: Mapping[str, DataConfig], model: Path, federated: Evaluation, config: RunConfig) -> None:
    """Print the global model beside the same network trained on the first line alone."""
    alone = next(iter(domains))
    own = {name: SiteConfig(data=where, threads=1) for name, where in domains.items()}
    agreed = config.model_copy(update={"classes": read_model(model)[0].classes})
    _show(federated, standalone(agreed, own, alone, Path.cwd()), alone)


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
