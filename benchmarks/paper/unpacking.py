"""Archives that somebody else made, read without trusting a word in them.

Nothing is ever extracted by an archive's own account: its files are handed out one by one, and whoever asked decides
where they go. An archive with a path that leads out of its folder, a link or a device is refused: before the first of
its files is handed out where the format has a table of contents (.zip), else when it is met (.tar).
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fedwon.common.errors import BrokenFile

LARGEST = 4 * 2**30
"""Bytes that one file of an archive may have when unpacked; SynthDigits holds 1.5e9 bytes of pixels in its largest."""


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        path: its path, relative and without `..`.
        read: gives its content; only until the next member is asked for.
    """

    path: PurePosixPath
    read: Callable[[], bytes]


def members(archive: Path, *, largest: int = LARGEST) -> Iterator[Member]:
    """The files of a .zip or .tar (.gz, .bz2, .xz) in the archive's order; hidden ones (`.DS_Store`) are left out.

    Args:
        archive: the file.
        largest: bytes that a member may have.

    Raises:
        BrokenFile: it is no such archive, is cut short, or holds a member that no image set has.
    """
    with _named_errors(archive):
        found = _zip_members(archive, largest) if zipfile.is_zipfile(archive) else _tar_members(archive, largest)
        for member in found:
            if not any(part.startswith(".") for part in member.path.parts):
                yield member


def _zip_members(archive: Path, largest: int) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        infos = [info for info in file.infolist() if not info.is_dir()]
        paths = [_checked(archive, info.filename, info.file_size, largest) for info in infos]
        links = [info.filename for info in infos if stat.S_ISLNK(info.external_attr >> 16)]
        if links:
            raise _refused(archive, f"a link, {links[0]!r}")
        for path, info in zip(paths, infos, strict=True):
            yield Member(path, partial(file.read, info))


def _tar_members(archive: Path, largest: int) -> Iterator[Member]:
    with tarfile.open(archive, "r:*") as file:
        for info in file:
            path = _checked(archive, info.name, info.size, largest)
            if info.isdir():
                continue
            if not info.isreg():
                raise _refused(archive, f"a link or device, {info.name!r}")
            yield Member(path, partial(_content, file, info))


def _content(file: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = file.extractfile(info)
    return stream.read() if stream else b""


def _checked(archive: Path, name: str, size: int, largest: int) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise _refused(archive, f"a path that may lead out of its folder, {name!r}")
    if size > largest:
        raise _refused(archive, f"a file of {size} bytes, {name!r}")
    return path


def _refused(archive: Path, what: str) -> BrokenFile:
    return BrokenFile(
        f"{archive} holds {what}, and was not unpacked.", hint="No published set does; get it from its source."
    )


@contextmanager
def _named_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BrokenFile(f"{archive} cannot be unpacked: {error}.", hint="Delete it and download it again.") from error
