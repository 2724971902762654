"""Small sets in the form that the publishers' have, and a server on this machine in place of theirs."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]
Parts = dict[str, Part]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The files of a folder over HTTP on this machine: the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def parts(side: int, channels: int, train: int = 12, test: int = 7) -> Parts:
    """Images of noise with labels 0 to 9."""
    rng = np.random.default_rng(side)
    return {
        name: (rng.integers(0, 256, (count, side, side, channels), np.uint8), np.arange(count) % 10)
        for name, count in (("train", train), ("test", test))
    }


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def idx(array: NDArray[np.uint8]) -> bytes:
    """MNIST's form, gzipped."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def libsvm(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> bytes:
    """USPS' form: a line an image, `label+1 1:value ...` with values -1 to 1."""
    rows = images.reshape(len(images), -1) / 255 * 2 - 1
    lines = [
        f"{label + 1} " + " ".join(f"{number + 1}:{value:.8f}" for number, value in enumerate(row))
        for label, row in zip(labels, rows, strict=True)
    ]
    return bz2.compress("\n".join(lines).encode())


def matlab(images: NDArray[np.uint8], labels: NDArray[np.int64], zero: int = 0) -> bytes:
    """SVHN's form (zero=10) and SynthDigits'."""
    import scipy.io

    buffer = io.BytesIO()
    numbers = np.where(labels == 0, zero, labels).astype(np.uint8)[:, None]
    scipy.io.savemat(buffer, {"X": images.transpose(1, 2, 3, 0), "y": numbers})
    return buffer.getvalue()


def cifar(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> bytes:
    """A batch of CIFAR-10's binary version."""
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)
    return rows.astype(np.uint8).tobytes()


def png(pixels: NDArray[np.uint8], form: str = "png") -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def photo(width: int, height: int, seed: int) -> bytes:
    """A jpg of noise."""
    return png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), "jpeg")


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path
