"""An `.npz` file of images: two arrays, no pickle.

`images`: uint8, N x H x W x C with C of 1 or 3, or N x H x W for grey. `labels`: N integers, or N class names as
strings. Optional `classes`: the names of the integers 0, 1, ...; without it the name of class 3 is "3".

What the file says about its arrays is checked before any pixel is read, so a survey of a large file is quick.
"""

from __future__ import annotations

import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedwon.common.errors import DataError, DataMissing

if TYPE_CHECKING:
    from torch import Tensor

HINT = "np.savez(path, images=..., labels=...): images uint8 N x H x W x C (or N x H x W), labels N integers or names."
_GREY_DIMS, _COLOUR_DIMS = 3, 4
_CHANNELS = (1, 3)


class ArrayInfo(NamedTuple):
    """What a file says about one of its arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class ArraySource:
    """Images in an array: a `fedwon.client.images.listing.Source`.

    Attributes:
        title: file name, for messages.
        images: uint8, (N, H, W, C) or (N, H, W).
    """

    title: str
    images: NDArray[np.uint8]

    def name(self, index: int) -> str:
        """The file and the row."""
        return f"{self.title}[{index}]"

    def read(self, index: int) -> Tensor:
        """One image: uint8, (C, H, W)."""
        import torch  # a site counts its images before torch is loaded

        # a copy: the array may be read-only, which torch warns about
        pixels = torch.from_numpy(self.images[index].copy())
        return pixels[None] if pixels.ndim == _GREY_DIMS - 1 else pixels.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class NpzSource:
    """Images in a file that is read when the first of them is needed, and forgotten with this object.

    Attributes:
        path: the file, whose arrays `read_labels` found in order.
    """

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _loaded: list[ArraySource] = field(default_factory=list, repr=False)

    def name(self, index: int) -> str:
        """The file and the row."""
        return f"{self.path.name}[{index}]"

    def read(self, index: int) -> Tensor:
        """One image: uint8, (C, H, W).

        Raises:
            DataError: the file is damaged.
        """
        with self._lock:
            if not self._loaded:
                self._loaded.append(ArraySource(self.path.name, read_array(self.path, "images")))
        return self._loaded[0].read(index)


def read_labels(path: Path) -> list[str]:
    """Check a file and read the class name of each of its images, but not the images.

    Raises:
        DataMissing: there is no such file.
        DataError: it is not such a file; the message says what was expected.
    """
    infos = _describe(path)
    for name in ("images", "labels"):
        if name not in infos:
            raise DataError(f"{path} has no array `{name}` (it has: {', '.join(infos) or 'none'}).", hint=HINT)
    _check_images(path, infos["images"])
    labels = _check_labels(path, read_array(path, "labels"), infos["images"].shape[0])
    if labels.dtype.kind == "U":
        return [str(label) for label in labels]
    if "classes" not in infos:
        return [str(label) for label in labels.tolist()]
    names = read_array(path, "classes")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(f"{path}: `classes` must be a list of names, found {_text(names)}.", hint=HINT)
    if len(labels) and int(labels.max()) >= len(names):
        raise DataError(f"{path}: label {int(labels.max())} has no name, `classes` names {len(names)}.", hint=HINT)
    return [str(names[label]) for label in labels]


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Read one array of a file; pickled objects are refused.

    Raises:
        DataError: the file is damaged or the array holds objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[name])
    except Exception as error:  # zip files and headers break with every kind of exception there is
        raise DataError(f"{path}: `{name}` cannot be read: {error or type(error).__name__}.", hint=HINT) from error


def _describe(path: Path) -> dict[str, ArrayInfo]:
    """Read the headers of all arrays."""
    if not path.is_file():
        raise DataMissing(f"There is no file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _header(archive, name) for name in members}
    except Exception as error:  # encrypted, patched, of a compression that there is not, ...
        raise DataError(f"{path} cannot be read as .npz: {error or type(error).__name__}.", hint=HINT) from error


def _header(archive: zipfile.ZipFile, name: str) -> ArrayInfo:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return ArrayInfo(shape, dtype)


def _check_images(path: Path, info: ArrayInfo) -> None:
    found = f"{info.dtype} {' x '.join(map(str, info.shape))}"
    if info.dtype != np.uint8:
        raise DataError(f"{path}: `images` must be uint8 (0 to 255), found {found}.", hint=HINT)
    grey, colour = len(info.shape) == _GREY_DIMS, len(info.shape) == _COLOUR_DIMS
    if not grey and not (colour and info.shape[3] in _CHANNELS):
        swapped = colour and info.shape[1] in _CHANNELS
        hint = "The channels stand second; use images.transpose(0, 2, 3, 1)." if swapped else HINT
        raise DataError(f"{path}: `images` must be N x H x W x C with C of 1 or 3, found {found}.", hint=hint)
    if 0 in info.shape:
        raise DataError(f"{path}: `images` is empty ({found}).", hint=HINT)


def _check_labels(path: Path, labels: NDArray[Any], images: int) -> NDArray[Any]:
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise DataError(f"{path}: `labels` must be N integers or names, found {_text(labels)}.", hint=HINT)
    if len(labels) != images:
        raise DataError(f"{path} has {images} images and {len(labels)} labels.", hint=HINT)
    if labels.dtype.kind in "iu" and int(labels.min()) < 0:
        raise DataError(f"{path}: `labels` must not be negative, found {int(labels.min())}.", hint=HINT)
    return labels


def _text(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"
