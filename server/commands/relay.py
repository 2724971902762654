"""Commands of a relay: a server that is one site of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwon.common.errors import Stopped
from fedwon.common.invitation import invited
from fedwon.server.commands.options import HOME, Folder
from fedwon.server.serving import Home

relay_app = typer.Typer(
    help="This server as one site of another, its parent: it hands the parent's tasks to its own sites and their mean "
    "to the parent. docs/scaling.md, step by step.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add these commands to the operator's."""
    app.add_typer(relay_app, name="relay")


@relay_app.command()
def join(
    server: Annotated[
        str | None, typer.Argument(help="Where the parent takes tokens, host:port.", show_default=False)
    ] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Of the parent's authority, from its operator.")] = None,
    token: Annotated[str | None, typer.Option(help="Single use, from the parent's operator.")] = None,
    invitation: Annotated[
        Path | None, typer.Option("--from", help="The file that the parent's `fedwon-server enroll --out` wrote.")
    ] = None,
    folder: Folder = HOME,
) -> None:
    """Enrol this server as a site of its parent, once, with what the parent's operator got from `fedwon-server enroll`.

    SERVER is where the parent takes tokens, host:port.
    """
    from fedwon.server.relays.joining import join as join_parent

    given = invited(server, fingerprint, token, invitation)
    site = join_parent(Home.open(folder), given.server, given.fingerprint, given.token)
    typer.echo(f"{folder} is site {site} of its parent now.")
    typer.echo(f"Next:\n  fedwon-server enroll SITE --dir {folder}     (for sites of its own)")
    typer.echo(f"  fedwon-server relay start --dir {folder}")


@relay_app.command()
def start(folder: Folder = HOME) -> None:
    """Serve this server's own sites and take part in the parent's runs with them, for ever.

    What is trained and how is the parent's. This server's own server.yaml says who takes part (`run.participation`),
    how answers are weighed (`run.aggregation`) and what is kept (`run.retention`).
    """
    from fedwon.server.relays.joining import check_rule, parent_of

    home, _ = Home.open(folder), parent_of(folder)  # told before PyTorch is loaded, which takes seconds
    check_rule(home)
    from fedwon.server.display import log_event
    from fedwon.server.relays.relaying import run_relay

    try:
        run_relay(home, log_event)
    except (Stopped, KeyboardInterrupt) as stop:
        typer.echo("stopped; the round in hand goes on at the next start", err=True)
        raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else 0) from None
