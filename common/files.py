"""Files that survive a power cut, and files that only their owner reads.

A file written here is either the old one or the whole new one, whatever happens in between (`kill -9`, a full disk,
the plug). The order is the usual one: write a temporary in the same folder, fsync it, rename it over the target,
fsync the folder, because a rename that only the page cache knows is lost with the power.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from fedwon.common.errors import KeyExposed
from fedwon.common.system_errors import storage_error

_TEMPORARY = ".fedwon-{}.tmp"
# Some network file systems cannot fsync a folder; the rename itself has been done by then.
_NO_FOLDER_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


def write_atomic(
    path: Path, data: bytes | Iterable[bytes | memoryview], *, mode: int = 0o644, sync_folder: bool = True
) -> None:
    """Write a file so that nobody ever sees half of it.

    Args:
        path: the file; its folder must exist. What it held before is replaced.
        data: the content, whole or in pieces, so that a model need not be in memory twice.
        mode: permission bits of the file, further narrowed by the process's umask.
        sync_folder: make sure that the disk knows the new name. False only where another file is written into the same
            folder next, and nothing relies on either before.

    Raises:
        DiskFull: there is no space left; the old file is untouched and the temporary is gone.
        StorageError: the file cannot be written for another reason; likewise.
    """
    temporary = path.parent / _TEMPORARY.format(secrets.token_hex(8))
    try:
        try:
            _write_synced(temporary, data, mode)
            os.replace(temporary, path)  # noqa: PTH105  # the call whose atomicity POSIX promises
        except BaseException:  # also for an iterable that raises and for Ctrl-C
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if sync_folder:
            _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, f"writing {path}") from error


def move(path: Path, target: Path) -> Path:
    """Rename a file that is written whole; when this returns the disk knows the new name.

    Args:
        path: the file.
        target: its new place on the same disk; what was there is replaced.

    Raises:
        StorageError: it cannot be renamed; it is where it was.
    """
    try:
        path.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise storage_error(error, f"moving {path} to {target}") from error
    return target


def write_private(path: Path, data: bytes) -> None:
    """Write a secret, such as a private key, with mode 0600 from its first byte, as atomically as `write_atomic`.

    Args:
        path: the file. A folder that is missing is made with mode 0700; one that exists keeps its mode.
        data: the secret.

    Raises:
        DiskFull: there is no space left.
        StorageError: the file or folder cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making the folder {path.parent}") from error
    write_atomic(path, data, mode=0o600)


def read_private(path: Path) -> bytes:
    """Read a secret, and refuse one that others than its owner can open.

    Raises:
        KeyExposed: group or others have any right on the file.
        StorageError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            # The open file is asked, not the name: the name may point elsewhere a moment later.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyExposed(f"{path} can be opened by others than its owner (mode {mode:04o}).")
            return file.read()
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        StorageError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hex, read in pieces: memory does not grow with its size.

    Raises:
        StorageError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error


def remove_leftovers(folder: Path) -> int:
    """Remove temporaries that a `kill -9` in the middle of `write_atomic` left in a folder (not below it).

    To be called at start, while no other process writes there.

    Returns:
        How many were removed; a folder that is not there has none.

    Raises:
        StorageError: one cannot be removed.
    """
    removed = 0
    try:
        for leftover in folder.glob(_TEMPORARY.format("*")):
            leftover.unlink(missing_ok=True)
            removed += 1
    except OSError as error:
        raise storage_error(error, f"removing temporary files from {folder}") from error
    return removed


def make_folder(folder: Path) -> None:
    """Make a folder that only this process writes to, and remove what a `kill -9` left half-written in it.

    Raises:
        StorageError: it cannot be made or cleared.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {folder}") from None
    remove_leftovers(folder)


def _write_synced(path: Path, data: bytes | Iterable[bytes | memoryview], mode: int) -> None:
    # O_EXCL: the name is random, so a file that is there already is somebody's trap.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        for piece in (data,) if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(descriptor)
