"""AlexNet as FedBN trains it from scratch on Office-Caltech-10 and DomainNet, and FedWon with it.

References:
    Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (arXiv 1404.5997): the channels.
    Li et al., "FedBN: Federated learning on non-IID features via local batch normalization", ICLR 2021
    (arXiv 2102.07623); med-air/FedBN, ``AlexNet``: normalization behind all five convolutions and both hidden Linear
    layers, biases everywhere, no dropout (torchvision's AlexNet has it).

FedWon's version has WSConv2d and no normalization; its Linear layers stay plain, with PyTorch's own initialization, as
long as ``linear`` is plain (fedwon's default recipe standardizes the hidden ones). Whether the paper adds dropout to
them is not known. At width 1 and ten classes: 57,063,498 parameters with batch norm, 57,045,962 without normalization
and with plain Linear layers (1,152 of them the gains).
"""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.models.blocks import ConvBlock, LinearBlock
from fedwon.models.registry import ModelConfig, register

SMALLEST_IMAGE = 63
"""Pixels: below it the third pooling has nothing left."""

_POOLED = 6


@register("alexnet")
class AlexNet(nn.Module):
    """Images ``(N, in_channels, S, S)`` to logits ``(N, num_classes)``; S = ``image_size`` >= 63, 256 as published.

    Args:
        config: Settings; the width scales all channels and hidden features.

    Raises:
        ValueError: the image is too small for three poolings.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.image_size < SMALLEST_IMAGE:
            raise ValueError(f"alexnet needs an image_size of at least {SMALLEST_IMAGE}, got {config.image_size}")
        style = config.style
        first, second, third, last = (config.scaled(channels) for channels in (64, 192, 384, 256))
        hidden = config.scaled(4096)
        self.conv1 = ConvBlock(style, config.in_channels, first, 11, stride=4, padding=2)
        self.conv2 = ConvBlock(style, first, second, 5, padding=2)
        self.conv3 = ConvBlock(style, second, third, 3, padding=1)
        self.conv4 = ConvBlock(style, third, last, 3, padding=1)
        self.conv5 = ConvBlock(style, last, last, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(_POOLED)
        self.fc1 = LinearBlock(style, last * _POOLED**2, hidden)
        self.fc2 = LinearBlock(style, hidden, hidden)
        self.fc3 = nn.Linear(hidden, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, S, S)`` to logits ``(N, num_classes)``.

        Raises:
            RuntimeError: the image's channels are not those the network was built for.
            ValueError: the batch-normalized variant is training on a batch of one image.
        """
        x = F.max_pool2d(self.conv1(x), 3, 2)
        x = F.max_pool2d(self.conv2(x), 3, 2)
        x = F.max_pool2d(self.conv5(self.conv4(self.conv3(x))), 3, 2)
        x = self.pool(x).flatten(1)
        logits: Tensor = self.fc3(self.fc2(self.fc1(x)))
        return logits
