"""A set of labelled images, decoded once and ready to be trained on.

Images are decoded, resized and kept as bytes in memory as far as the site's cache allows; those beyond it are decoded
again each time they are needed, ahead of the training thread (see `prefetch`).
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fedwon.client.images.decoding import Preparation, Unreadable
from fedwon.client.images.listing import Source, Wanted
from fedwon.client.images.prefetch import prefetch
from fedwon.client.training.progress import raise_if_cancelled
from fedwon.common.errors import DataError

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """`inputs` float32 (B, C, H, W) and `labels` int64 (B)."""

    inputs: Tensor
    labels: Tensor


class Corrupt(NamedTuple):
    """An image that cannot be used: its path and why."""

    path: str
    reason: str


@dataclass
class Room:
    """Memory that is left for decoded images; the parts of a site draw on it one after the other."""

    left: int
    """Bytes."""

    def take(self, images: int, bytes_per_image: int) -> int:
        """Reserve memory for as many of `images` as fit; returns how many."""
        fitting = min(images, self.left // bytes_per_image)
        self.left -= fitting * bytes_per_image
        return fitting


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes:
        classes: class names in the order of the network's outputs.
        labels: int64, (N); indices into `classes`.
    """

    classes: tuple[str, ...]
    labels: Tensor
    _preparation: Preparation = field(repr=False)
    _cached: Tensor = field(repr=False)  # uint8 (K, C, S, S): the first K images
    _source: Source | None = field(repr=False)  # the others; None if all are cached, so the originals can go
    _rows: tuple[int, ...] = field(repr=False)  # of all images, in the source

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether no image needs to be decoded again."""
        return self._source is None

    @property
    def nbytes(self) -> int:
        """Memory that the decoded images take."""
        return self._cached.nbytes

    def batches(self, rows: Iterable[Sequence[int]]) -> Generator[Batch, None, None]:
        """Make network inputs of the images of these rows, batch by batch.

        What must be decoded is decoded in background threads, a few batches ahead; close the iterator to end them.
        Batches from memory are made on the spot, which takes less than handing them over would.

        Args:
            rows: positions in this set, for each batch.

        Raises:
            DataError: an image that could be read when the set was opened cannot be read any more.
        """
        yield from map(self._batch, rows) if self.in_memory else prefetch(self._batch, rows, ahead=4)

    def _batch(self, rows: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(rows, dtype=torch.int64)
        source = self._source
        pixels = self._cached[chosen] if source is None else torch.stack([self._fitted(source, row) for row in rows])
        return Batch(self._preparation.normalize(pixels), self.labels[chosen])

    def _fitted(self, source: Source, row: int) -> Tensor:
        if row < len(self._cached):
            return self._cached[row]
        place = self._rows[row]
        try:
            return self._preparation.fit(source.read(place))
        except Unreadable as error:
            raise DataError(
                f"{source.name(place)} could be read before and cannot be read any more: {error}.",
                hint="Is the disk or network share still there? Images should not change while a run is on.",
            ) from error


def load_images(
    source: Source, wanted: Sequence[Wanted], classes: tuple[str, ...], preparation: Preparation, room: Room
) -> tuple[ImageSet, list[Corrupt]]:
    """Decode every wanted image once, keep what fits into memory, leave out what cannot be read.

    Images beyond the memory are decoded as well: what counts as an example is known from the first round on.

    Args:
        source: where the images come from.
        wanted: which, and their labels.
        classes: class names in the order of the network's outputs.
        preparation: size, channels and normalization.
        room: memory left; what is used is taken from it.

    Returns:
        The set, in the order of `wanted`, and the images left out.

    Raises:
        Cancelled: the task was given up meanwhile.
    """
    size, channels = preparation.config.size, preparation.config.channels
    cached = torch.empty((room.take(len(wanted), preparation.bytes_per_image), channels, size, size), dtype=torch.uint8)
    kept: list[Wanted] = []
    corrupt: list[Corrupt] = []

    def fitted(item: Wanted) -> Tensor | Corrupt:
        """Decode in a background thread; what cannot be read is a result like any other."""
        try:
            return preparation.fit(source.read(item.row))
        except Unreadable as error:
            return Corrupt(source.name(item.row), str(error))

    with closing(prefetch(fitted, wanted)) as images:
        for item, image in zip(wanted, images, strict=True):
            raise_if_cancelled()
            if isinstance(image, Corrupt):
                log.warning("%s is left out, it cannot be read: %s", image.path, image.reason)
                corrupt.append(image)
                continue
            if len(kept) < len(cached):
                cached[len(kept)] = image
            kept.append(item)
    return (
        ImageSet(
            classes=classes,
            labels=torch.tensor([item.label for item in kept], dtype=torch.int64),
            _preparation=preparation,
            _cached=cached[: len(kept)],
            _source=source if len(kept) > len(cached) else None,
            _rows=tuple(item.row for item in kept),
        ),
        corrupt,
    )
