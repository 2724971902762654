"""Commands of the operator's page, and what can be done there as commands too: `pause`, `resume`, `stop`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedwon.server.auditing import operator
from fedwon.server.commands.options import HOME, Folder
from fedwon.server.runs import wishes
from fedwon.server.serving import Home

page_app = typer.Typer(help="The page in a browser that `start` serves. docs/operation.md.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the operator's."""
    app.add_typer(page_app, name="page")
    app.command()(pause)
    app.command()(resume)
    app.command()(stop)


@page_app.command("password")
def set_page_password(
    folder: Folder = HOME,
    from_stdin: Annotated[bool, typer.Option("--stdin", help="Read it from standard input, one line.")] = False,
) -> None:
    """Set the password with which operators log in to the page; whoever is logged in must log in again."""
    from fedwon.server.page.password import set_password

    home = Home.open(folder)
    given = sys.stdin.readline().rstrip("\n") if from_stdin else _asked()
    set_password(folder / "pki", given)
    home.store.audit("page password set", home.config.federation, actor=operator())
    typer.echo("the password is set; log in on the page, at /login")


def _asked() -> str:
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


def _wished(folder: Path, wish: str) -> str:
    from fedwon.server.relays.joining import check_no_relay

    home = Home.open(folder)
    check_no_relay(folder)  # its rounds are its parent's
    return wishes.make(home.store, wish, actor=operator())


def pause(folder: Folder = HOME) -> None:
    """Let the run pause at the end of its round, until `resume`; the server goes on serving sites."""
    run = _wished(folder, wishes.PAUSE)
    typer.echo(f"run {run} pauses at the end of its round; `fedwon-server resume --dir {folder}` lets it go on")


def resume(folder: Folder = HOME) -> None:
    """Take `pause` or `stop` back: the run goes on."""
    run = _wished(folder, wishes.NOTHING)
    typer.echo(f"run {run} goes on")


def stop(folder: Folder = HOME) -> None:
    """Let the run stop at the end of its round, and the server with it; `start --resume` goes on."""
    run = _wished(folder, wishes.STOP)
    typer.echo(f"run {run} stops at the end of its round; then\n  fedwon-server start --dir {folder} --resume\ngoes on")
