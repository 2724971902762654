"""The releases at a site: the one that its line uses, and the one before, ready to go back to.

`<site>/releases/<name>/` holds a release, `<site>/releases/in-use.json` says which is used. That file is replaced
whole, so a power cut leaves the one or the other; whoever predicts reads it and nothing else.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from fedwon.common.config import Settings, parse
from fedwon.common.errors import BrokenFile, ReleaseMissing
from fedwon.common.files import read_bytes, write_atomic
from fedwon.common.release import NAME

STATE = "in-use.json"
_HINT = "Ask the operator: `fedwon-server promote RELEASE --site SITE`."


class Standing(Settings):
    """What a site uses, and the last order that it carried out."""

    in_use: str | None = Field(default=None, pattern=NAME)
    """The release that the line uses."""
    before: str | None = Field(default=None, pattern=NAME)
    """The one that it used before; still here."""
    order: str = ""
    """The server's last order that was carried out or refused."""
    answer: dict[str, Any] = Field(default_factory=dict)
    """What was said to it, to be said again where the answer was lost."""


class Shelf:
    """A site's releases.

    Args:
        folder: the site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "releases"

    @property
    def standing(self) -> Standing:
        """What is in use.

        Raises:
            BrokenFile: the file that says so is damaged.
        """
        path = self.folder / STATE
        if not path.exists():
            return Standing()
        try:
            return parse(Standing, json.loads(read_bytes(path)), str(path))
        except (ValueError, TypeError, RecursionError, AttributeError):
            raise BrokenFile(f"{path} is damaged.", hint=f"Delete it. {_HINT}") from None

    def place(self, name: str) -> Path:
        """Return where a release lies, or will."""
        return self.folder / name

    def in_use_folder(self) -> Path:
        """Return the folder of the release that the line uses.

        Raises:
            ReleaseMissing: there is none.
        """
        name = self.standing.in_use
        if name is None:
            raise ReleaseMissing(f"No release is in use at this site ({self.folder}).")
        return self.place(name)

    def note(self, order: str, answer: dict[str, Any]) -> None:
        """Remember an answer to an order that changed nothing.

        Raises:
            StorageError: it cannot be written.
        """
        self._write(self.standing.model_copy(update={"order": order, "answer": answer}))

    def switch(self, name: str, order: str, answer: dict[str, Any]) -> None:
        """Use a release from now on; the one used until now stays beside it, older ones go.

        Raises:
            StorageError: it cannot be written; the line goes on as before.
        """
        now = self.standing
        before = now.before if now.in_use == name else now.in_use
        self._write(Standing(in_use=name, before=before, order=order, answer=answer))
        self._clear()

    def go_back(self, order: str, answer: dict[str, Any]) -> str:
        """Use the release before again; returns its name.

        Raises:
            ReleaseMissing: there is none before.
            StorageError: it cannot be written; the line goes on as before.
        """
        now = self.standing
        if now.before is None or not self.place(now.before).is_dir():
            raise ReleaseMissing("There is no release before this one at the site.")
        answer = {**answer, "release": now.before}
        self._write(Standing(in_use=now.before, before=now.in_use, order=order, answer=answer))
        return now.before

    def _write(self, standing: Standing) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / STATE, standing.model_dump_json(indent=1).encode())

    def _clear(self) -> None:
        kept = {self.standing.in_use, self.standing.before}
        for place in self.folder.iterdir():
            if place.is_dir() and place.name not in kept and not place.name.startswith("."):
                shutil.rmtree(place, ignore_errors=True)
