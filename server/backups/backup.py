"""Back a server's folder up while it runs; `fedwon.server.backups.restore` makes a folder of it again.

A backup is one tar file: a snapshot of the database, then server.yaml, `pki/` and `runs/`, then a manifest with the
SHA-256 of each. The order is the point. A round's model stands on the disk before its row is committed, and a committed
round's file never changes, so every round that the snapshot knows finds its file afterwards, whatever the server does
meanwhile. Updates of the round in hand are left out: sites hold theirs until the round is committed.

The file holds the federation's private keys. It is made with mode 0600.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedwon.common.errors import ConfigMissing, FolderTaken, StorageError
from fedwon.common.files import move
from fedwon.common.system_errors import storage_error
from fedwon.common.version import VERSION
from fedwon.server.runs.checkpoints import velocity_of
from fedwon.server.serving import CONFIG_NAME

DATABASE, MANIFEST = "fedwon.db", "backup.json"
FORMAT = 1
_LEFT_OUT = frozenset({"spool", f"{DATABASE}-wal", f"{DATABASE}-shm", DATABASE})
_UNFINISHED = (".tmp", ".part")
"""Endings of files that somebody is writing just now."""


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Attributes:
        path: the tar file.
        files: its files.
        size: bytes of it.
        damaged: committed models, and velocities, that are missing or not what was committed, as paths in the server's
            folder; they were so before.
    """

    path: Path
    files: int
    size: int
    damaged: tuple[str, ...]


def back_up(folder: Path, out: Path) -> Backup:
    """Write a server's folder into a new tar file, also while the server runs.

    Args:
        folder: the server's folder.
        out: the file to make.

    Raises:
        ConfigMissing: it is no server's folder.
        FolderTaken: the file is there already.
        StorageError: something cannot be read or written; DiskFull where that is the reason. There is no file then.
    """
    if not (folder / CONFIG_NAME).exists():
        raise ConfigMissing(f"{folder} is no server's folder: it has no {CONFIG_NAME}.")
    if out.exists():
        raise FolderTaken(f"{out} is there already.", hint="Name another file; this one was not touched.")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    with explained(f"writing {out}"):
        try:
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=".fedwon-backup-") as scratch:
                snapshot = _snapshot(folder / DATABASE, Path(scratch) / DATABASE)
                digests = _write(temporary, folder, snapshot)
                damaged = _damaged(snapshot, digests)
            move(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    return Backup(out, len(digests), out.stat().st_size, damaged)


def _snapshot(database: Path, target: Path) -> Path:
    """Copy the database as it is at one moment, with what is still in its write-ahead log."""
    try:
        source = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        with closing(source), closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            found = copy.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        raise StorageError(f"The database {database} cannot be copied: {error}.") from None
    if found != "ok":
        raise StorageError(f"The database {database} is damaged: {found}.", hint="Put back the backup before this one.")
    return target


def _write(path: Path, folder: Path, snapshot: Path) -> dict[str, str]:
    """Write the tar file and see it on the disk; return the SHA-256 of each file in it, by its name."""
    digests: dict[str, str] = {}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, source in ((DATABASE, snapshot), *_files(folder)):
                digest = _add(archive, name, source)
                if digest is not None:
                    digests[name] = digest
            _add_bytes(archive, MANIFEST, _manifest(digests))
        file.flush()
        os.fsync(file.fileno())
    return digests


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for name in sorted(set(names) - _LEFT_OUT):
            path = Path(place) / name
            if not name.endswith(_UNFINISHED) and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _add(archive: tarfile.TarFile, name: str, path: Path) -> str | None:
    """Add a file; return its SHA-256, or None where it has gone meanwhile."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        found = os.fstat(file.fileno())
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = found.st_size, found.st_mode & 0o777, found.st_mtime
        reader = Hashing(file)
        archive.addfile(entry, reader)
    return reader.state.hexdigest()


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def _manifest(digests: dict[str, str]) -> bytes:
    return json.dumps({"format": FORMAT, "version": VERSION, "files": digests}, indent=1).encode()


class Hashing:
    """A file that is hashed as it is read.

    Args:
        file: the file.

    Attributes:
        state: of the SHA-256 so far.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.state = hashlib.sha256()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read at most so many bytes; all that is left without a number."""
        data = self._file.read(size)
        self.state.update(data)
        return data


def _damaged(snapshot: Path, digests: dict[str, str]) -> tuple[str, ...]:
    """Return the committed models that are not what was committed, and newest ones of a run that are missing.

    That older ones are missing is in order: the server keeps the newest few (`run.retention`).
    """
    with closing(sqlite3.connect(snapshot)) as connection:
        known = {column for _, column, *_ in connection.execute("PRAGMA table_info(rounds)")}
        velocity = "velocity" if "velocity" in known else "NULL"  # no server of this version has opened it yet
        query = f"SELECT run, path, digest, {velocity} FROM rounds ORDER BY run, number"  # noqa: S608
        rows = connection.execute(query).fetchall()
    newest = {run: path for run, path, *_ in rows}
    files = (
        (f"runs/{run}/{file}", digest, newest[run] == path)
        for run, path, model, moving in rows
        for file, digest in ((path, model), (velocity_of(Path(path)), moving))
        if digest is not None
    )
    return tuple(
        name for name, digest, last in files if (found := digests.get(name)) != digest and (found is not None or last)
    )


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an operating system's error of the block into ours, which says what was being done.

    Raises:
        StorageError: the block met one; DiskFull where that is the reason.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing) from None
