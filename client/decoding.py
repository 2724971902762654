"""From an image file to a tensor of the size and channels that the run asks for.

What stands in a factory's image folders decides what is handled here:

* EXIF orientation is respected: a hand-held camera turned on its side writes upright pixels and a note; a site that
  ignored the note would train on lying parts.
* Grey of 16 bits (and the 32-bit integers that some versions of Pillow make of it) keeps its upper 8 bits. The scale
  is fixed, not stretched image by image, because brightness may be what tells a defect. A 12-bit camera must
  therefore write its values shifted up, as the common formats ask for.
* Floating-point pixels have no agreed range and are refused as unreadable.
* Palettes become colour; transparent pixels become white, whatever colour hides beneath.
* The whole image is squeezed to a square. Nothing is cropped away: a defect may be at the edge.

The arithmetic is torchvision's (transforms.v2), bit for bit, written on torch's own operations: importing torchvision
brings in torch's compiler with it, which costs a site memory and seconds at every start (decision 0024).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.common.task_settings import ImageConfig

_COLOURS = 3
_WORD_MAX = 2**16 - 1
_LEAST_STD = 2 / 255


class Unreadable(Exception):  # says what happened; the caller skips the image and reports its path
    """An image that cannot be decoded; the text is the reason."""


def read_image(path: Path) -> Tensor:
    """Decode an image file.

    Returns:
        uint8, (1, H, W) for grey and (3, H, W) for colour.

    Raises:
        Unreadable: the content is no image, is cut short, or has pixels that cannot be made 8 bits.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(_eight_bits(ImageOps.exif_transpose(image)))
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # decoders meet broken files with every kind of exception there is
        raise Unreadable(str(error) or type(error).__name__) from error
    return torch.from_numpy(pixels if pixels.ndim == _COLOURS else pixels[:, :, None]).permute(2, 0, 1)


def grey(image: Tensor) -> Tensor:
    """Return a colour image (3, H, W), uint8, as grey (1, H, W): ITU-R BT.601's weights, rounded down."""
    red, green, blue = image.unbind(0)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).to(image.dtype)[None]


def resized(image: Tensor, size: int) -> Tensor:
    """Return an image (C, H, W), uint8, squeezed or stretched to (C, size, size): bilinear, with antialiasing."""
    if image.shape[1:] == (size, size):
        return image
    return F.interpolate(image[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]


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


@dataclass(frozen=True)
class Preparation:
    """What every site does to its images, as the server's configuration says.

    Args:
        config: size, channels, mean and std.
    """

    config: ImageConfig

    @property
    def bytes_per_image(self) -> int:
        """Memory that one fitted image takes."""
        return self.config.channels * self.config.size**2

    def fit(self, image: Tensor) -> Tensor:
        """Bring a decoded image to the run's size and channels, once, with antialiasing.

        Args:
            image: uint8, (1 or 3, H, W).

        Returns:
            uint8, (channels, size, size).
        """
        if self.config.channels == 1 and image.shape[0] == _COLOURS:
            image = grey(image)
        return resized(image, self.config.size).expand(self.config.channels, -1, -1)

    def normalize(self, images: Tensor) -> Tensor:
        """Make network inputs of fitted images: scaled to [0, 1], less mean, over std.

        Where each image is standardized by itself, a standard deviation below two grey levels counts as two, so that
        an image of one colour becomes zeros and the rounding of its pixels is not taken for a pattern.

        Args:
            images: uint8, (B, channels, size, size).

        Returns:
            float32, (B, channels, size, size).
        """
        scaled = images.to(torch.float32).mul_(1 / 255)
        if self.config.standardize == "each":
            std, mean = torch.std_mean(scaled, dim=(1, 2, 3), correction=0, keepdim=True)
            own: Tensor = (scaled - mean) / std.clamp(min=_LEAST_STD)
            return own
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.config.mean, self.config.std))
        return scaled.sub_(mean).div_(std)
