"""Which images are trained on and which test the result: a copy is never on both sides.

Images with the same decoded pixels are one image, whatever their files are called. Within a line it is used once;
where several lines have it, it is on the same side in all of them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from fedwon.client.config import DataConfig
from fedwon.common.system_errors import storage_error
from fedwon.server.comparison.looking import LineImages, Pool

TEST_SHARE = 1 / 3
"""Of each class of a line that brings no test images of its own."""


@dataclass(frozen=True)
class Dealt:
    """The images of one line, by what they are for: positions in its `LineImages`.

    Attributes:
        train: trained on; a run keeps some of them back for validation.
        test: never trained on, by any line.
        copies: images left out because the line has them already.
        contradictions: of these, those that the line files under another class.
        leaked: training images left out because they test a line.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    copies: int = 0
    contradictions: int = 0
    leaked: int = 0


def deal_out(lines: Mapping[str, LineImages]) -> dict[str, Dealt]:
    """Part the images of all lines into training and test."""
    unique = {name: _unique(line) for name, line in lines.items()}
    tested: set[str] = set()
    for name, line in lines.items():
        brought = [index for index in unique[name].kept if line.pools[index] == "test"]
        tested.update(line.digests[index] for index in brought)
    for name, line in lines.items():
        if not any(line.pools[index] == "test" for index in unique[name].kept):
            tested |= _drawn(line, unique[name].kept, tested)
    return {name: _parted(line, unique[name], tested) for name, line in lines.items()}


@dataclass(frozen=True)
class _Unique:
    kept: tuple[int, ...]
    copies: int
    contradictions: int


def _unique(line: LineImages) -> _Unique:
    """The first of each content; test images first, for a test that a line brings is not cut short."""
    order = sorted(range(len(line)), key=lambda index: line.pools[index] != "test")
    first: dict[str, int] = {}
    contradictions = 0
    for index in order:
        known = first.setdefault(line.digests[index], index)
        contradictions += line.classes[known] != line.classes[index]
    return _Unique(tuple(sorted(first.values())), len(line) - len(first), contradictions)


def _drawn(line: LineImages, kept: Sequence[int], tested: set[str]) -> set[str]:
    """Contents of the line that are to test: a share of each class, counting what tests another line already."""
    classes: defaultdict[str, list[str]] = defaultdict(list)
    for index in kept:
        classes[line.classes[index]].append(line.digests[index])
    found: set[str] = set()
    for digests in classes.values():
        ranked = sorted(digests, key=lambda digest: (digest not in tested, _draw(digest)))
        wanted = min(max(round(TEST_SHARE * len(ranked)), 1), len(ranked) - 1)
        found.update(ranked[:wanted])
    return found


def _draw(digest: str) -> str:
    return hashlib.sha256(f"test/{digest}".encode()).hexdigest()


def _parted(line: LineImages, unique: _Unique, tested: set[str]) -> Dealt:
    own: Pool = "test" if any(line.pools[index] == "test" for index in unique.kept) else "train"
    test = [index for index in unique.kept if line.digests[index] in tested and line.pools[index] == own]
    train = [index for index in unique.kept if line.digests[index] not in tested and line.pools[index] == "train"]
    leaked = len(unique.kept) - len(test) - len(train)
    return Dealt(tuple(train), tuple(test), unique.copies, unique.contradictions, leaked)


def shared_contents(lines: Mapping[str, LineImages]) -> list[tuple[str, str, int]]:
    """How many images two lines have in common, for the pairs that have some, most first."""
    contents = {name: set(line.digests) for name, line in lines.items()}
    found = [(a, b, len(contents[a] & contents[b])) for a, b in combinations(contents, 2)]
    return sorted((row for row in found if row[2]), key=lambda row: (-row[2], row[0], row[1]))


def write_lines(lines: Mapping[str, LineImages], dealt: Mapping[str, Dealt], folder: Path) -> dict[str, DataConfig]:
    """Write the images as the networks see them, two `.npz` files a line, which any site could read.

    Args:
        lines: what was read.
        dealt: what each image is for.
        folder: made if it is missing.

    Returns:
        Each line's data, by name.

    Raises:
        StorageError: the folder cannot be written.
    """
    found = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (name, line) in enumerate(lines.items()):
            parts = {"train": dealt[name].train, "test": dealt[name].test}
            paths = {part: folder / f"line-{number:03d}_{part}.npz" for part in parts}
            for part, rows in parts.items():
                images = np.stack([line.pixels[row] for row in rows]).transpose(0, 2, 3, 1)
                labels = np.array([line.classes[row] for row in rows])
                np.savez(paths[part], images=images, labels=labels)
            found[name] = DataConfig(path=str(paths["train"].resolve()), test=str(paths["test"].resolve()))
    except OSError as error:
        raise storage_error(error, f"keeping the images in {folder}") from None
    return found


def majority_share(line: LineImages, rows: Sequence[int]) -> float:
    """Share of the largest class among some images; NaN for none."""
    counts = Counter(line.classes[row] for row in rows)
    return max(counts.values()) / len(rows) if rows else math.nan
