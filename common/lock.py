"""One process a folder: a second client would take the journal apart that the first one writes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fedwon.common.errors import FedwonError
from fedwon.common.system_errors import storage_error

RETRY_SECONDS = 0.2


@asynccontextmanager
async def locked(path: Path, patience: float, taken: FedwonError) -> AsyncIterator[None]:
    """Hold a lock file while the block runs; the system lets go of it when the process ends, however it ends.

    Args:
        path: the file; it is made if it is not there, and stays.
        patience: seconds to wait for another process to let go.
        taken: what to raise when another process holds it for longer than that.

    Raises:
        FedwonError: `taken`.
        StorageError: the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_error(error, f"making {path}") from None
    try:
        await _wait(descriptor, patience, taken)
        yield
    finally:
        os.close(descriptor)


async def _wait(descriptor: int, patience: float, taken: FedwonError) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise taken from None
            await asyncio.sleep(RETRY_SECONDS)
        except OSError:  # a file system without locks: better no guard than no service
            return
        else:
            return


def held(path: Path) -> bool:
    """Tell whether a process holds a lock file; True where that cannot be known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
