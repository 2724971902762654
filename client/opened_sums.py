"""Which sums of masked updates this site has helped to open, over all runs and restarts.

Two sums that differ in one site give that site's update away, so each update is in one sum that is opened, at most.
Under fedwon's link this is a file (`opened-sums.json` beside client.yaml), written before the shares leave that open a
sum; so whatever happens after, the site knows. In a simulation, and under Flower's own SuperNode without `opened_sums`,
it is in Flower's `context.state`. It never grows beyond `KEPT_RUNS` runs and `KEPT_UPDATES` digests, the newest.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import ConfigRecord, RecordDict
from pydantic import Field, ValidationError

from fedwon.client.site import Site
from fedwon.common.config import Settings
from fedwon.common.errors import BrokenFile, UnsafeRequest
from fedwon.common.files import read_bytes, write_atomic

RECORD, TEXT = "opened-sums", "content"
"""Where it is in Flower's state."""
KEPT_RUNS = 256
KEPT_UPDATES = 1024


class Content(Settings):
    """All that is remembered."""

    rounds: dict[str, int] = Field(default={})
    """By run the last round in which this site gave shares away, the run that was opened last at the end."""
    updates: tuple[str, ...] = ()
    """SHA-256 of its updates in the sums, the newest at the end."""

    def having(self, run: str, number: int, update: str) -> Content:
        """Return what is to be remembered with one more sum."""
        rounds = {name: last for name, last in self.rounds.items() if name != run} | {run: number}
        updates = tuple(other for other in self.updates if other != update) + ((update,) if update else ())
        return Content(rounds=dict(list(rounds.items())[-KEPT_RUNS:]), updates=updates[-KEPT_UPDATES:])


class OpenedSums:
    """The sums that a site has helped to open.

    Args:
        site: whose; its `opened_sums` says where the file is.
        state: Flower's, where there is no file.
    """

    def __init__(self, site: Site, state: RecordDict) -> None:
        self._state, name = state, site.config.opened_sums
        self._path: Path | None = None if name is None else site.base / name

    def read(self) -> Content:
        """Return what is remembered.

        Raises:
            BrokenFile: the file cannot be understood; no round is taken for one that was not opened.
            StorageError: it cannot be read.
        """
        if self._path is None:
            kept = self._state.get(RECORD)
            return Content.model_validate_json(str(kept[TEXT])) if isinstance(kept, ConfigRecord) else Content()
        try:
            return Content.model_validate_json(read_bytes(self._path)) if self._path.exists() else Content()
        except ValidationError:
            raise BrokenFile(
                f"{self._path} does not say any more which sums of masked updates this site has helped to open, so it "
                "masks none.",
                hint="Put it back from a backup. Delete it only if no run of before goes on, or begins again.",
            ) from None

    def check(self, run: str, number: int, update: str = "") -> None:
        """Look whether an update may be in a sum.

        Args:
            run: the run that asks for it.
            number: the round; the rounds of a run only go forward.
            update: see `having`; empty before it is known, and for one that moves nothing.

        Raises:
            UnsafeRequest: the site has helped to open a sum that it is in, or of a later round.
            BrokenFile, StorageError: see `read`.
        """
        self._checked(run, number, update)

    def _checked(self, run: str, number: int, update: str) -> Content:
        known = self.read()
        if number <= (last := known.rounds.get(run, -1)):
            raise UnsafeRequest(
                f"This site has helped to open a sum of round {last} of run {run} before. Two sums over the same "
                f"updates could be subtracted from one another, so it masks none of round {number} any more."
            )
        if update in known.updates:
            raise UnsafeRequest(
                "This site has helped to open a sum with this very update before, in another run: the same model, "
                "settings and `seed`. Two sums over it could be subtracted from one another."
            )
        return known

    def note(self, run: str, number: int, update: str) -> None:
        """Write down that a sum is opened, before that is so.

        Raises:
            UnsafeRequest: see `check`; nothing is written down.
            BrokenFile, StorageError: see `read`; or it cannot be written.
        """
        text = self._checked(run, number, update).having(run, number, update).model_dump_json(indent=1)
        if self._path is None:
            self._state[RECORD] = ConfigRecord({TEXT: text})
        else:
            write_atomic(self._path, text.encode())
