"""What is downloaded of the sets of small images, as the `.npz` pairs that fedwon reads.

Each function takes the folder of the downloads and the folder to write to, and keeps the published parting into
training and test images. Nothing is unpickled: MNIST comes as idx files, USPS as text, SVHN and SynthDigits as MATLAB
files (scipy, numbers only), MNIST-M as png files, and CIFAR-10 in its binary version, since torchvision's is pickled.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.paper.sources import SOURCES
from benchmarks.paper.unpacking import members
from fedwon.common.errors import BrokenFile, DataError, MissingExtra

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of CIFAR-10's labels 0 to 9, as its page lists them."""

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, H, W, C) and labels (N,)."""


def mnist(downloads: Path, target: Path) -> None:
    """MNIST by torchvision, which downloads what is missing.

    Raises:
        DataError: the folder holds files of an old torchvision, which newer ones would unpickle.
    """
    from torchvision.datasets import MNIST  # type: ignore[import-untyped]

    if (downloads / "MNIST" / "processed").exists():
        raise DataError(
            f"{downloads / 'MNIST' / 'processed'} is of an old torchvision, whose files are pickled.",
            hint="Delete that folder, or name another one with --downloads.",
        )
    for part in ("train", "test"):
        found = MNIST(downloads, train=part == "train", download=True)
        _write(target / "digits_five" / f"mnist_{part}.npz", found.data.numpy()[..., None], found.targets.numpy())


def usps(downloads: Path, target: Path) -> None:
    """USPS by torchvision, which downloads what is missing."""
    from torchvision.datasets import USPS

    for part in ("train", "test"):
        found = USPS(downloads, train=part == "train", download=True)
        _write(target / "digits_five" / f"usps_{part}.npz", found.data[..., None], np.array(found.targets))


def svhn(downloads: Path, target: Path) -> None:
    """SVHN by torchvision, which downloads what is missing; its label 10 is digit 0.

    Raises:
        MissingExtra: scipy is not installed.
    """
    from torchvision.datasets import SVHN

    _scipy()
    for part in ("train", "test"):
        found = SVHN(downloads, split=part, download=True)
        _write(target / "digits_five" / f"svhn_{part}.npz", found.data.transpose(0, 2, 3, 1), found.labels)


def cifar10(downloads: Path, target: Path) -> None:
    """CIFAR-10's binary version, downloaded by torchvision's downloader: one domain, `cifar10`.

    Each image is a byte of label and 3,072 bytes of pixels, channel by channel, row by row.
    """
    from torchvision.datasets.utils import download_url  # type: ignore[import-untyped]

    (file,) = SOURCES["cifar10"].files
    download_url(file.url, downloads, file.name, file.digest.removeprefix("md5:"))
    parts: dict[str, dict[str, NDArray[np.uint8]]] = {"train": {}, "test": {}}
    for member in members(downloads / file.name):
        if member.path.suffix == ".bin":
            part = "test" if member.path.name.startswith("test") else "train"
            parts[part][member.path.name] = np.frombuffer(member.read(), np.uint8).reshape(-1, 3073)
    for part, batches in parts.items():
        rows = np.concatenate([batches[name] for name in sorted(batches)])
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        _write(target / "cifar10" / f"cifar10_{part}.npz", images, rows[:, 0], classes=np.array(CIFAR_CLASSES))


def mnist_m(downloads: Path, target: Path) -> None:
    """MNIST-M from `mnist_m.tar.gz`: png files, and a list of them with their labels for each part.

    Raises:
        BrokenFile: a list names an image that is not there.
    """
    archive = downloads / SOURCES["mnist_m"].files[0].name
    content = {"/".join(member.path.parts[-2:]): member.read() for member in members(archive)}
    for part in ("train", "test"):
        lists = _found(archive, content, f"mnist_m/mnist_m_{part}_labels.txt").decode().splitlines()
        lines = [line.split() for line in lists if line.strip()]
        images = np.stack([_rgb(_found(archive, content, f"mnist_m_{part}/{line[0]}")) for line in lines])
        labels = np.array([int(line[1]) for line in lines])
        _write(target / "digits_five" / f"mnist_m_{part}.npz", images, labels)


def _found(archive: Path, content: Mapping[str, bytes], name: str) -> bytes:
    if name not in content:
        raise BrokenFile(f"{archive} has no {name}.", hint="Delete it and download it again.")
    return content[name]


def _rgb(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def synth_digits(downloads: Path, target: Path) -> None:
    """SynthDigits from `SynthDigits.zip`: a MATLAB file for each part, `X` 32 x 32 x 3 x N and `y`.

    Raises:
        BrokenFile: a part is not there.
        MissingExtra: scipy is not installed.
    """
    archive = downloads / SOURCES["synth_digits"].files[0].name
    left = {"synth_train_32x32.mat": "train", "synth_test_32x32.mat": "test"}
    for member in members(archive):
        part = left.pop(member.path.name, None)
        if part:
            images, labels = _matlab(io.BytesIO(member.read()))
            _write(target / "digits_five" / f"synth_digits_{part}.npz", images, labels)
    if left:
        raise BrokenFile(f"{archive} has no {', '.join(left)}.", hint="Delete it and download it again.")


def _matlab(file: BinaryIO) -> Arrays:
    found = _scipy().loadmat(file, variable_names=["X", "y"])
    return found["X"].transpose(3, 0, 1, 2), found["y"].reshape(-1) % 10


def _scipy() -> Any:
    try:
        import scipy.io  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtra(
            "This set comes as MATLAB files, which scipy reads.", hint="pip install 'fedwon[digits]'"
        ) from None
    return scipy.io


def _write(path: Path, images: NDArray[Any], labels: NDArray[Any], **names: NDArray[Any]) -> None:
    """Write images uint8 (N, H, W, C) and labels (N,) as int64."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.ascontiguousarray(images, np.uint8)
    np.savez_compressed(path, allow_pickle=False, images=pixels, labels=labels.astype(np.int64), **names)
