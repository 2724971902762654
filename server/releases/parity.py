"""Whether an exported model computes what the trained one does: both look at the same images.

The trained network sees them as in training (torch's resizing, torch's convolutions), the exported one as at a line
(NumPy, onnxruntime), so the whole way from the file to the outputs is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedwon.client.config import DataConfig
from fedwon.client.images.decoding import Preparation, Unreadable, read_image
from fedwon.client.images.digits import line_names, load_line
from fedwon.client.images.listing import image_files, list_site
from fedwon.common.errors import DataError, DataMissing, MissingExtra
from fedwon.common.release import Parity
from fedwon.common.scoring import OnnxModel, Scorer
from fedwon.common.task_settings import ImageConfig

MOST = 256
"""Images that are compared at most."""
_BATCH = 32
T = TypeVar("T")
Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Sample:
    """Images to compare by.

    Attributes:
        images: uint8, (1 or 3, H, W) each.
        source: what they are, in words.
    """

    images: Images
    source: str


def sample(place: Path | None, classes: Sequence[str], size: int) -> Sample:
    """Find images to compare by: those of a place, or the built-in digits where these are the classes, or noise.

    Args:
        place: a folder of images, of classes with images, or an .npz file; None where the operator has none.
        classes: the federation's.
        size: side of the images of noise, in pixels.

    Raises:
        DataMissing: there is nothing at that place.
        DataError: nothing there can be read.
    """
    if place is not None:
        return Sample(_read(place), f"images of {place}")
    if sorted(classes) == [str(digit) for digit in range(10)]:
        with suppress(MissingExtra):  # the set comes with scikit-learn, which a server need not have
            return Sample(_digits(), "built-in digits of all four lines")
    return Sample(_noise(size), "random images, for none were named; `--images FOLDER` takes real ones")


def _read(place: Path) -> Images:
    if not place.exists():
        raise DataMissing(f"There is no {place}.", hint="Name a folder of images with `--images`.")
    found: list[NDArray[np.uint8]] = []
    for read in _readers(place):
        with suppress(Unreadable):
            found.append(read().numpy())
    if not found:
        raise DataError(f"No image of {place} can be read.", hint="Name other images with `--images`.")
    return found


def _readers(place: Path) -> list[Callable[[], Tensor]]:
    loose = image_files(place) if place.is_dir() else []
    if loose:
        return [partial(read_image, path) for path in _spread(loose)]
    listed = list_site(DataConfig(path=str(place.resolve())), Path.cwd())["train"]
    return [partial(listed.source.read, row) for row in _spread(range(len(listed.classes)))]


def _spread(items: Sequence[T]) -> Sequence[T]:
    """At most `MOST` of them, evenly spread: all classes come in."""
    return [items[number * len(items) // MOST] for number in range(MOST)] if len(items) > MOST else items


def _digits() -> Images:
    images = [image for name in line_names() for image in load_line(name)["test"].images]
    return [image.transpose(2, 0, 1) for image in _spread(images)]


def _noise(size: int) -> Images:
    """Noise of several coarsenesses, so that edges and even areas come in; another side than the network's."""
    rng, side = np.random.default_rng(1), size + size // 2
    grains = [max(side >> power, 1) for power in range(6)] * 11
    noise = [rng.integers(0, 256, (3, grain, grain), dtype=np.uint8) for grain in grains]
    return [image.repeat(-(-side // len(image[0])), 1).repeat(-(-side // len(image[0])), 2) for image in noise]


def trained_outputs(network: nn.Module, images: Images, config: ImageConfig) -> NDArray[np.float32]:
    """Return the trained network's outputs (N, classes), prepared and computed as in training."""
    preparation = Preparation(config)
    fitted = torch.stack([preparation.fit(torch.from_numpy(np.array(image))) for image in images])
    with torch.inference_mode():
        parts = [network.eval()(preparation.normalize(part)) for part in torch.split(fitted, _BATCH)]
    return torch.cat(parts).numpy()


def released_outputs(content: bytes, images: Images, config: ImageConfig) -> NDArray[np.float32]:
    """Return the outputs (N, classes) of an ONNX file, prepared and computed as at a line; also one image alone.

    Raises:
        MissingExtra: onnxruntime is not installed.
        UntrustedRelease: onnxruntime cannot load it.
    """
    scorer = Scorer(OnnxModel(content), config)
    alone = np.stack(list(scorer.logits(images[:1])))
    return np.concatenate([alone, np.stack(list(scorer.logits(images[1:])))]) if len(images) > 1 else alone


def compare(trained: NDArray[np.float32], released: NDArray[np.float32], source: str, limit: float) -> Parity:
    """Put two models' outputs for the same images side by side."""
    difference = float(np.abs(trained - released).max())
    return Parity(
        images=len(trained),
        source=source,
        largest_difference=difference if np.isfinite(difference) else float("1e308"),
        largest_output=float(np.abs(trained).max()),
        limit=limit,
        same_class=int((trained.argmax(axis=1) == released.argmax(axis=1)).sum()),
    )
