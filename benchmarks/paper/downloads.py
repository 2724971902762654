"""The paper's image sets, fetched on request into the layout that fedwon reads: `python -m benchmarks.paper fetch`.

Nothing is downloaded unless a set is named. What torchvision can download is downloaded by it; the other sets
are downloaded by a person, who has read their licence, with the instructions that are printed. Either way the files are
checked against the digests that are known, unpacked beside their destination and moved there when all of it is done.
docs/data-sets.md says what could be tried and what not.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from urllib.error import URLError

import numpy as np

from benchmarks.paper import array_layouts, folder_layouts
from benchmarks.paper.sets import CACHE
from benchmarks.paper.sources import SOURCES, Remote, Source
from fedwon.common.errors import BrokenFile, DataError, DataMissing, FedwonError
from fedwon.common.system_errors import storage_error

COMMAND = "python -m benchmarks.paper fetch"

HOME, DOWNLOADS = CACHE / "data", CACHE / "downloads"
"""Where sets and the files as downloaded go unless told otherwise: not to `FEDWON_DATA`, which somebody may share."""

LayOut = Callable[[Path, Path], None]
"""Takes the folder of the downloads and the folder to write to."""

LAYOUTS: Mapping[str, LayOut] = MappingProxyType(
    {
        "mnist": array_layouts.mnist,
        "usps": array_layouts.usps,
        "svhn": array_layouts.svhn,
        "cifar10": array_layouts.cifar10,
        "mnist_m": array_layouts.mnist_m,
        "synth_digits": array_layouts.synth_digits,
        "office_caltech_10": folder_layouts.office_caltech_10,
        "domainnet": folder_layouts.domainnet,
        "fed_isic2019": folder_layouts.fed_isic2019,
    }
)
"""What makes fedwon's layout of each set's files, by name."""


def fetch(name: str, home: Path, downloads: Path) -> str:
    """Bring a set into the folder of all sets, unless it is there.

    Args:
        name: of the set, a key of `SOURCES`.
        home: the folder of all sets.
        downloads: where downloaded files are kept or looked for, in a folder of the set's name.

    Returns:
        What was done, in a line.

    Raises:
        DataMissing: files must be downloaded by hand, or could not be downloaded; the hint says how and to where.
        DataError: a part of the set is there, from somewhere else.
        BrokenFile: a file is not what its digest says, or cannot be unpacked.
        StorageError: the folder cannot be written to.
    """
    source, folder = SOURCES[name], downloads / name
    there = [made for made in source.makes if (home / made).exists()]
    if len(there) == len(source.makes):
        return f"{name}: already in {home}"
    if there:
        raise DataError(
            f"{home} has {there[0]} but not all of {', '.join(source.makes)}.",
            hint="Delete it, or name another folder with --to: two sources' parts may share images.",
        )
    _check_downloads(source, folder)
    with _clear_errors(source, folder, home), TemporaryDirectory(dir=home, prefix=".fetch-") as stage:
        LAYOUTS[name](folder, Path(stage))
        found = _check_result(name, source, Path(stage))
        for made in source.makes:
            (home / made).parent.mkdir(parents=True, exist_ok=True)
            (Path(stage) / made).rename(home / made)
    return f"{name}: {found} in {home}"


def _check_downloads(source: Source, folder: Path) -> None:
    """Check the files that are there, and that all are if nobody else downloads them."""
    missing = [file for file in source.files if not (folder / file.name).is_file()]
    if missing and not source.automatic:
        raise DataMissing(
            f"{source.title}: to be downloaded by hand. Its licence: {source.licence}.",
            hint="\n".join([*(_instruction(file, folder) for file in missing), "Then give the same command again."]),
        )
    for file in source.files:
        if file not in missing:
            check_digest(folder / file.name, file.digest)


def _instruction(file: Remote, folder: Path) -> str:
    path = folder / file.name
    digest = file.digest or "checksum not known to us"
    if file.direct:
        return f"curl -L --create-dirs -o {shlex.quote(str(path))} {file.url}   # {digest}"
    return f"open {file.url} and save the file as {path}   # {digest}"


def check_digest(path: Path, digest: str) -> None:
    """Compare a file with its digest, `md5:...` or `sha256:...`; "" is not known, and passes.

    Raises:
        BrokenFile: they differ.
    """
    if not digest:
        return
    algorithm, _, expected = digest.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found != expected:
        raise BrokenFile(
            f"{path} has {algorithm} {found}, not {expected} as published.",
            hint="It may be cut short, or be a page that asks something: delete it and download it again.",
        )


@contextmanager
def _clear_errors(source: Source, folder: Path, home: Path) -> Iterator[None]:
    """Say of what goes wrong what, where and what next."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError) as error:
        lines = [_instruction(file, folder) for file in source.files]
        raise DataMissing(
            f"{source.title}: the download failed. {str(error).strip()}",
            hint="\n".join(["Is the internet within reach? The files may be brought by other means as well:", *lines]),
        ) from error
    except (OSError, EOFError, ValueError, KeyError, IndexError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise storage_error(error, f"writing to {home}") from error
        raise BrokenFile(
            f"The files of {source.title} in {folder} are not as published: {error!r}.",
            hint="Delete them and download them again.",
        ) from error


def _check_result(name: str, source: Source, stage: Path) -> str:
    """Count the images, and compare a folder with its digest where that is known."""
    paths = [path for made in source.makes for path in files_of(stage / made)]
    if source.listing and listing_digest(stage / name) != source.listing:
        raise BrokenFile(
            f"The files of {source.title} are not the published ones.", hint="Download it again from its source."
        )
    count = sum(_images(path) for path in paths)
    differs = count != source.images and source.images
    return f"{count} images" + (f" (published: {source.images}; check what was downloaded)" if differs else "")


def _images(path: Path) -> int:
    if path.suffix != ".npz":
        return 1
    with np.load(path, allow_pickle=False) as arrays:
        return len(arrays["labels"])


def files_of(place: Path) -> list[Path]:
    """All files of a folder, sorted by their path as text; a file is itself."""
    return sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]


def listing_digest(folder: Path) -> str:
    """SHA-256 of the lines `<sha256>  <domain>/<class>/<file>` of all files, sorted by path."""
    digest = hashlib.sha256()
    for relative in sorted(path.relative_to(folder).as_posix() for path in files_of(folder)):
        content = hashlib.sha256((folder / relative).read_bytes()).hexdigest()
        digest.update(f"{content}  {relative}\n".encode())
    return digest.hexdigest()


def listing(home: Path) -> str:
    """The sets, whether they are there, and how they are to be had: a few lines each."""
    lines = []
    for name, source in SOURCES.items():
        there = all((home / made).exists() for made in source.makes)
        size = f", {source.megabytes:,} MB to download" if source.megabytes else ""
        unknown = [file.name for file in source.files if not file.digest and not source.listing]
        lines += [
            f"{name}: {source.title}" + (" (there)" if there else ""),
            f"    {source.images:,} images{size}, {'downloaded by this command' if source.automatic else 'by hand'}",
            f"    licence: {source.licence}",
            *([f"    checksum not known to us: {', '.join(unknown)}"] if unknown else []),
        ]
    return "\n".join([*lines, f"\n{COMMAND} --set NAME brings one into {home}."])


def fetch_sets(names: Iterable[str], home: Path, downloads: Path) -> int:
    """Fetch some sets one after the other, and say of each what came of it.

    Returns:
        The exit code: 0, or that of the last error.
    """
    code = 0
    for name in names:
        try:
            print(fetch(name, home, downloads), flush=True)
        except FedwonError as error:
            code = error.code
            print(f"{name}: {error.message}\n{error.hint}", file=sys.stderr, flush=True)
    if not code:
        print(f"To read them: export FEDWON_DATA={shlex.quote(str(home.resolve()))}")
    return code
