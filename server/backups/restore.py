"""Make a server's folder of a backup that `fedwon.server.backups.backup` wrote.

Nothing of a tar file is trusted before its manifest has been compared: every file is checked by its SHA-256, only plain
files with names below the folder are taken, and the folder gets its name last. A restore that fails leaves nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import IO

from sqlalchemy import delete, func, select

from fedwon.common.errors import BrokenFile, FolderTaken
from fedwon.server.backups.backup import DATABASE, FORMAT, MANIFEST, Hashing, explained
from fedwon.server.store import RoundRow, Store, Token


def restore(archive: Path, folder: Path) -> int:
    """Make a new server's folder of a backup; join tokens that were open then are void.

    A token that was used after the backup would otherwise be good again, for whoever kept the line.

    Args:
        archive: what `back_up` wrote.
        folder: the folder to make; an empty one may be there.

    Returns:
        How many committed rounds are in it, of all runs.

    Raises:
        FolderTaken: the folder holds something.
        BrokenFile: it is no backup, is cut short, or a file in it is not the one that was backed up.
        StorageError: it cannot be read or written, or its database was made by a newer version.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderTaken(f"{folder} is there already and is not empty.")
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.restoring")
    with explained(f"restoring {archive} to {folder}"):
        try:
            unfinished.mkdir(mode=0o700, parents=True)
            unpack(archive, unfinished)
            rounds = _prepare(unfinished / DATABASE, archive)
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return rounds


def _prepare(database: Path, archive: Path) -> int:
    """Bring the database to this version's schema and void what must not be good again; return the rounds in it."""
    store = Store(database)
    try:
        with store.session() as session:
            session.execute(delete(Token).where(Token.used.is_(None)))
            rounds = sum(session.scalars(select(func.max(RoundRow.number)).group_by(RoundRow.run)))
        store.audit("backup restored", archive.name)
    finally:
        store.close()
    return rounds


def unpack(archive: Path, folder: Path) -> int:
    """Write the files of a backup into an empty folder and check each; return how many there are.

    Raises:
        BrokenFile: it is no backup, is cut short, or a file in it is not what its manifest says.
        StorageError: it cannot be read, or a file cannot be written; DiskFull where that is the reason.
    """
    found: dict[str, str] = {}
    manifest = b""
    with explained(f"unpacking {archive}"):
        try:
            with tarfile.open(archive, "r:") as opened:
                for entry in opened:
                    content = opened.extractfile(entry) if entry.isreg() else None
                    if content is None:
                        raise BrokenFile(f"{archive} is no backup of ours: {entry.name[:80]!r} in it is no plain file.")
                    if entry.name == MANIFEST:
                        manifest = content.read()
                    else:
                        found[entry.name] = _extract(content, _inside(folder, entry.name, archive), entry.mode)
        except (tarfile.TarError, EOFError) as error:
            raise BrokenFile(f"{archive} is no backup, or is cut short: {error}.") from None
    _compare(archive, manifest, found)
    return len(found)


def _inside(folder: Path, name: str, archive: Path) -> Path:
    """Return where a file of a backup belongs, and refuse a name that leads out of the folder."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or any(part in {"", ".", ".."} for part in parts):
        raise BrokenFile(f"{archive} is no backup of ours: the name {name[:80]!r} in it leads out of the folder.")
    return folder.joinpath(*parts)


def _extract(content: IO[bytes], path: Path, mode: int) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    reader = Hashing(content)
    # O_EXCL: a name that comes twice is no backup of ours
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode & 0o755)
    with os.fdopen(descriptor, "wb") as file:
        while piece := reader.read(2**20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return reader.state.hexdigest()


def _compare(archive: Path, manifest: bytes, found: dict[str, str]) -> None:
    try:
        listed = json.loads(manifest)
        made_by, files = listed["version"], listed["files"]
        known = listed["format"] == FORMAT and isinstance(files, dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BrokenFile(f"{archive} is no backup, or is cut short: it has no readable {MANIFEST}.") from None
    if not known:
        raise BrokenFile(f"{archive} was made by fedwon {made_by}, in a form that this version does not know.")
    differing = sorted(name for name in {*files, *found} if files.get(name) != found.get(name))
    if differing:
        raise BrokenFile(f"{archive} is damaged: {differing[0]} is not the file that was backed up.")
