"""The images of the lines, read one by one: what is there, what cannot be read, how large and how bright it is.

Each image is decoded once. What is kept of it is a digest of its pixels, its size, and the image as the networks will
see it, so that nothing has to be decoded again for the training runs.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedwon.client.config import DataConfig
from fedwon.client.images.decoding import Preparation, Unreadable
from fedwon.client.images.listing import FolderSource, Listed, Listing, list_site
from fedwon.common.task_settings import ImageConfig

Pool = Literal["train", "test"]
MOST: Mapping[Pool, int] = {"train": 1200, "test": 600}
"""Images of a line that are looked at, at most; beyond that a draw in proportion to the classes."""
LEAST = 100
"""Images of a line that are looked at in any case: fewer could not be told from too few."""
NAMED = 10
"""Unreadable images that are named, at most."""
_PEEK = 8
_SMALLEST, _LARGEST, _STEP = 16, 48, 4


@dataclass
class LineImages:
    """What was read of one line.

    Attributes:
        name: of the line.
        listed: files or rows that are there, by class.
        classes: class of each image that was read.
        pools: "test" where the line brought it as a test image, else "train".
        digests: SHA-256 of size and decoded pixels.
        sizes: width and height as it lies on the disk.
        grey: whether it has one channel.
        pixels: uint8, (channels, size, size), as the networks see it.
        unreadable: paths and reasons.
    """

    name: str
    listed: Counter[str] = field(default_factory=Counter)
    classes: list[str] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    grey: list[bool] = field(default_factory=list)
    pixels: list[NDArray[np.uint8]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.classes)

    def add(self, image: Tensor, name: str, pool: Pool, preparation: Preparation) -> None:
        """Take in one decoded image: uint8, (1 or 3, H, W)."""
        raw = image.numpy()
        self.classes.append(name)
        self.pools.append(pool)
        self.digests.append(hashlib.sha256(str(raw.shape).encode() + raw.tobytes()).hexdigest())
        self.sizes.append((raw.shape[2], raw.shape[1]))
        self.grey.append(raw.shape[0] == 1)
        self.pixels.append(np.ascontiguousarray(preparation.fit(image).numpy()))


@dataclass(frozen=True)
class Looked:
    """All lines.

    Attributes:
        lines: by name.
        complete: whether all images were read, and not only a draw.
        seconds: how long it took.
    """

    lines: Mapping[str, LineImages]
    complete: bool
    seconds: float


def suggest_images(domains: Mapping[str, DataConfig], base: Path) -> ImageConfig:
    """Choose size and channels of the networks' input by a few images of each line.

    The size is the median of the shorter sides, from 16 to 48 pixels; one channel if no line has colour.

    Args:
        domains: the lines.
        base: folder that relative paths start at.

    Raises:
        DataError: a line cannot be listed.
    """
    sides: list[int] = []
    grey = True
    for data in domains.values():
        listed = list_site(data, base)["train"]
        for row in islice(_ordered(listed), _PEEK):
            try:
                image = listed.source.read(row)
            except Unreadable:
                continue
            sides.append(min(image.shape[1:]))
            grey = grey and image.shape[0] == 1
    side = int(statistics.median(sides)) if sides else _SMALLEST
    size = min(max(side // _STEP * _STEP, _SMALLEST), _LARGEST)
    return ImageConfig(size=size, channels=1 if grey else 3)


def identities(domains: Mapping[str, DataConfig], base: Path) -> dict[str, str]:
    """Tell each line's files from others by parts, classes, names and sizes, before any is read.

    Raises:
        DataError: a line cannot be listed.
    """
    return {name: _identity(list_site(data, base)) for name, data in domains.items()}


def _identity(listing: Listing) -> str:
    digest = hashlib.sha256()
    for part, listed in sorted(listing.items()):
        sizes = [path.stat().st_size for path in listed.source.paths] if isinstance(listed.source, FolderSource) else []
        digest.update(repr((part, listed.classes, listed.keys, sizes)).encode())
    return digest.hexdigest()


def look(domains: Mapping[str, DataConfig], base: Path, images: ImageConfig, *, seconds: float) -> Looked:
    """Read the images of all lines, in turns, so that all come equally far where time runs out.

    Args:
        domains: the lines.
        base: folder that relative paths start at.
        images: how they become input of the networks.
        seconds: time for it.

    Raises:
        DataError: a line cannot be listed, or a file of many images is damaged.
    """
    started = time.monotonic()
    listings = {name: list_site(data, base) for name, data in domains.items()}
    lines = {name: LineImages(name, _counts(listing)) for name, listing in listings.items()}
    turns = {name: _turns(listing) for name, listing in listings.items()}
    preparation = Preparation(images)
    late = False
    while turns and not late:
        for name in list(turns):
            step = next(turns[name], None)
            if step is None:
                del turns[name]
                continue
            _read(lines[name], *step, preparation)
        late = _turns_done(lines) >= LEAST and time.monotonic() - started > seconds
    whole = all(len(line) + len(line.unreadable) == line.listed.total() for line in lines.values())
    return Looked(lines, whole, time.monotonic() - started)


def _turns_done(lines: Mapping[str, LineImages]) -> int:
    """How far the line has come that has come farthest."""
    return max(len(line) + len(line.unreadable) for line in lines.values())


def _read(line: LineImages, listed: Listed, row: int, pool: Pool, preparation: Preparation) -> None:
    try:
        image = listed.source.read(row)
    except Unreadable as error:
        line.unreadable.append((listed.source.name(row), str(error)))
        return
    line.add(image, listed.classes[row], pool, preparation)


def _counts(listing: Listing) -> Counter[str]:
    return sum((listed.count() for listed in listing.values()), Counter[str]())


def _turns(listing: Listing) -> Iterator[tuple[Listed, int, Pool]]:
    """A line's images in the order in which they are looked at: all parts at once, each in proportion."""
    queues: list[tuple[float, int, int, Listed, Pool]] = []
    for number, (part, listed) in enumerate(listing.items()):
        pool: Pool = "test" if part == "test" else "train"
        rows = list(islice(_ordered(listed), MOST[pool]))
        queues += [((place + 0.5) / len(rows), number, row, listed, pool) for place, row in enumerate(rows)]
    for _, _, row, listed, pool in sorted(queues, key=lambda item: item[:3]):
        yield listed, row, pool


def _ordered(listed: Listed) -> Iterator[int]:
    """The rows of a part so that any first few of them have the classes in proportion; by their names' digests."""
    classes: dict[str, list[tuple[str, int]]] = {}
    for row, name in enumerate(listed.classes):
        digest = hashlib.sha256(f"look/{name}/{listed.keys[row]}".encode()).hexdigest()
        classes.setdefault(name, []).append((digest, row))
    ranked: list[tuple[float, str, int]] = []
    for name, rows in classes.items():
        ranked += [((rank + 0.5) / len(rows), name, row) for rank, (_, row) in enumerate(sorted(rows))]
    yield from (row for *_, row in sorted(ranked))


def side_range(values: Sequence[int]) -> tuple[int, int, int]:
    """Least, median and greatest."""
    return min(values), int(statistics.median(values)), max(values)
