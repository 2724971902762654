"""Commands about refused updates and suspended sites: `quarantine`, `sites suspend`, `sites resume`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fedwon.common.console import show_table
from fedwon.common.version import VERSION
from fedwon.server.commands.options import HOME, AsJson, Folder
from fedwon.server.serving import Home

quarantine_app = typer.Typer(
    help="The refused updates: why each was refused, what is in it, and to let one count after all.",
    no_args_is_help=True,
)

SiteName = Annotated[str, typer.Argument(help="Name of the site, such as press-3.")]
TaskName = Annotated[str, typer.Argument(help="The update's task, as `list` names it, or an end of it.")]
Reason = Annotated[str, typer.Option(help="Why; the audit trail keeps it.")]


def register(app: typer.Typer, sites: typer.Typer) -> None:
    """Add these commands to the operator's, and to those about sites."""
    app.add_typer(quarantine_app, name="quarantine")
    sites.command()(suspend)
    sites.command()(resume)


@quarantine_app.command("list")
def list_updates(
    folder: Folder = HOME,
    run: Annotated[str | None, typer.Option(help="Only updates of this run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the refused updates, oldest first."""
    from fedwon.server.admission.quarantine import listing

    home = Home.open(folder)
    rows = listing(home.store, home.folder, run)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "quarantine": rows}))
        return
    if not rows:
        typer.echo("no update is in quarantine")
        return
    show_table(
        ("task", "site", "round", "when (UTC)", "state", "rule", "reason"),
        [
            (row["task"], row["site"], str(row["round"]), row["at"][:19], _state(row), row["rule"], row["reason"])
            for row in rows
        ],
        title="Refused updates, oldest first",
    )


def _state(row: dict[str, Any]) -> str:
    return row["state"] if row["file"] else f"{row['state']}, file not kept"


@quarantine_app.command()
def show(task: TaskName, folder: Folder = HOME, as_json: AsJson = False) -> None:
    """Show one refused update: its reason, its numbers, and which tensors it moves most."""
    from fedwon.server.admission.quarantine import details

    home = Home.open(folder)
    found = details(home.store, home.folder, task)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, **found}))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, number in value.items():
                typer.echo(f"  {name}: {number:.6g}")
        else:
            typer.echo(f"{key}: {value}")


@quarantine_app.command()
def release(task: TaskName, folder: Folder = HOME, reason: Reason = "", as_json: AsJson = False) -> None:
    """Let a refused update count in the next round, with the weight of one that is as late as it is then."""
    from fedwon.server.admission.quarantine import release as let_out

    home = Home.open(folder)
    row = let_out(home.store, home.folder, task, reason)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "task": row.task, "site": row.site, "state": "released"}))
        return
    typer.echo(f"{row.task} of site {row.site} counts in the next round that run {row.run} commits.")


def suspend(site: SiteName, folder: Folder = HOME, reason: Reason = "", as_json: AsJson = False) -> None:
    """Ask a site for no update from now on; it stays connected and keeps its certificate."""
    from fedwon.server.admission.suspension import suspend as keep_out

    keep_out(Home.open(folder).store, site, reason)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "site": site, "suspended": True}))
        return
    typer.echo(f"site {site} is suspended: no round asks it, and what it sends of the round in hand does not count.")
    typer.echo(f"To ask it again: fedwon-server sites resume {site} --dir {folder}")


def resume(site: SiteName, folder: Folder = HOME, as_json: AsJson = False) -> None:
    """Ask a suspended site again, from the next round on."""
    from fedwon.server.admission.suspension import resume as let_in

    let_in(Home.open(folder).store, site)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "site": site, "suspended": False}))
        return
    typer.echo(f"site {site} is asked again, from the next round on.")
