"""One client a folder: a second one would take the journal apart that the first one writes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fedwon.common.errors import DuplicateSite, storage_error

NAME = "client.lock"
RETRY_SECONDS = 0.2


@asynccontextmanager
async def locked(folder: Path, patience: float) -> AsyncIterator[None]:
    """Hold a site's folder while the block runs; the system lets go of it when the process ends, however it ends.

    Args:
        folder: the site's folder.
        patience: seconds to wait for another process to let go.

    Raises:
        DuplicateSite: another process holds it for longer than that.
        StorageError: the lock file cannot be made.
    """
    try:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_error(error, f"making {folder / NAME}") from None
    try:
        await _wait(descriptor, folder, patience)
        yield
    finally:
        os.close(descriptor)


async def _wait(descriptor: int, folder: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise DuplicateSite(
                    f"Another fedwon-client runs with the folder {folder}.",
                    hint="Stop the other client: `systemctl status fedwon-client`, `pgrep -af fedwon-client`.",
                ) from None
            await asyncio.sleep(RETRY_SECONDS)
        except OSError:  # a file system without locks: better no guard than no client
            return
        else:
            return
