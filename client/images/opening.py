"""A site's images opened for a task: agreed on, split, decoded.

Everything random follows from the run's seed and from the images' own names, so it is the same whatever order the
files are listed in, and adding a file moves few others.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedwon.client.config import DataConfig
from fedwon.client.images.agreement import Agreement, agree
from fedwon.client.images.decoding import Preparation
from fedwon.client.images.image_set import Corrupt, ImageSet, Room, load_images
from fedwon.client.images.listing import Listed, Listing, Wanted, list_site
from fedwon.common.errors import DataError, EmptyClass
from fedwon.common.surveys import PARTS, Part
from fedwon.common.task_config import TaskConfig

log = logging.getLogger(__name__)

_MEGABYTE = 2**20


@dataclass(frozen=True)
class Notes:
    """What the site's people and the operator should know about the data.

    Attributes:
        corrupt: images left out because they cannot be read: paths below the data folder, and why.
        skipped: images left out, by class name that the federation does not know.
        missing: classes of the federation that this site has no image of to train on.
    """

    corrupt: tuple[Corrupt, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class SiteData:
    """A site's images, ready for training; labels are positions in the task's `classes`.

    Attributes:
        train: what is trained on.
        validation: kept from training; may be empty if no class has two images.
        test: never trained on; None if the site has no such images.
        notes: what was left out.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet | None
    notes: Notes

    @property
    def nbytes(self) -> int:
        """Memory that the decoded images of all parts take."""
        return sum(images.nbytes for images in (self.train, self.validation, self.test) if images is not None)


def open_site(data: DataConfig, task: TaskConfig, base: Path) -> SiteData:
    """List, agree on classes, split and decode a site's images.

    Args:
        data: where they are and how much memory they may take.
        task: classes, image preparation, seed.
        base: the folder that relative paths start at.

    Raises:
        ClassMismatch: classes differ from the federation's in a way that the task refuses.
        EmptyClass: a class has a folder but no readable image.
        DataError: nothing is left to train on, or what `fedwon.client.images.listing.list_site` says.
    """
    listing, rows, agreement = parted(data, task, base)
    rows["train"] = draw(rows["train"], listing["train"], task.images.max_train, task.seed)
    sets, corrupt = _load(data, task, listing, rows)
    _check(sets["train"], rows["train"], corrupt)
    notes = Notes(tuple(corrupt), agreement.skipped, agreement.missing)
    return SiteData(sets["train"], sets["validation"], sets.get("test"), notes)


def parted(data: DataConfig, task: TaskConfig, base: Path) -> tuple[Listing, dict[Part, list[Wanted]], Agreement]:
    """List a site's images, agree on classes, and part off validation images where the site names none; decode none.

    Args:
        data: where they are.
        task: classes, seed and share of the validation images.
        base: the folder that relative paths start at.

    Returns:
        Where the images of each part come from, which of them belong to it, and how the classes relate.

    Raises:
        ClassMismatch, EmptyClass, DataError: see `open_site`.
    """
    listing = list_site(data, base)
    agreement = agree(listing, task)
    rows: dict[Part, list[Wanted]] = {part: agreement.wanted(listed) for part, listed in listing.items()}
    if "validation" not in listing:
        listing["validation"] = listing["train"]
        rows["train"], rows["validation"] = split(
            rows["train"], listing["train"], task.images.validation_fraction, task.seed
        )
    return listing, rows, agreement


def split(wanted: Sequence[Wanted], listed: Listed, fraction: float, seed: int) -> tuple[list[Wanted], list[Wanted]]:
    """Part images into training and validation, class by class.

    Args:
        wanted: what to part.
        listed: where the images' names stand.
        fraction: share of each class for validation, rounded, but at least one image and at most all but one; the
            only image of a class is trained on.
        seed: the run's.

    Returns:
        Training and validation images, each in the order of `wanted`.
    """
    validation: set[Wanted] = set()
    for images in _by_class(wanted, listed, f"split/{seed}"):
        share = min(max(round(fraction * len(images)), 1), len(images) - 1)
        validation.update(images[:share])
    return [image for image in wanted if image not in validation], [image for image in wanted if image in validation]


def draw(wanted: Sequence[Wanted], listed: Listed, most: int | None, seed: int) -> list[Wanted]:
    """Choose at most so many images, in proportion to the classes; the first ones chosen are one of each class.

    Args:
        wanted: what to choose from.
        listed: where the images' names stand.
        most: number of images; None for all.
        seed: the run's.

    Returns:
        The chosen images in the order of `wanted`.
    """
    if most is None or most >= len(wanted):
        return list(wanted)
    ranked = [
        (rank / len(images), rank, number, image)
        for number, images in enumerate(_by_class(wanted, listed, f"draw/{seed}"))
        for rank, image in enumerate(images)
    ]
    chosen = {image for *_, image in sorted(ranked)[:most]}
    return [image for image in wanted if image in chosen]


def _by_class(wanted: Sequence[Wanted], listed: Listed, purpose: str) -> list[list[Wanted]]:
    """The images of each class, in an order that follows from their names, the seed and nothing else."""
    classes: defaultdict[str, list[tuple[str, Wanted]]] = defaultdict(list)
    for image in wanted:
        name = listed.classes[image.row]
        digest = hashlib.sha256(f"{purpose}/{name}/{listed.keys[image.row]}".encode()).hexdigest()
        classes[name].append((digest, image))
    return [[image for _, image in sorted(classes[name])] for name in sorted(classes)]


def _load(
    data: DataConfig, task: TaskConfig, listing: Listing, rows: Mapping[Part, Sequence[Wanted]]
) -> tuple[dict[Part, ImageSet], list[Corrupt]]:
    """Decode all parts; the training images come first where the memory does not take all."""
    room = Room(data.cache_mb * _MEGABYTE)
    preparation = Preparation(task.images)
    sets: dict[Part, ImageSet] = {}
    corrupt: list[Corrupt] = []
    for part in PARTS:
        if part in rows:
            sets[part], bad = load_images(listing[part].source, rows[part], task.classes, preparation, room)
            corrupt += bad
    again = sum(not images.in_memory for images in sets.values())
    if again:
        log.info(
            "%d of %d parts of the images are beyond `data.cache_mb` (%d) and are decoded again whenever they are "
            "needed",
            again,
            len(sets),
            data.cache_mb,
        )
    return sets, corrupt


def _check(train: ImageSet, wanted: Sequence[Wanted], corrupt: Sequence[Corrupt]) -> None:
    if not wanted:
        raise DataError(
            "This site has no image to train on.",
            hint="Do its class folders have the names that the federation uses? `fedwon-client check` shows them.",
        )
    unread = {image.label for image in wanted} - set(train.labels.tolist())
    if unread:
        name = train.classes[min(unread)]
        raise EmptyClass(
            f"No image of class `{name}` to train on can be read (the first of {len(corrupt)} unreadable: "
            f"{corrupt[0].path}, {corrupt[0].reason})."
        )
