"""What is left to do of the newest run, and the command that goes on with it."""

from __future__ import annotations

from fedwon.server import report
from fedwon.server.serving import Home


def unfinished(home: Home) -> str | None:
    """Say how far the newest run has come; None if it has finished or there is none."""
    newest = next(iter(report.runs(home.store)), None)
    if newest is None or newest["state"] == "finished":
        return None
    return f"run {newest['run']} has {newest['committed'] or 0} of {newest['rounds']} rounds"


def where_stopped(home: Home) -> str:
    """Say how far a server that is told to stop has come."""
    left = unfinished(home)
    return f"stopped: {left}; go on with\n  {resuming(home)}" if left else "stopped before a run began"


def resuming(home: Home) -> str:
    """Return the command that goes on."""
    return f"fedwon-server start --dir {home.folder} --resume"
