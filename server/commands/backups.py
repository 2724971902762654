"""`fedwon-server backup` and `fedwon-server restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwon.server.backups.backup import back_up
from fedwon.server.backups.restore import restore as make_folder


def add_to(app: typer.Typer) -> None:
    """Add both commands to the server's command."""
    app.command()(backup)
    app.command()(restore)


def backup(
    out: Annotated[Path, typer.Option(help="The tar file to make.")],
    folder: Annotated[Path, typer.Option("--dir", help="The server's folder.")] = Path("fedwon-server"),
) -> None:
    """Write the server's folder into one file: database, models and private keys; also while it runs."""
    made = back_up(folder, out)
    typer.echo(f"{made.path}: {made.files} files, {made.size / 1e6:.1f} MB")
    for name in made.damaged:
        typer.echo(f"warning: {name} is missing or damaged in {folder}, and so it is in the backup", err=True)
    typer.echo("it holds the federation's private keys: keep it where only operators can read it", err=True)


def restore(
    archive: Annotated[Path, typer.Argument(help="What `backup` made.")],
    folder: Annotated[Path, typer.Option("--dir", help="The folder to make.")] = Path("fedwon-server"),
) -> None:
    """Make a server's folder of a backup; the server that was backed up must not run any more."""
    rounds = make_folder(archive, folder)
    typer.echo(f"made {folder} with {rounds} committed rounds; join tokens that were open are void. Next:")
    typer.echo(f"  fedwon-server start --dir {folder} --auto-resume")
