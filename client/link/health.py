"""Is a site's client well? Its event loop answers on a Unix socket in the site's folder.

A question and an answer, and not a file that is touched every few seconds: nothing is written to a memory card, a clock
that jumps changes nothing, and a loop that hangs does not answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedwon.common.errors import ConfigMissing, Unhealthy
from fedwon.common.system_errors import storage_error

logger = logging.getLogger(__name__)

NAME = "client.sock"
LONGEST = 65536
"""Bytes of an answer, at most."""


@asynccontextmanager
async def answering(folder: Path, state: Callable[[], Mapping[str, object]]) -> AsyncIterator[None]:
    """Answer health checks while the block runs; the folder's lock must be held.

    A folder in which no socket can be made (some network drives) does not keep a site from its work.

    Args:
        folder: the site's folder.
        state: what to answer.
    """

    async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        with suppress(OSError):
            writer.write(json.dumps(dict(state())).encode())
            await writer.drain()
        writer.close()

    with _short(folder) as path:  # for as long: newer Pythons look there again at the end
        try:
            server = await asyncio.start_unix_server(_answer, sock=_listening(path))
        except OSError as error:
            logger.warning("`fedwon-client health` will not find this client: %s: %s", folder / NAME, error.strerror)
            yield
            return
        try:
            yield
        finally:
            server.close()
            with suppress(OSError):
                (folder / NAME).unlink()


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        Path(path).unlink(missing_ok=True)  # of a process that was killed
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Name the socket in less than the 108 bytes that Unix allows, however long the folder's path is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


def check_health(folder: Path, timeout: float) -> dict[str, Any]:
    """Ask the client that runs with a folder.

    Args:
        folder: the site's folder.
        timeout: seconds to wait for the answer.

    Returns:
        `site`, `server`, `connected`, `version` and `pid`. A site without connection is well: it tries again by
        itself, and to start it anew would not help.

    Raises:
        ConfigMissing: it is no site's folder.
        StorageError: this user may not ask.
        Unhealthy: no client runs with the folder, or its event loop hangs.
    """
    if not (folder / "client.yaml").exists():
        raise ConfigMissing(f"{folder} is no site's folder: it has no client.yaml.")
    try:
        answer = json.loads(_asked(folder, timeout))
    except (FileNotFoundError, ConnectionRefusedError):
        raise Unhealthy(f"No fedwon-client runs with the folder {folder}.") from None
    except (TimeoutError, BlockingIOError):  # the latter: as many have asked in vain as can wait
        raise Unhealthy(f"The fedwon-client of {folder} did not answer within {timeout:g} s: it hangs.") from None
    except OSError as error:
        raise storage_error(error, f"asking the client of {folder}") from None
    except ValueError:
        raise Unhealthy(f"The fedwon-client of {folder} ended while it answered.") from None
    return dict(answer)


def _asked(folder: Path, timeout: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as asking, _short(folder) as path:
        asking.settimeout(timeout)
        asking.connect(path)
        with asking.makefile("rb") as stream:
            return stream.read(LONGEST)
