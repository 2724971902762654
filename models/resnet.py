"""ResNet-18, and its normalization-free form.

References:
    He et al., "Deep residual learning for image recognition", CVPR 2016 (arXiv 1512.03385); with batch norm this is
    torchvision's ``resnet18``, function for function, and has its 11,689,512 parameters at 1,000 classes.
    Brock et al. 2021 (:mod:`fedwon.models.residual`) for the form without normalization.

Both forms are one code. What runs from block to block is the sum before its activation. A block activates it, and adds
its residual to the activated sum where it is normalized (torchvision's form), to the sum itself where it is not (the
NF form, whose identity path is free of nonlinearities). How FedWon itself rewires the block is not recovered.

A small image keeps more of its pixels: up to 64 px the stem is a 3x3 convolution of stride 2 without pooling, up to
32 px of stride 1.
"""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.models.blocks import ConvBlock, Style
from fedwon.models.registry import ModelConfig, register
from fedwon.models.residual import expected_stds, initialize, input_scale, residual_scale

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
_BLOCKS_A_STAGE = 2
_SMALL, _TINY = 64, 32


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ``(N, in_channels, H, W)`` to ``(N, channels, H/stride, W/stride)``.

    Args:
        style: What it is made of.
        in_channels: Channels of the sum that comes in.
        channels: Channels of the sum that goes out.
        stride: Step of the first convolution and of the shortcut, in pixels.
        expected_std: Standard deviation that the incoming sum is expected to have; 1 counts for normalized styles.
    """

    def __init__(
        self, style: Style, in_channels: int, channels: int, *, stride: int = 1, expected_std: float = 1.0
    ) -> None:
        super().__init__()
        bias = style.normalization.free
        self.activation = style.activation()
        self.input_scale = input_scale(style, expected_std)
        self.conv1 = ConvBlock(style, in_channels, channels, 3, stride=stride, padding=1, bias=bias)
        self.conv2 = ConvBlock(style, channels, channels, 3, padding=1, bias=bias, activation=None)
        self.residual_scale = residual_scale(style)
        self.keeps_sum = style.normalization.free
        changes = stride != 1 or in_channels != channels
        shortcut = ConvBlock(style, in_channels, channels, 1, stride=stride, bias=bias, activation=None)
        self.shortcut = shortcut if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, channels, H/stride, W/stride)``, both before their activation."""
        activated = self.input_scale(self.activation(x))
        kept = x if self.keeps_sum else activated
        if self.shortcut is not None:
            kept = self.shortcut(activated)
        out: Tensor = self.residual_scale(self.conv2(self.conv1(activated))) + kept
        return out


@register("resnet18")
class ResNet18(nn.Module):
    """Images ``(N, in_channels, S, S)`` to logits ``(N, num_classes)``; S = ``image_size`` >= 8.

    Args:
        config: Settings; the width scales all channels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        style = config.style
        widths = [config.scaled(channels) for channels, _ in _STAGES]
        self.stem = _stem(config, widths[0])
        self.pool = nn.MaxPool2d(3, 2, 1) if config.image_size > _SMALL else nn.Identity()
        shapes = list(_shapes(widths))
        adds = [stride == 1 and before == after for before, after, stride in shapes]
        stds = expected_stds(adds, skip_gain=style.skip_gain)
        self.blocks = nn.Sequential(
            *(
                BasicBlock(style, before, after, stride=stride, expected_std=std)
                for (before, after, stride), std in zip(shapes, stds, strict=True)
            )
        )
        self.activation = style.activation()
        self.fc = nn.Linear(widths[-1], config.num_classes)
        initialize(self, style)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, S, S)`` to logits ``(N, num_classes)``.

        Raises:
            RuntimeError: the image's channels are not those the network was built for.
            ValueError: the batch-normalized variant is training on a single value per channel.
        """
        x = self.activation(self.blocks(self.pool(self.stem(x))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _shapes(widths: list[int]) -> Iterator[tuple[int, int, int]]:
    """Channels before, channels after and stride of each block."""
    before = widths[0]
    for (_, stride), after in zip(_STAGES, widths, strict=True):
        for block in range(_BLOCKS_A_STAGE):
            yield before, after, stride if block == 0 else 1
            before = after


def _stem(config: ModelConfig, channels: int) -> ConvBlock:
    kernel, stride = (7, 2) if config.image_size > _SMALL else (3, 1 if config.image_size <= _TINY else 2)
    return ConvBlock(
        config.style,
        config.in_channels,
        channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        bias=config.style.normalization.free,
        activation=None,
    )
