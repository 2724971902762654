"""From an image file to network inputs, with NumPy and Pillow alone: one arithmetic for training and for a release.

What stands in a factory's image folders decides what is handled here:

* EXIF orientation is respected: a hand-held camera turned on its side writes upright pixels and a note; a site that
  ignored the note would train on lying parts.
* Grey of 16 bits (and the 32-bit integers that some versions of Pillow make of it) keeps its upper 8 bits. The scale
  is fixed, not stretched image by image, because brightness may be what tells a defect. A 12-bit camera must
  therefore write its values shifted up, as the common formats ask for.
* Images of more than 67 million pixels (8192 x 8192) are refused as unreadable before they are decoded: a file of a few
  bytes may say that it has as many as it likes, and an edge box has a gigabyte for all.
* Floating-point pixels have no agreed range and are refused as unreadable.
* Palettes become colour; transparent pixels become white, whatever colour hides beneath.
* The whole image is squeezed to a square. Nothing is cropped away: a defect may be at the edge.

The arithmetic is torchvision's (transforms.v2), bit for bit. Training resizes with torch, which is faster
(`fedwon.client.images.decoding`); `resized` here gives the same bits, and a test compares them (decision 0029).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedwon.common.task_settings import ImageConfig

Pixels = NDArray[np.uint8]
Inputs = NDArray[np.float32]

COLOURS = 3
MOST_PIXELS = 2**26
"""Of an image file. Decoding one, with transparency, takes up to 16 bytes a pixel for a moment."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Pillow's own limit is above ours
_WORD_MAX = 2**16 - 1
_LEAST_STD = 2 / 255
_GREY = (np.float32(0.2989), np.float32(0.587), np.float32(0.114))
_MOST_PRECISION, _WORD = 22, 2**15
_LEVELS = np.arange(256, dtype=np.int64)


class Unreadable(Exception):  # says what happened; the caller skips the image and reports its path
    """An image that cannot be decoded; the text is the reason."""


def read_pixels(path: Path) -> Pixels:
    """Decode an image file.

    Returns:
        uint8, (1, H, W) for grey and (3, H, W) for colour.

    Raises:
        Unreadable: the content is no image, is cut short, has pixels that cannot be made 8 bits, or more than
            `MOST_PIXELS` of them.
    """
    try:
        with Image.open(path) as image:
            _check_size(image)
            pixels = np.array(_eight_bits(ImageOps.exif_transpose(image)))
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # decoders meet broken files with every kind of exception there is
        raise Unreadable(str(error) or type(error).__name__) from error
    return (pixels if pixels.ndim == COLOURS else pixels[:, :, None]).transpose(2, 0, 1)


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise Unreadable(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}; save it smaller")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring any of Pillow's modes to L or RGB."""
    if image.mode in {"L", "RGB"} and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        words = np.clip(np.asarray(image).astype(np.int64), 0, _WORD_MAX)
        return Image.fromarray((words >> 8).astype(np.uint8))
    if image.mode == "F":
        raise Unreadable("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode == "1":
        return image.convert("L")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def grey(image: Pixels) -> Pixels:
    """Return a colour image (3, H, W) as grey (1, H, W): ITU-R BT.601's weights, rounded down.

    Each product is added with one rounding (a fused multiply-add, as torch does it): float64 holds both exactly.
    """
    red, green, blue = image.astype(np.float64)
    once: Inputs = (red * _GREY[0]).astype(np.float32)
    for weight, band in ((_GREY[1], green), (_GREY[2], blue)):
        once = (once.astype(np.float64) + np.float64(weight) * band).astype(np.float32)
    return once.astype(np.uint8)[None]


class _Taps(NamedTuple):
    """What makes one axis longer or shorter: for each new pixel its first old one and the weights of those from it."""

    precision: int  # weights are integers over 2 ** precision
    each: tuple[tuple[int, NDArray[np.float64]], ...]


def resized(image: Pixels, size: int) -> Pixels:
    """Return an image (C, H, W) squeezed or stretched to (C, size, size): bilinear, with antialiasing.

    Integer arithmetic as torch has it for bytes: weights of 16 bits, first along the rows, rounded to bytes, then along
    the columns. Sums are exact in float64.
    """
    _, height, width = image.shape
    if width != size:
        image = _along_rows(image, _taps(width, size))
    if height != size:
        turned = _along_rows(image.transpose(0, 2, 1), _taps(height, size))
        image = np.ascontiguousarray(turned.transpose(0, 2, 1))
    return image


def _along_rows(image: Pixels, taps: _Taps) -> Pixels:
    made = np.empty((*image.shape[:2], len(taps.each)), dtype=np.uint8)
    half, unit = float(1 << (taps.precision - 1)), 2.0**-taps.precision
    for column, (first, weights) in enumerate(taps.each):
        total = image[..., first : first + len(weights)].astype(np.float64) @ weights
        made[..., column] = np.clip(np.floor((total + half) * unit), 0, 255)
    return made


@lru_cache(maxsize=64)
def _taps(source: int, target: int) -> _Taps:
    scale = source / target
    reach, squeeze = max(scale, 1.0), 1.0 / max(scale, 1.0)
    found: list[tuple[int, list[float]]] = []
    for pixel in range(target):
        centre = scale * (pixel + 0.5)
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), source)
        raw = [max(1.0 - abs((old - centre + 0.5) * squeeze), 0.0) for old in range(first, last)]
        total = sum(raw)
        found.append((first, [weight / total for weight in raw]))
    largest = max(max(weights) for _, weights in found)
    precision = next(
        (bits for bits in range(_MOST_PRECISION) if int(0.5 + largest * (1 << (bits + 1))) >= _WORD), _MOST_PRECISION
    )
    each = tuple(
        (first, np.array([int(0.5 + weight * (1 << precision)) for weight in weights], dtype=np.float64))
        for first, weights in found
    )
    return _Taps(precision, each)


@dataclass(frozen=True)
class Preparation:
    """What is done to every image, at every site and by every release, as the server's configuration says.

    Args:
        config: size, channels, mean and std.
    """

    config: ImageConfig

    def fit(self, image: Pixels) -> Pixels:
        """Bring a decoded image to the run's size and channels, once, with antialiasing.

        Args:
            image: (1 or 3, H, W).

        Returns:
            (channels, size, size).
        """
        if self.config.channels == 1 and image.shape[0] == COLOURS:
            image = grey(image)
        square = resized(image, self.config.size)
        return np.broadcast_to(square, (self.config.channels, *square.shape[1:]))

    def normalize(self, images: Pixels) -> Inputs:
        """Make network inputs of fitted images: scaled to [0, 1], less mean, over std.

        Where each image is standardized by itself, a standard deviation below two grey levels counts as two, so that
        an image of one colour becomes zeros and the rounding of its pixels is not taken for a pattern.

        Args:
            images: (B, channels, size, size).

        Returns:
            float32, (B, channels, size, size).
        """
        scaled = images.astype(np.float32)
        scaled *= np.float32(1 / 255)
        mean, std = self._scale_of_each(images) if self.config.standardize == "each" else self._scale()
        scaled -= mean
        scaled /= std
        return scaled

    def _scale(self) -> tuple[Inputs, Inputs]:
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (self.config.mean, self.config.std))
        return mean, std

    @staticmethod
    def _scale_of_each(images: Pixels) -> tuple[Inputs, Inputs]:
        """Mean and standard deviation of each image, (B, 1, 1, 1): from exact sums, so the same on every machine."""
        found = np.array([_mean_and_std(image) for image in images], dtype=np.float64).reshape(-1, 2)
        mean, std = (found[:, which].astype(np.float32).reshape(-1, 1, 1, 1) for which in (0, 1))
        return mean, std


def _mean_and_std(image: Pixels) -> tuple[float, float]:
    counts: NDArray[Any] = np.bincount(image.reshape(-1), minlength=256)
    number, total = image.size, int(counts @ _LEVELS)
    squares = int(counts @ _LEVELS**2)
    variance = (number * squares - total * total) / (number * number)  # of integers without a limit: one rounding
    return total / number / 255, max(math.sqrt(variance) / 255, _LEAST_STD)
