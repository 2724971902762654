"""What a released model says about image files: no server, no PyTorch, only NumPy, Pillow and onnxruntime.

The release's signature and files are checked before anything of it is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fedwon.client.images.listing import image_files, is_image
from fedwon.client.releases.shelf import Shelf
from fedwon.common.errors import DataMissing
from fedwon.common.files import read_bytes
from fedwon.common.pixels import Pixels, Unreadable, read_pixels
from fedwon.common.release import ONNX, ONNX_INT8, Release, open_release
from fedwon.common.scoring import BATCH, Scorer, probabilities

POLL_SECONDS = 0.2
"""How often a watched folder is looked through."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one file.

    Attributes:
        path: the file, as it was named.
        label: the class with the largest output; empty where the file could not be read.
        probability: of that class, 0 to 1.
        probabilities: of every class, in the order of the release's classes.
        error: why the file could not be read; empty where it could.
    """

    path: Path
    label: str = ""
    probability: float = 0.0
    probabilities: tuple[float, ...] = field(default=())
    error: str = ""

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return it for JSON."""
        if self.error:
            return {"path": str(self.path), "error": self.error}
        named = dict(zip(classes, self.probabilities, strict=True))
        return {"path": str(self.path), "label": self.label, "probability": self.probability, "probabilities": named}


class Predictor:
    """A release that says what is in images.

    Args:
        release: opened, its signature and files checked.
        int8: use the quantized model.
        threads: processor threads; None for all cores.
        shelf: where the release is the one in use; None where it was named.

    Attributes:
        classes: class names in the order of the outputs.
        release: the release's name.

    Raises:
        UntrustedRelease: the release is another one by now, or has no such model.
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(
        self, release: Release, *, int8: bool = False, threads: int | None = None, shelf: Shelf | None = None
    ) -> None:
        self.classes, self.release, self._shelf = release.manifest.classes, release.manifest.name, shelf
        self._scorer = Scorer.of(release, file=ONNX_INT8 if int8 else ONNX, threads=threads)

    def predict(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Look at files, in their order; one that cannot be read is said so in its place."""
        remaining = iter(paths)
        while batch := list(islice(remaining, BATCH)):
            yield from self._batch(batch)

    def outdated(self) -> bool:
        """Whether the site uses another release by now."""
        return self._shelf is not None and self._shelf.standing.in_use != self.release

    def _batch(self, paths: Sequence[Path]) -> list[Prediction]:
        read = [_read(path) for path in paths]
        logits = self._scorer.logits(pixels for pixels in read if not isinstance(pixels, str))
        return [
            Prediction(path, error=pixels) if isinstance(pixels, str) else self._named(path, next(logits))
            for path, pixels in zip(paths, read, strict=True)
        ]

    def _named(self, path: Path, logits: Any) -> Prediction:
        shares = probabilities(logits)
        best = int(np.argmax(shares))
        return Prediction(path, self.classes[best], float(shares[best]), tuple(map(float, shares)))


def _read(path: Path) -> Pixels | str:
    try:
        return read_pixels(path)
    except Unreadable as error:
        return " ".join(str(error).split())


def trusted_release(folder: Path, release: Path | None, authority: Path | None) -> Release:
    """Open the release to predict with.

    Args:
        folder: the site's folder.
        release: a release's folder; None for the one that is in use at the site.
        authority: the federation's certificate; None for the site's own `pki/ca.pem`.

    Raises:
        ReleaseMissing: there is none.
        UntrustedRelease: it is not what the federation signed.
        DataMissing: there is no certificate to check it with.
        StorageError: it cannot be read.
    """
    certificate = authority or folder / "pki" / "ca.pem"
    if not certificate.exists():
        raise DataMissing(
            f"There is no {certificate}, the federation's certificate that releases are checked with.",
            hint="Name the folder of a site with `--dir`, or a copy of the server's pki/ca.pem with `--authority`.",
        )
    authorities = read_bytes(certificate)
    return open_release(release or Shelf(folder).in_use_folder(), authorities)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files of these paths; of a folder, every image in it and below it, sorted.

    Raises:
        DataMissing: a path is not there, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if is_image(file) and file.is_file())
            if not inside:
                raise DataMissing(f"{path} holds no image.", hint="Name image files, or a folder that holds some.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataMissing(f"There is no {path}.", hint="Name image files, or a folder that holds some.")
    return found


def arrivals(folder: Path, stop: Callable[[], bool] = lambda: False) -> Iterator[list[Path]]:
    """Wait for images that come into a folder; those that are there already come first.

    A file counts once its size and time have stayed as they were from one look to the next: a camera may still be
    writing. One that is written anew counts again.

    Args:
        folder: looked at without what lies in folders below it.
        stop: asked at each look; True ends the waiting.

    Yields:
        The files that are whole since the last look, sorted; possibly none.

    Raises:
        DataMissing: the folder is not there (any more).
    """
    seen: dict[Path, tuple[int, int]] = {}
    told: dict[Path, tuple[int, int]] = {}
    while not stop():
        try:
            now = {path: (stat.st_size, stat.st_mtime_ns) for path in image_files(folder) if (stat := _stat(path))}
        except OSError as error:
            raise DataMissing(f"{folder} cannot be watched: {error.strerror}.") from None
        whole = [path for path, mark in now.items() if seen.get(path) == mark and told.get(path) != mark]
        told = {path: mark for path, mark in told.items() if path in now} | {path: now[path] for path in whole}
        seen = now
        yield whole
        time.sleep(POLL_SECONDS)


def _stat(path: Path) -> Any:
    try:
        return path.stat()
    except FileNotFoundError:  # gone between listing and looking
        return None
