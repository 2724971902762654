"""What is left to do of the newest run, and the command that goes on with it."""

from __future__ import annotations

import typer

from fedwon.common.run_config import RunConfig
from fedwon.server import report
from fedwon.server.serving import Home


def unfinished(home: Home) -> str | None:
    """Say how far the newest run has come; None if it has finished or there is none."""
    newest = next(iter(report.runs(home.store)), None)
    if newest is None or newest["state"] == "finished":
        return None
    return f"run {newest['run']} has {newest['committed'] or 0} of {newest['rounds']} rounds"


def finished(home: Home, config: RunConfig) -> str | None:
    """Name the newest run if it was of this configuration, however its models travelled, and has finished."""
    from fedwon.server.runs.run import Run  # loads torch, which a command that only looks has no use for

    newest = next(iter(report.runs(home.store)), None)
    if newest is None or newest["state"] != "finished":
        return None
    done = Run.open(home.store, home.folder).config
    if done.model_copy(update={"traffic": config.traffic}) != config:
        return None
    return f"run {newest['run']}"


def announce(home: Home, auto_resume: bool) -> bool:
    """Say what becomes of a run that has not finished, if there is one; return whether it goes on."""
    left = unfinished(home)
    if left and auto_resume:
        typer.echo(f"going on: {left}", err=True)
    elif left:
        typer.echo(f"a new run begins; {left} and would go on with\n  {resuming(home)}", err=True)
    return bool(left and auto_resume)


def where_stopped(home: Home) -> str:
    """Say how far a server that is told to stop has come."""
    left = unfinished(home)
    return f"stopped: {left}; go on with\n  {resuming(home)}" if left else "stopped before a run began"


def resuming(home: Home) -> str:
    """Return the command that goes on."""
    return f"fedwon-server start --dir {home.folder} --resume"
