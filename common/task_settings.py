"""The part of a run's configuration that a site needs for a task: network, images, local training.

One class a group; `fedwon.common.run_config` puts them together.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedwon.common.config import Settings


class AblationConfig(Settings):
    """Parts of the normalization-free network that can be taken out, for research."""

    standardized: bool = True
    """Standardize the weights of convolutions; without, nothing stands in the place of normalization."""
    gain: bool = True
    """Give standardized convolutions a learnable gain."""


class ModelConfig(Settings):
    """The network."""

    name: str = "digit_cnn"
    """Which network: `digit_cnn`, `alexnet`, `resnet18`, `mobilenet_v2`, `efficientnet_b0`, or one of torchvision's
    or timm's, such as `torchvision:resnet50` and `timm:regnety_004`; with method `fedwon` these need `pretrained`
    (docs/convert.md), and timm's need `fedwon[timm]` on the server and at the sites."""
    width: float = Field(default=1.0, gt=0, le=4)
    """Multiplier of the number of channels; 0.25 makes `digit_cnn` fit the smallest edge boxes."""
    relu_constant: bool = False
    """Multiply every ReLU by 1.7129 (SiLU: 1.7872), which keeps the variance through depth (Brock et al. 2021). Off is
    the paper's listing: a learnable gain alone."""
    linear: Literal["plain", "standardized"] = "plain"
    """Hidden fully connected layers: plain as in the paper, or with standardized weights like the convolutions."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the outputs of hidden fully connected layers that is left out, at random, in each training step."""
    skip_gain: float = Field(default=0.0, ge=0, le=10)
    """Where the factor of each residual branch starts, in networks with residual sums and without normalization. 0
    closes the branches at first, as in the NFNets, which take thousands of steps to open them."""
    ablation: AblationConfig = AblationConfig()
    """For research; leave it as it is."""


class ImageConfig(Settings):
    """How images become network inputs, the same at every site."""

    size: int = Field(default=28, ge=8, le=2048)
    """Height and width in pixels after resizing."""
    channels: Literal[1, 3] = 3
    """1 turns colour into grey, 3 repeats grey."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from pixels in [0, 1]; one value, or one a channel."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)
    """Divides after that; one value, or one a channel."""
    standardize: Literal["alike", "each"] = "alike"
    """`alike`: all images by `mean` and `std`. `each`: every image by its own mean and standard deviation in their
    place, which takes away what lines differ by in exposure and contrast; not where brightness is what tells a defect.
    """
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of each class kept from training where a site gives no `val` of its own; split by the run's seed."""
    max_train: int | None = Field(default=None, ge=1)
    """Use at most so many training images a site, drawn with the run's seed; empty for all."""
    missing_classes: Literal["allow", "refuse"] = "allow"
    """What to do with a site that has no image of a class of the federation."""
    unknown_classes: Literal["skip", "refuse"] = "refuse"
    """What to do with a site's folder or label that is no class of the federation: leave its images out and say so, or
    refuse the task."""

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                raise ValueError(f"`{name}` needs one value or {self.channels} (one a channel), got {len(values)}")
        return self


class AugmentationConfig(Settings):
    """What may happen to a training image each time it is used, the same at every site.

    Off by default: whether a mirrored part is still a good part, only the factory knows.
    """

    flip_horizontal: bool = False
    """Mirror left and right, every second time."""
    flip_vertical: bool = False
    """Mirror top and bottom, every second time."""
    turn_degrees: float = Field(default=0.0, ge=0, le=180)
    """Turn by up to so many degrees either way. Corners that come in get the mean (0 after normalization)."""


class TrainingConfig(Settings):
    """Local training at a site: plain SGD."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the site's training images in a round."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps in a round in place of `epochs`; empty for epochs."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Images a step. A site may set its own in client.yaml. The last, smaller batch is trained on as well."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate, the highest where it changes over the rounds."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes over the rounds: stays, or falls along half a cosine to nearly 0 in the last one."""
    warmup_rounds: int = Field(default=0, ge=0)
    """Rounds at the start in which the learning rate rises in equal steps to its full value."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """SGD momentum; its buffers start empty each round."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on all parameters."""
    clipping: float | None = Field(default=None, gt=0)
    """Adaptive gradient clipping: lambda of FedWon (0.01 to 1.28 by batch size). Empty: off."""
    proximal_mu: float | None = Field(default=None, ge=0)
    """Strength of FedProx's proximal term; empty takes the method's own."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of training images."""
    weights_sent: Literal["raw", "standardized"] = "raw"
    """What sites send of weight-standardized convolutions: the weights they trained, or these standardized, which
    compute the same but start each round with filters of norm 1. An ablation of `fedwon`."""

    def in_round(self, number: int, rounds: int) -> Self:
        """What holds in one round: the learning rate as the schedule says, and no schedule any more.

        Args:
            number: of the round, from 1; 0, an evaluation before any, is told what the first one is.
            rounds: of the run.
        """
        done = min(max(number, 1), rounds) - 1
        share = min(1.0, (done + 1) / (self.warmup_rounds + 1))
        if self.schedule == "cosine" and done > self.warmup_rounds:
            falling = rounds - self.warmup_rounds
            share = (1 + math.cos(math.pi * (done - self.warmup_rounds) / falling)) / 2
        return self.model_copy(update={"lr": self.lr * share, "schedule": "constant", "warmup_rounds": 0})
