"""Inverted residuals, the block of MobileNetV2 and EfficientNet: expand, filter by channel, project.

References:
    Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", CVPR 2018 (arXiv 1801.04381).
    Tan and Le, "EfficientNet", ICML 2019 (arXiv 1905.11946), after Hu et al., "Squeeze-and-excitation networks", CVPR
    2018 (arXiv 1709.01507).
    Brock et al. 2021 (:mod:`fedwon.models.residual`): the form without normalization; there what leaves a squeeze and
    excitation is doubled, because its gate is 1/2 on average at the start.

Depthwise convolutions have few weights a filter (9 or 25) and are standardized like all others: that forbids
filters of one sign, i.e. blurring. Whether FedWon does so is not recovered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.models.blocks import ConvBlock, Style
from fedwon.models.registry import ModelConfig
from fedwon.models.residual import (
    SILU_GROWTH,
    Scale,
    compensate_padding,
    expected_stds,
    initialize,
    input_scale,
    residual_scale,
)
from fedwon.models.squeeze import SqueezeExcitation

_GATE = 2.0
_SQUEEZE = 4
_STEM, _HEAD = 32, 1280
_SMALL, _TINY = 64, 32


@dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        expansion: Hidden channels a channel that comes in.
        channels: Channels of the blocks' outputs, at width 1.
        blocks: How many.
        stride: Of the first block, in pixels.
        kernel_size: Side of the depthwise filters, in pixels.
    """

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel_size: int = 3


@dataclass(frozen=True)
class Shape:
    """One block: side of the map that comes in, channels before and after, hidden channels, stride and filter."""

    size: int
    before: int
    after: int
    hidden: int
    stride: int
    kernel_size: int

    @property
    def adds(self) -> bool:
        """Whether the block adds its residual to its input: it can where the shape stays."""
        return self.stride == 1 and self.before == self.after


class InvertedResidual(nn.Module):
    """``(N, before, H, W)`` to ``(N, after, H/stride, W/stride)``; without activation at its end.

    Args:
        style: What it is made of.
        shape: Its sizes.
        activation: The nonlinearity behind the first two convolutions.
        squeeze: Weigh the hidden channels by a squeeze and excitation.
        expected_std: Standard deviation that the input is expected to have; 1 counts for normalized styles.
    """

    def __init__(
        self, style: Style, shape: Shape, activation: type[nn.Module], *, squeeze: bool, expected_std: float
    ) -> None:
        super().__init__()
        free, hidden = style.normalization.free, shape.hidden
        self.input_scale = input_scale(style, expected_std)
        expand = ConvBlock(style, shape.before, hidden, 1, bias=free, activation=activation)
        self.expand = expand if hidden != shape.before else nn.Identity()
        padding = (shape.kernel_size - 1) // 2
        self.depthwise = ConvBlock(
            style,
            hidden,
            hidden,
            shape.kernel_size,
            stride=shape.stride,
            padding=padding,
            groups=hidden,
            bias=free,
            activation=activation,
        )
        compensate_padding(self.depthwise.conv, shape.size, activation)
        gate = SqueezeExcitation(hidden, max(1, shape.before // _SQUEEZE), nn.SiLU())
        self.squeeze = gate if squeeze else nn.Identity()
        self.squeeze_scale = Scale(_GATE) if squeeze and free else nn.Identity()
        self.project = ConvBlock(style, hidden, shape.after, 1, bias=free, activation=None)
        self.adds = shape.adds
        self.residual_scale = residual_scale(style) if shape.adds else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, before, H, W)`` to ``(N, after, H/stride, W/stride)``."""
        hidden = self.depthwise(self.expand(self.input_scale(x)))
        out: Tensor = self.project(self.squeeze_scale(self.squeeze(hidden)))
        return self.residual_scale(out) + x if self.adds else out


def inverted_residuals(
    config: ModelConfig, stages: Sequence[Stage], size: int, activation: type[nn.Module], *, squeeze: bool
) -> nn.Sequential:
    """The body of a network.

    Args:
        config: Settings; the width scales all channels.
        stages: The published sizes.
        size: Side of the stem's map, in pixels.
        activation: The nonlinearity.
        squeeze: With squeeze and excitation.
    """
    shapes = list(_shapes(config, stages, size))
    growth = SILU_GROWTH if activation is nn.SiLU else 1.0
    stds = expected_stds([shape.adds for shape in shapes], growth, config.style.skip_gain)
    return nn.Sequential(
        *(
            InvertedResidual(config.style, shape, activation, squeeze=squeeze, expected_std=std)
            for shape, std in zip(shapes, stds, strict=True)
        )
    )


def _shapes(config: ModelConfig, stages: Sequence[Stage], size: int) -> Iterator[Shape]:
    before = config.scaled(_STEM)
    for stage in stages:
        after = config.scaled(stage.channels)
        for block in range(stage.blocks):
            stride = stage.stride if block == 0 else 1
            yield Shape(size, before, after, before * stage.expansion, stride, stage.kernel_size)
            before, size = after, -(-size // stride)


class InvertedResidualNetwork(nn.Module):
    """Stem, inverted residuals, head: ``(N, in_channels, S, S)`` to logits ``(N, num_classes)``; S >= 8.

    A small image keeps more of its pixels: up to 64 px the stem has stride 1 in place of 2, up to 32 px the first
    stage of stride 2 as well. There is no dropout and no stochastic depth: methods are compared without them.

    Args:
        config: Settings; the width scales all channels, also the head's.
        stages: The published sizes.
        activation: The nonlinearity.
        squeeze: With squeeze and excitation.
    """

    channels_last_from: ClassVar[int] = 1
    """Images a batch from which it gains by :func:`~fedwon.models.layout.laid_out`."""

    def __init__(
        self, config: ModelConfig, stages: Sequence[Stage], activation: type[nn.Module], *, squeeze: bool
    ) -> None:
        super().__init__()
        style, bias = config.style, config.style.normalization.free
        first, last = config.scaled(_STEM), config.scaled(_HEAD)
        stem_stride, stages = _for_size(config.image_size, stages)
        self.stem = ConvBlock(
            style, config.in_channels, first, 3, stride=stem_stride, padding=1, bias=bias, activation=activation
        )
        self.blocks = inverted_residuals(
            config, stages, -(-config.image_size // stem_stride), activation, squeeze=squeeze
        )
        self.head = ConvBlock(style, config.scaled(stages[-1].channels), last, 1, bias=bias, activation=activation)
        self.fc = nn.Linear(last, config.num_classes)
        initialize(self, style)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, S, S)`` to logits ``(N, num_classes)``.

        Raises:
            RuntimeError: the image's channels are not those the network was built for.
            ValueError: the batch-normalized variant is training on a single value per channel.
        """
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _for_size(image_size: int, stages: Sequence[Stage]) -> tuple[int, Sequence[Stage]]:
    """Stride of the stem, and the stages, for an image of this many pixels a side."""
    if image_size > _SMALL:
        return 2, stages
    if image_size > _TINY:
        return 1, stages
    first = next(index for index, stage in enumerate(stages) if stage.stride > 1)
    return 1, [replace(stage, stride=1) if index == first else stage for index, stage in enumerate(stages)]
