"""What a comparison remembers, so that a second call goes on: one SQLite file, in which Optuna keeps its trials too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, MetaData, String, Table, create_engine, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from fedwon.common.errors import FolderTaken, StorageError
from fedwon.common.system_errors import storage_error

FILE = "comparison.db"
_SUBJECT = "subject"
_METADATA = MetaData()
_ENTRIES = Table(
    "comparison_entries", _METADATA, Column("key", String, primary_key=True), Column("value", JSON, nullable=False)
)


class Ledger:
    """Values by name.

    Args:
        folder: the comparison's; made if it is missing.

    Raises:
        StorageError: the folder or the file cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"making {folder}") from None
        self._engine: Engine = create_engine(self.url, connect_args={"timeout": 30})
        try:
            _METADATA.create_all(self._engine)
        except SQLAlchemyError as error:
            raise StorageError(f"{self.path} cannot be used: {getattr(error, 'orig', None) or error}.") from error

    @property
    def url(self) -> str:
        """The file as SQLAlchemy and Optuna name it."""
        return f"sqlite:///{self.path}"

    def get(self, key: str) -> Any:
        """Return what was kept under a name, or None."""
        with self._engine.connect() as connection:
            return connection.execute(select(_ENTRIES.c.value).where(_ENTRIES.c.key == key)).scalar_one_or_none()

    def put(self, key: str, value: Any) -> None:
        """Keep a value that JSON can hold, in place of what was there."""
        with self._engine.begin() as connection:
            changed = connection.execute(update(_ENTRIES).where(_ENTRIES.c.key == key).values(value=value))
            if not changed.rowcount:
                connection.execute(insert(_ENTRIES).values(key=key, value=value))

    def claim(self, subject: str) -> bool:
        """Make the file that of one comparison.

        Args:
            subject: what is compared, from `subject_of`.

        Returns:
            Whether it was that comparison's before.

        Raises:
            FolderTaken: it is another comparison's.
        """
        known = self.get(_SUBJECT)
        if known is None:
            self.put(_SUBJECT, subject)
            return False
        if known != subject:
            raise FolderTaken(
                f"{self.path.parent} holds a comparison of other images or settings.",
                hint="Name another folder with `--out`, or delete this one; nothing in it was touched.",
            )
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()


def subject_of(settings: Mapping[str, Any], lines: Mapping[str, str]) -> str:
    """Tell one comparison from another.

    Args:
        settings: what was asked for.
        lines: what tells each line's files from others.
    """
    text = json.dumps([settings, dict(lines)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
