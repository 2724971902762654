"""Images dealt out to sites, as a folder of domains that is made once and kept.

What the cache holds is a folder of domains like any other, so that a site of a benchmark reads its images as any other
site does, and `fedwon-server simulate --data` takes the folder too: a domain of `.npz` files becomes small `.npz`
files, one of image files folders of symbolic links. The folder's name ends in a digest of what was dealt out, so that
another set of the same name (a download in place of a sample) is dealt out anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwon.client.config import DataConfig
from fedwon.client.images.domains import discover
from fedwon.client.images.listing import FolderSource, Listing, list_site
from fedwon.server.engines.dealing import SEPARATOR, Rows, writer_of

Deal = Callable[[NDArray[Any]], list[Rows]]
"""Takes the class names of a part's images, shape (N,), and says which rows each site gets."""


def kept_sites(
    cache: Path, title: str, domains: Mapping[str, DataConfig], train: Deal, held_out: Deal
) -> dict[str, DataConfig]:
    """The sites of a partition, from the cache; dealt out first if they are not there.

    Args:
        cache: folder of all partitions.
        title: of the partition: what was drawn, and the seed.
        domains: the set; each with test images of its own, so that none of them is ever trained on.
        train: deals out the training images of a domain.
        held_out: deals out its validation and test images.

    Raises:
        ValueError: a domain has no test images, or fewer images than sites.
        DataError: a domain cannot be read.
    """
    listings = {domain: list_site(data, Path.cwd()) for domain, data in domains.items()}
    folder = cache / f"{title}-{_digest(listings)}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
            unfinished = Path(scratch) / folder.name
            unfinished.mkdir()
            for domain, listing in listings.items():
                _deal_out(unfinished, domain, listing, train, held_out)
            with suppress(OSError):  # another process was faster, with the same draws
                unfinished.rename(folder)
    return discover(folder)


def _deal_out(folder: Path, domain: str, listing: Listing, train: Deal, held_out: Deal) -> None:
    if "test" not in listing:
        raise ValueError(f"{domain} has no test images of its own; `sets.with_test_part` sets some aside")
    for part, listed in listing.items():
        classes = np.array(listed.classes)
        dealt = (train if part == "train" else held_out)(classes)
        if not all(len(rows) for rows in dealt):
            raise ValueError(f"{domain} has too few {part} images ({len(classes)}) for {len(dealt)} sites")
        write = writer_of(listed, part)
        for number, rows in enumerate(dealt):
            write(folder / f"{domain}{SEPARATOR}{number:02d}", rows)


def _digest(listings: Mapping[str, Listing]) -> str:
    """Tell what is dealt out from all else: by the files' names, sizes and times, as their content takes too long."""
    digest = hashlib.sha256()
    for domain, listing in listings.items():
        for part, listed in listing.items():
            source = listed.source
            files = source.paths if isinstance(source, FolderSource) else [getattr(source, "path", Path())]
            for file in files:
                found = file.stat()
                digest.update(f"{domain}/{part}/{file}/{found.st_size}/{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:8]
