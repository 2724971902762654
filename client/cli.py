"""`fedwon-client`: what is typed at a site."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from fedwon.client import cli_predict
from fedwon.client.config import ClientConfig, DataConfig, SiteConfig
from fedwon.common import logs, notify
from fedwon.common.config import load, parse
from fedwon.common.console import run_command, show_health, show_table
from fedwon.common.invitation import Invitation, invited
from fedwon.common.memory import keep_freed_memory
from fedwon.common.surveys import told
from fedwon.common.version import VERSION

if TYPE_CHECKING:
    from fedwon.client.checks.preflight import Finding
    from fedwon.client.link.site_link import Link

app = typer.Typer(
    name="fedwon-client",
    help="One site of a federation: its images stay here, weights go to the server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

HOME = Path("fedwon-site")
STOP_SECONDS = 5.0
"""Time that the session gets to end in order."""

Folder = Annotated[Path, typer.Option("--dir", help="The site's folder, with client.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def main(
    log_format: Annotated[Literal["auto", "text", "json"], typer.Option(help="How log lines look.")] = "auto",
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="Least level.")] = "info",
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Set up logging for every command."""
    del version
    logs.setup(log_format, log_level)


@app.command()
def join(
    server: Annotated[str | None, typer.Argument(help="Where tokens are taken, host:port.")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Of the federation's authority, from the operator.")] = None,
    token: Annotated[str | None, typer.Option(help="Single use, from the operator.")] = None,
    invitation: Annotated[
        Path | None, typer.Option("--from", help="The file that `fedwon-server enroll --out` wrote, in their place.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A folder <class>/*.jpg, an .npz file, or digits:NAME.")] = None,
    test: Annotated[str | None, typer.Option(help="Images never trained on, in the same forms.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="This site's own batch size; 1 is fine.", min=1)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for training; all without it.", min=1)] = None,
    folder: Folder = HOME,
    unless_joined: Annotated[
        bool, typer.Option("--unless-joined", help="Leave a folder that is a site's already as it is.")
    ] = False,
    then_start: Annotated[bool, typer.Option("--start", help="Then take part, as `start` does.")] = False,
    until_finished: Annotated[bool, typer.Option(help="With --start: end when a run has finished.")] = False,
) -> None:
    """Make this machine a site: key and certificate, and client.yaml. Paste the operator's line, add `--data`."""
    if not (unless_joined and (folder / "client.yaml").exists()):
        _join(invited(server, fingerprint, token, invitation), _own(data, test, batch_size, threads), folder)
    if then_start:
        start(folder, until_finished)
        return
    typer.echo(f"Next:\n  fedwon-client check --dir {folder}\n  fedwon-client start --dir {folder}")


def _own(data: str | None, test: str | None, batch_size: int | None, threads: int | None) -> SiteConfig:
    data = data or typer.prompt("Where are this site's images (a folder of classes, or an .npz file)")
    where = parse(DataConfig, {"path": _absolute(str(data)), "test": _absolute(test) if test else None}, "--data")
    return SiteConfig(data=where, batch_size=batch_size, threads=threads)


def _join(invitation: Invitation, own: SiteConfig, folder: Path) -> None:
    from fedwon.client import enrolment
    from fedwon.client.images.data import survey

    survey(own.data, Path.cwd())  # a wrong folder must not cost the token
    joined = asyncio.run(enrolment.join(invitation.server, invitation.fingerprint, invitation.token, folder, own))
    typer.echo(f"joined as site {joined.site}; settings are in {joined.config}.")


def _absolute(path: str) -> str:
    return path if path.startswith("digits:") else str(Path(path).expanduser().resolve())


@app.command()
def check(
    folder: Folder = HOME,
    quick: Annotated[bool, typer.Option("--quick", help="Decode no image and train no step.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at images, certificate, disk, server and clock before taking part, and time a step of training."""
    from fedwon.client.checks.preflight import preflight

    config = load(ClientConfig, folder / "client.yaml")
    findings = preflight(config, folder)
    if not quick:
        from fedwon.client.checks.rehearsal import rehearse

        findings += rehearse(config, folder)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "findings": [finding.as_dict() for finding in findings]}))
    else:
        for finding in findings:
            typer.echo(f"{_mark(finding)} {finding.name}: {finding.text}")
            if finding.hint:
                typer.echo(f"       {finding.hint}")
    raise typer.Exit(next((finding.code for finding in findings if not finding.ok), 0))


def _mark(finding: Finding) -> str:
    if not finding.ok:
        return "FAILED"
    return "note  " if finding.hint else "ok    "


@app.command()
def start(
    folder: Folder = HOME,
    until_finished: Annotated[bool, typer.Option(help="End when a run has finished.")] = False,
    patience: Annotated[
        float,
        typer.Option(help="Seconds to wait for another client of this name to go away; over 3 heartbeats.", min=0),
    ] = 60.0,
) -> None:
    """Connect to the server and take part in its runs, for ever."""
    from fedwon.client.images.data import survey
    from fedwon.client.limits import Limits
    from fedwon.client.link.site_link import Link
    from fedwon.client.link.tasks import training_app
    from fedwon.client.metrics import measured
    from fedwon.client.precedence import stand_back
    from fedwon.client.releases.adoption import Adoption
    from fedwon.client.tracing import traced

    keep_freed_memory()
    config = load(ClientConfig, folder / "client.yaml")
    stand_back(config.nice)

    def _count() -> dict[str, dict[str, int]]:
        return survey(config.data, folder)

    _count()  # wrong images are told at once, before anything is connected
    limits = Limits(config.limits, folder / "journal", _count, config.batch_size)
    with traced(config.traces, folder) as step:
        link = Link(
            config,
            folder,
            lambda: told(_count(), by_class=config.limits.show_counts),
            until_finished=until_finished,
            patience=patience,
            schedule=config.schedule,
            load_app=lambda: limits.around(training_app()),
            adoption=Adoption(config, folder),
            step=step,
        )
        logs.bind(site=link.site)
        with measured(config.metrics, folder, link.figures):
            asyncio.run(_serve(link, config.server))


async def _serve(link: Link, server: str) -> None:
    """Run until the end, and let a service manager know; a site is ready also while it still looks for its server."""
    async with notify.watched():
        notify.ready(f"connecting to {server}")
        await _until_signal(link)


async def _until_signal(link: Link) -> None:
    """Run until the work is done or a signal comes, which ends the process."""
    loop = asyncio.get_running_loop()
    work, signalled = asyncio.ensure_future(link.run()), asyncio.Event()
    received: list[int] = []

    def _stop(number: int) -> None:
        notify.stopping()
        received.append(number)
        signalled.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, number)
    waiting = asyncio.ensure_future(signalled.wait())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not received:
        waiting.cancel()
        await work
        return
    work.cancel()
    await asyncio.wait({work}, timeout=STOP_SECONDS)
    typer.echo("stopped; what was finished is kept and handed in at the next start", err=True)
    # a service that is told to stop ends well; Ctrl-C is 130 as everywhere
    _leave(130 if received[0] == signal.SIGINT else 0)


def _leave(code: int) -> NoReturn:
    """End at once. A training step in its thread, and PyTorch's own end, can take longer than whoever stops us waits.

    What counts is on the disk, whole, at every moment.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@app.command()
def health(
    folder: Folder = HOME,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=0.1)] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Ask the client that runs with this folder whether it is well; one without connection is, it tries again."""
    from fedwon.client.link.health import check_health

    show_health(lambda: check_health(folder, timeout), as_json)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file that a run wrote.")],
    folder: Folder = HOME,
    data: Annotated[str | None, typer.Option(help="Images in place of client.yaml's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on this site's images; no server is needed."""
    from fedwon.client.evaluating import evaluate_file

    where = DataConfig(path=_absolute(data)) if data else load(ClientConfig, folder / "client.yaml").data
    result = evaluate_file(model, where, folder)
    if as_json:
        typer.echo(json.dumps(result))
        return
    show_table(
        ("images", "accuracy", "correct", "loss"),
        [
            (part, f"{100 * row['accuracy']:.1f} %", f"{row['correct']}/{row['examples']}", f"{row['loss']:.3f}")
            for part, row in result["parts"].items()
        ],
        title=str(model),
    )


cli_predict.register(app)


def run() -> None:
    """Entry point of the command."""
    run_command(app)


if __name__ == "__main__":
    run()
