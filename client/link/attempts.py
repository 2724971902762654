"""Tasks that were in hand when this process died: a mark on the disk while it works on one.

The kernel's OOM killer leaves no error that could be told. A service manager starts the client again, the server offers
the same task again, and without a mark the two would go on like that for ever.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fedwon.common.files import write_atomic
from fedwon.common.system_errors import storage_error

MOST_DEATHS = 2
"""A task in which the process has died so often is given back with a reason."""


class Attempts:
    """Marks `TASK.attempt`, each with the number of times that its task was begun and not ended.

    Args:
        folder: the journal's; no other process may write there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def deaths(self, task_id: str) -> int:
        """Return how often the process died in the middle of a task; a mark that cannot be read counts as one."""
        path = self._path(task_id)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise storage_error(error, f"reading {path}") from None
        return int(text) if text.isdigit() else 1

    def begin(self, task_id: str) -> None:
        """Mark a task as in hand; marks of others go, for there is only one at a time.

        Raises:
            StorageError: the mark cannot be written.
        """
        begun = self.deaths(task_id) + 1
        for path in self._folder.glob("*.attempt"):
            if path != self._path(task_id):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        write_atomic(self._path(task_id), str(begun).encode())

    def end(self, task_id: str) -> None:
        """Take the mark away: the task has ended, well or not, or is given back."""
        with suppress(OSError):
            self._path(task_id).unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{task_id}.attempt"
