"""What is to be known about a site's images before they are trained on: each is decoded once, none is changed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from fedwon.client.images.decoding import Unreadable
from fedwon.client.images.listing import Listing
from fedwon.common.surveys import Part

MOST = 2000
"""Images of a part that are looked at, spread evenly over it."""
ODD_SIDES = 4.0
"""A side is odd that is so many times longer or shorter than the usual one."""


@dataclass
class Quality:
    """What was found.

    Attributes:
        looked: images that were looked at, and `total` those there are.
        unreadable: their names, with the reason.
        unread_classes: classes to train on without one readable image.
        again: names of images that are the same, pixel by pixel, as another of the same class and part.
        leaked: names of images in `validation` or `test` that are in `train` as well.
        contradictory: names of images that are in another class as well.
        odd: names of images with sides far from the usual ones.
        usual: the usual width and height in pixels.
    """

    looked: int = 0
    total: int = 0
    unreadable: list[str] = field(default_factory=list)
    unread_classes: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    contradictory: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    usual: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Seen:
    part: Part
    label: str
    name: str
    size: tuple[int, int]  # width, height
    digest: bytes


def look_over(listing: Listing, most: int = MOST) -> Quality:
    """Decode a site's images and compare them.

    Args:
        listing: the images by part.
        most: how many of each part are looked at.
    """
    found = Quality(total=sum(len(listed.classes) for listed in listing.values()))
    seen = list(_decoded(listing, most, found))
    readable = {image.label for image in seen if image.part == "train"}
    trained = listing.get("train")
    found.unread_classes = sorted(set(trained.classes if trained else ()) - readable) if found.unreadable else []
    _compare(seen, found)
    _measure(seen, found)
    return found


def _decoded(listing: Listing, most: int, found: Quality) -> Iterator[_Seen]:
    for part, listed in listing.items():
        total = len(listed.classes)
        count = min(total, most)
        for row in (number * total // count for number in range(count)):
            found.looked += 1
            try:
                image = listed.source.read(row)
            except Unreadable as error:
                found.unreadable.append(f"{listed.source.name(row)} ({error})")
                continue
            height, width = image.shape[1:]
            content = image.contiguous().numpy()
            digest = blake2b(repr(content.shape).encode() + content.tobytes(), digest_size=16).digest()
            yield _Seen(part, listed.classes[row], listed.source.name(row), (width, height), digest)


def _compare(seen: Sequence[_Seen], found: Quality) -> None:
    same: defaultdict[bytes, list[_Seen]] = defaultdict(list)
    for image in seen:
        same[image.digest].append(image)
    for images in same.values():
        first = images[0]
        for image in images[1:]:
            if image.label != first.label:
                found.contradictory.append(f"{image.name} = {first.name}")
            elif image.part != first.part:
                found.leaked.append(f"{image.name} = {first.name}")
            else:
                found.again.append(f"{image.name} = {first.name}")


def _measure(seen: Sequence[_Seen], found: Quality) -> None:
    if not seen:
        return
    found.usual = Counter(image.size for image in seen).most_common(1)[0][0]
    found.odd = [f"{image.name} ({image.size[0]} x {image.size[1]})" for image in seen if _odd(image.size, found.usual)]


def _odd(size: tuple[int, int], usual: tuple[int, int]) -> bool:
    ratios = [side / common for side, common in zip(size, usual, strict=True)]
    stretched = max(ratios) / min(ratios)
    return max(*ratios, stretched) > ODD_SIDES or min(ratios) < 1 / ODD_SIDES


def some(names: Sequence[str], most: int = 3) -> str:
    """Name the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
