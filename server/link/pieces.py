"""What many sites fetch at the same moment is read once: pieces of models, kept while somebody fetches.

Sites of a round ask for the same file at nearly the same pace. The first to need a piece has it read, with the ones
behind it, in a thread; the others find it here, without a step into a thread and back for each of them. With nobody
left who fetches, nothing is kept.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from typing import BinaryIO

from fedwon.common.wire.grpc_errors import PIECE

AT_ONCE = 4
"""Pieces that are read in one step (1 MiB)."""
MOST = 128
"""Pieces that are kept (32 MiB): sites that are further apart than this read for themselves."""

Key = tuple[int, int, int, int]
"""Which content: a file that was replaced is another one."""


class SharedPieces:
    """Pieces of files, by file and number."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Key, int], bytes] = OrderedDict()
        self._coming: dict[tuple[Key, int], asyncio.Task[list[bytes]]] = {}
        self._readers = 0

    def __len__(self) -> int:
        return len(self._kept)

    def enter(self) -> None:
        """Count somebody who fetches."""
        self._readers += 1

    def leave(self) -> None:
        """Count somebody out; the last one leaves nothing behind."""
        self._readers -= 1
        if not self._readers:
            self._kept.clear()

    async def get(self, file: BinaryIO, key: Key, number: int) -> bytes:
        """Return a piece; it is empty behind the end of the file.

        Args:
            file: open for reading; its position does not matter and is not changed.
            key: of the file, see `key_of`.
            number: of the piece.

        Raises:
            OSError: it cannot be read.
        """
        found = self._kept.get((key, number))
        if found is not None:
            self._kept.move_to_end((key, number))
            return found
        first = number - number % AT_ONCE
        reading = self._coming.get((key, first))
        if reading is None:
            own = os.dup(file.fileno())  # whoever asked may go away, and its number become another file's
            reading = asyncio.create_task(asyncio.to_thread(_read, own, first))
            self._coming[key, first] = reading
            reading.add_done_callback(lambda done: self._keep(key, first, done))
        return (await asyncio.shield(reading))[number - first]

    def _keep(self, key: Key, first: int, done: asyncio.Task[list[bytes]]) -> None:
        del self._coming[key, first]
        if done.cancelled() or done.exception() is not None or not self._readers:
            return
        for place, piece in enumerate(done.result()):
            self._kept[key, first + place] = piece
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)


def key_of(file: BinaryIO) -> Key:
    """Return what tells the content of an open file from that of others."""
    state = os.fstat(file.fileno())
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def _read(descriptor: int, first: int) -> list[bytes]:
    """Read pieces and close the descriptor."""
    try:
        return [os.pread(descriptor, PIECE, (first + place) * PIECE) for place in range(AT_ONCE)]
    finally:
        os.close(descriptor)
