"""Where a run's outcome goes besides the server's own folder: a place that others may read."""

from __future__ import annotations

import json
from pathlib import Path

from fedwon.common.errors import StorageError
from fedwon.common.files import write_atomic
from fedwon.common.system_errors import storage_error
from fedwon.common.version import VERSION
from fedwon.server.runs.federating import Outcome

MODEL, SCORES = "model.safetensors", "scores.json"
PIECE = 2**20


def check_folder(folder: Path | None) -> None:
    """Make the folder, if one is named, and see that a file can be written there: before a run of hours, not after it.

    Raises:
        StorageError: it cannot.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ".writable", b"")
        (folder / ".writable").unlink()
    except OSError as error:
        raise storage_error(error, f"making {folder}") from None
    except StorageError as error:
        raise StorageError(f"The outcome cannot be put into {folder}: {error.message}") from None


def hand_out(outcome: Outcome, folder: Path) -> Path:
    """Copy the global model, and how it does at each site, to a folder; what an earlier run left is replaced.

    Returns:
        The folder.

    Raises:
        StorageError: a file cannot be written.
    """
    with outcome.model.open("rb") as source:
        write_atomic(folder / MODEL, iter(lambda: source.read(PIECE), b""))
    content = {"version": VERSION, "run": outcome.run, "model": MODEL, **outcome.evaluation.as_dict()}
    write_atomic(folder / SCORES, json.dumps(content, indent=2).encode() + b"\n")
    return folder
