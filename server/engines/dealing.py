"""A folder of domains dealt out to many sites, as a folder of domains again.

Virtual sites read their images as any other site does: a domain of `.npz` files or a built-in line becomes small `.npz`
files, one of image files folders of symbolic links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwon.client.config import DataConfig
from fedwon.client.images.digits import load_line
from fedwon.client.images.domains import discover
from fedwon.client.images.listing import FolderSource, LineSource, Listed, list_site
from fedwon.client.images.npz import NpzSource
from fedwon.common.errors import ConfigError
from fedwon.common.surveys import Part
from fedwon.common.system_errors import storage_error

SEPARATOR = "--"
"""Between a domain and the number of one of its sites, in the site's name."""

LEAST: Mapping[Part, int] = {"train": 8, "validation": 2, "test": 2}
"""Images that a virtual site has at least of a part; where there are too few for that, sites share images."""

FOLDERS: Mapping[Part, str] = {"train": "train", "validation": "val", "test": "test"}

Rows = NDArray[np.int64]
Writer = Callable[[Path, Rows], None]
"""Writes some rows of a part for a site, whose name the path ends in."""


def domain_of(site: str) -> str:
    """The domain that a site's images come from; the site itself where nothing was dealt out."""
    return site.split(SEPARATOR, maxsplit=1)[0]


def virtual_sites(domains: Mapping[str, DataConfig], count: int, seed: int, folder: Path) -> dict[str, DataConfig]:
    """Deal the images of domains out to so many sites in all, as many from each domain as from any other.

    Args:
        domains: the set.
        count: number of sites; those of a domain are called `<domain>--0000` and so on.
        seed: the run's.
        folder: made if it is missing; what is in it must be of the same call.

    Returns:
        A site's data by its name, sorted by name.

    Raises:
        ConfigError: there are fewer sites than domains.
        DataError: a domain cannot be read.
        StorageError: the folder cannot be written.
    """
    if count < len(domains):
        raise ConfigError(f"There are {len(domains)} domains, and only {count} sites to deal them out to.")
    base, more = divmod(count, len(domains))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (domain, data) in enumerate(sorted(domains.items())):
            names = [f"{domain}{SEPARATOR}{site:04d}" for site in range(base + (number < more))]
            _deal_out(data, [folder / name for name in names], np.random.default_rng([seed, number]))
    except OSError as error:
        raise storage_error(error, f"dealing images out in {folder}") from None
    return discover(folder)


def portions(count: int, parts: int, least: int, rng: np.random.Generator) -> list[Rows]:
    """Deal rows out at random: evenly, or where there are too few, `least` to each in turn, over and over.

    Args:
        count: number of rows.
        parts: how many portions.
        least: rows that each gets at least, if there are as many.
        rng: of the draw.
    """
    drawn = rng.permutation(count)
    if count >= parts * least:
        return [np.sort(part) for part in np.array_split(drawn, parts)]
    size = min(least, count)
    return [np.sort(drawn[(part * size + np.arange(size)) % count]) for part in range(parts)]


def _deal_out(data: DataConfig, sites: Sequence[Path], rng: np.random.Generator) -> None:
    listing = list_site(data, Path.cwd())
    if isinstance(listing["train"].source, LineSource):
        del listing["validation"]  # a site of .npz files keeps validation images of its own back
    for part, listed in sorted(listing.items()):
        write = writer_of(listed, part)
        for site, rows in zip(sites, portions(len(listed.classes), len(sites), LEAST[part], rng), strict=True):
            write(site, rows)


def writer_of(listed: Listed, part: Part) -> Writer:
    """Return what writes some of the images of a part for a site.

    Raises:
        ConfigError: images of this form cannot be dealt out.
    """
    source = listed.source
    if isinstance(source, FolderSource):
        return lambda site, rows: _link_files(site / FOLDERS[part], source.paths, listed.classes, rows)
    if isinstance(source, NpzSource):
        with np.load(source.path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    elif isinstance(source, LineSource):
        arrays = dict(load_line(source.line)[source.part]._asdict())
    else:
        raise ConfigError("Only .npz files, image files and the built-in lines can be dealt out.")
    return lambda site, rows: _write_arrays(site.with_name(f"{site.name}_{part}.npz"), arrays, rows)


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], rows: Rows) -> None:
    """Write some rows; `classes`, the names of the labels, is written whole."""
    chosen = {name: array if name == "classes" else array[rows] for name, array in arrays.items()}
    np.savez(path, allow_pickle=False, **chosen)


def _link_files(folder: Path, paths: Sequence[Path], classes: Sequence[str], rows: Rows) -> None:
    for row in rows:
        link = folder / classes[row] / paths[row].name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(paths[row].resolve())
