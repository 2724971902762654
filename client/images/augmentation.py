"""Training images turned and mirrored at random, so that few images go further.

Source: FedBN's code augments Office-Caltech-10 and DomainNet by horizontal flips and turns of up to 30 degrees. The
transforms are torchvision's; what they draw comes from the default generator, which local training seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedwon.common.task_settings import AugmentationConfig

Augment = Callable[[Tensor], Tensor]
"""Network inputs (B, C, H, W) to inputs of the same shape, each image changed by itself."""


def augmentation(config: AugmentationConfig) -> Augment:
    """Make what is done to each batch of training images, and to no others.

    Args:
        config: what may happen to an image. With nothing in it the batch is returned as it is, and nothing is drawn.
    """
    if config == AugmentationConfig():
        return lambda images: images
    from torchvision.transforms import (  # type: ignore[import-untyped]  # only where it is needed: it loads slowly
        InterpolationMode,
        v2,
    )

    steps: list[Callable[[Tensor], Tensor]] = []
    if config.flip_horizontal:
        steps.append(v2.RandomHorizontalFlip())
    if config.flip_vertical:
        steps.append(v2.RandomVerticalFlip())
    if config.turn_degrees:
        steps.append(v2.RandomRotation(config.turn_degrees, interpolation=InterpolationMode.BILINEAR))
    transform = v2.Compose(steps)
    return lambda images: torch.stack([transform(image) for image in images])
