"""Images for training: decoded and prepared as `fedwon.common.pixels` says, as torch's tensors.

Decoding, grey and normalization are that module's own. Only the change of size is torch's, which is many times faster
for the same bits (decision 0029). Importing torchvision for it would bring in torch's compiler, which costs a site
memory and seconds at every start (decision 0024).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.common import pixels
from fedwon.common.pixels import COLOURS, Unreadable
from fedwon.common.task_settings import ImageConfig

__all__ = ["Preparation", "Unreadable", "grey", "read_image", "resized"]


def read_image(path: Path) -> Tensor:
    """Decode an image file.

    Returns:
        uint8, (1, H, W) for grey and (3, H, W) for colour.

    Raises:
        Unreadable: the content is no image, is cut short, or has pixels that cannot be made 8 bits.
    """
    return torch.from_numpy(pixels.read_pixels(path))


def grey(image: Tensor) -> Tensor:
    """Return a colour image (3, H, W), uint8, as grey (1, H, W): ITU-R BT.601's weights, rounded down."""
    return torch.from_numpy(pixels.grey(image.numpy()))


def resized(image: Tensor, size: int) -> Tensor:
    """Return an image (C, H, W), uint8, squeezed or stretched to (C, size, size): bilinear, with antialiasing."""
    if image.shape[1:] == (size, size):
        return image
    return F.interpolate(image[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]


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
        if self.config.channels == 1 and image.shape[0] == COLOURS:
            image = grey(image)
        return resized(image, self.config.size).expand(self.config.channels, -1, -1)

    def normalize(self, images: Tensor) -> Tensor:
        """Make network inputs of fitted images: see `fedwon.common.pixels.Preparation.normalize`.

        Args:
            images: uint8, (B, channels, size, size).

        Returns:
            float32, (B, channels, size, size).
        """
        return torch.from_numpy(pixels.Preparation(self.config).normalize(images.numpy()))
