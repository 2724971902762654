"""What images a site has, by part and class name, before any of them is decoded.

The forms: a folder `<class>/*`; a folder with `train/<class>/*` and perhaps `val/` and `test/`; an `.npz` file (see
`npz`); `digits:NAME`, a line of the built-in set (see `digits`).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fedwon.client.config import DataConfig
from fedwon.client.images.digits import line_labels, load_line
from fedwon.client.images.npz import ArraySource, NpzSource, read_labels
from fedwon.common.errors import DataError, DataMissing, EmptyClass
from fedwon.common.surveys import PARTS, Part

if TYPE_CHECKING:
    from torch import Tensor

FOLDERS: Mapping[str, Part] = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
"""What the folders above the classes may be called."""

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"})
"""Endings, in lower case, of files that count as images."""

DIGITS = "digits:"
"""Begins the path of a line of the built-in set."""


class Source(Protocol):
    """Where images come from: files or an array."""

    def name(self, index: int) -> str:
        """What to call image `index` in a message: its path below the data folder, or file and row."""

    def read(self, index: int) -> Tensor:
        """Decode image `index`: uint8, (1 or 3, H, W).

        Raises:
            Unreadable: the content is no image.
        """


class Wanted(NamedTuple):
    """An image to load: its number in the source and its label, the index of its class."""

    row: int
    label: int


@dataclass(frozen=True)
class Listed:
    """The images of one part.

    Attributes:
        classes: class name of each image.
        keys: what tells each image from the others of its class and stays the same wherever the data lies: its file
            name or row. Seeded splits go by it.
        source: where they are decoded from, in the same order.
    """

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    source: Source

    def count(self) -> Counter[str]:
        """Number of images of each class."""
        return Counter(self.classes)


Listing = dict[Part, Listed]


@dataclass(frozen=True)
class FolderSource:
    """Images in files: a `Source`.

    Attributes:
        root: the site's data folder.
        paths: the files.
    """

    root: Path
    paths: tuple[Path, ...]

    def name(self, index: int) -> str:
        """The path below the data folder: the server need not know where a site keeps its files."""
        return self.paths[index].relative_to(self.root).as_posix()

    def read(self, index: int) -> Tensor:
        """Decode one file: uint8, (1 or 3, H, W).

        Raises:
            Unreadable: the content is no image.
        """
        from fedwon.client.images.decoding import read_image  # a site counts its images before torch is loaded

        return read_image(self.paths[index])


@dataclass(frozen=True)
class LineSource:
    """Images of a part of a built-in line, rendered when the first is needed: a `Source`."""

    line: str
    part: Part

    def name(self, index: int) -> str:
        """The line, the part and the row."""
        return f"{DIGITS}{self.line}/{self.part}[{index}]"

    def read(self, index: int) -> Tensor:
        """One image: uint8, (3, 28, 28)."""
        return ArraySource(self.line, load_line(self.line)[self.part].images).read(index)


def list_site(data: DataConfig, base: Path) -> Listing:
    """List all that a site has.

    Args:
        data: where its images are.
        base: the folder that relative paths start at.

    Returns:
        `train`, and `validation` and `test` where the site has them.

    Raises:
        DataMissing: nothing is there.
        EmptyClass: a class folder holds no image.
        DataError: what is there has none of the forms, or the test images are the training images.
    """
    parts = _list(data.path, base)
    if data.test is None:
        return parts
    test = _list(data.test, base)
    if "test" not in test and _place(data.test, base) == _place(data.path, base):
        raise DataError(
            f"`data.test` is `data.path` itself ({data.test}), so the site would be tested on what it was trained on.",
            hint="Give the test images a folder or file of their own.",
        )
    return {**parts, "test": test.get("test", test["train"])}


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image; hidden files (`._x.jpg` of macOS) are none."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def class_folders(folder: Path) -> list[Path]:
    """The sub-folders of a folder that are not hidden, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """The images that lie directly in a folder, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if is_image(entry) and entry.is_file())


def has_parts(folder: Path) -> bool:
    """Whether a folder is divided: `train/` with classes below it. A class may well be called `train`."""
    train = folder / "train"
    return train.is_dir() and bool(class_folders(train))


def same_name(name: str) -> str:
    """Write a class name the same way whatever system it was typed on (macOS takes an `ü` apart)."""
    return unicodedata.normalize("NFC", name).strip()


def _place(path: str, base: Path) -> str:
    return path if path.startswith(DIGITS) else str((base / path).resolve())


def _list(path: str, base: Path) -> Listing:
    if path.startswith(DIGITS):
        return _list_line(path.removeprefix(DIGITS))
    place = (base / path).resolve()
    if not place.exists():
        raise DataMissing(f"There is no {place}.")
    if place.is_dir():
        return _list_folder(place)
    if place.suffix.lower() == ".npz":
        names = [same_name(name) for name in read_labels(place)]
        return {"train": Listed(tuple(names), tuple(map(str, range(len(names)))), NpzSource(place))}
    raise DataError(f"{place} is neither a folder nor an .npz file.")


def _list_line(name: str) -> Listing:
    labels = line_labels(name)
    return {
        part: Listed(
            classes=tuple(str(label) for label in labels[part]),
            keys=tuple(map(str, range(len(labels[part])))),
            source=LineSource(name, part),
        )
        for part in PARTS
    }


def _list_folder(root: Path) -> Listing:
    if not has_parts(root):
        return {"train": _list_classes(root, root)}
    # an empty class folder is an error where it is trained on; `val` and `test` may lack classes
    present = {part: root / folder for folder, part in FOLDERS.items() if (root / folder).is_dir()}
    return {part: _list_classes(root, folder, allow_empty=part != "train") for part, folder in present.items()}


def _list_classes(root: Path, folder: Path, *, allow_empty: bool = False) -> Listed:
    classes: list[str] = []
    paths: list[Path] = []
    for class_folder in class_folders(folder):
        files = image_files(class_folder)
        if not files and not allow_empty:
            raise _empty(class_folder)
        classes += [same_name(class_folder.name)] * len(files)
        paths += files
    if not paths:
        raise DataError(f"{folder} holds no class folder with images.{_loose(folder)}")
    return Listed(tuple(classes), tuple(same_name(path.name) for path in paths), FolderSource(root, tuple(paths)))


def _loose(folder: Path) -> str:
    files = image_files(folder)
    return f" Its images ({len(files)}) must lie in sub-folders named after their classes." if files else ""


def _empty(folder: Path) -> EmptyClass:
    others: Sequence[Path] = class_folders(folder)
    if others:
        return EmptyClass(
            f"The class folder {folder} holds no image, only folders such as `{others[0].name}`.",
            hint="Name one of its sub-folders as `data.path` if this is a folder of several sites' data.",
        )
    return EmptyClass(f"The class folder {folder} holds no image.")
