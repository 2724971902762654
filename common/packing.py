"""Files made smaller for the wire by zstd, and made whole again within bounds that the receiver sets.

What packs is Python 3.14's `compression.zstd`, or its backport. The bytes that come out are those of the library's
version: two that differ may pack alike arrays into other files, and either unpacks both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from fedwon.common.errors import BrokenFile
from fedwon.common.files import write_atomic
from fedwon.common.system_errors import storage_error

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD: Final = "zstd"
"""The name under which a packed file is announced."""
LEVEL = 1
"""Of numbers there is nothing to find for a higher one: they are coded by how often each byte comes."""
WINDOW_LOG = 23
"""A file may ask for so much of the receiver's memory, 8 MiB, and for no more."""
_PIECE = 2**18


def packed(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Pack bytes as they come, as one frame with a checksum."""
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.compression_level: LEVEL, parameter.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=options)
    for chunk in chunks:
        if data := compressor.compress(chunk):
            yield data
    yield compressor.flush()


def unpack(source: Path, target: Path, limit: int) -> Path:
    """Unpack a file into another, by atomic rename; memory does not grow with its size.

    Args:
        source: one zstd frame.
        target: the file to make or replace.
        limit: bytes that may come out at most.

    Returns:
        The target.

    Raises:
        BrokenFile: it is no whole frame, asks for too much memory, or more than `limit` bytes would come out.
        DiskFull: no space left.
        StorageError: a file cannot be read or written.
    """
    try:
        write_atomic(target, _unpacked(source, limit))
    except zstd.ZstdError as error:
        raise BrokenFile(f"{source} is damaged: it cannot be unpacked ({error}).") from None
    return target


def _unpacked(source: Path, limit: int) -> Iterator[bytes]:
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
    left = limit
    try:
        with source.open("rb") as file:
            while not decompressor.eof:
                fed = file.read(_PIECE) if decompressor.needs_input else b""
                if decompressor.needs_input and not fed:
                    raise BrokenFile(f"{source} is cut short.")
                data = decompressor.decompress(fed, _PIECE)
                left -= len(data)
                if left < 0:
                    raise BrokenFile(f"{source} unpacks to more than the {limit} bytes that can be meant.")
                yield data
            if decompressor.unused_data or file.read(1):
                raise BrokenFile(f"{source} is longer than what it holds.")
    except OSError as error:
        raise storage_error(error, f"reading {source}") from None
