"""The six-layer network for digits that FedBN introduced and FedWon uses on Digits-Five.

References:
    Li et al., "FedBN: Federated learning on non-IID features via local batch normalization", ICLR 2021
    (arXiv 2102.07623); med-air/FedBN, ``DigitModel``. Three 5x5 convolutions and three fully connected layers, each
    but the last with normalization and ReLU, biases everywhere.

FedWon's version has WSConv2d and no normalization, neither behind the convolutions nor behind the hidden Linear
layers; those stay plain, with PyTorch's own initialization, as long as ``linear`` is plain (fedwon's default recipe
standardizes them). At width 1 on 3x28x28: 14,219,210 parameters with batch norm, 14,213,834 without normalization and
with plain Linear layers (256 of them the gains).
"""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.models.blocks import ConvBlock, LinearBlock
from fedwon.models.registry import ModelConfig, register

_KERNEL = 5
_POOLS = 2


@register("digit_cnn")
class DigitCNN(nn.Module):
    """Images ``(N, in_channels, S, S)`` to logits ``(N, num_classes)``; S = ``image_size`` >= 8.

    The maps are halved twice, so ``fc1`` sees ``(S // 4)^2`` pixels of the last convolution.

    Args:
        config: Settings; the width scales all channels and hidden features.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        style = config.style
        narrow, wide = config.scaled(64), config.scaled(128)
        hidden1, hidden2 = config.scaled(2048), config.scaled(512)
        pixels = (config.image_size >> _POOLS) ** 2
        # padding 2 keeps the size of the map
        self.conv1 = ConvBlock(style, config.in_channels, narrow, _KERNEL, padding=2)
        self.conv2 = ConvBlock(style, narrow, narrow, _KERNEL, padding=2)
        self.conv3 = ConvBlock(style, narrow, wide, _KERNEL, padding=2)
        self.fc1 = LinearBlock(style, wide * pixels, hidden1)
        self.fc2 = LinearBlock(style, hidden1, hidden2)
        self.fc3 = nn.Linear(hidden2, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, S, S)`` to logits ``(N, num_classes)``.

        Raises:
            RuntimeError: the image's size or channels are not those the network was built for.
            ValueError: the batch-normalized variant is training on a batch of one image.
        """
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = self.conv3(x).flatten(1)
        logits: Tensor = self.fc3(self.fc2(self.fc1(x)))
        return logits
