"""Residual sums that keep the signal without normalization (NF form), and the normalized ones beside them.

References:
    Brock et al., "Characterizing signal propagation to close the performance gap in unnormalized ResNets", ICLR 2021
    (arXiv 2101.08692), and "High-performance large-scale image recognition without normalization", ICML 2021
    (arXiv 2102.06171); google-deepmind/deepmind-research ``nfnets``.

In the NF form a block divides its input by the standard deviation it expects there (beta), and adds its residual
times alpha = 0.2 times a learnable scalar, the skip gain, that starts at 0. So at the start each block passes on what
came in; the expected variance is 1 after a block that changes the shape and grows by alpha^2 with each that follows.

That is made for hundreds of thousands of steps. In the few hundred that a federation has, gains that start at 0 hardly
open the branches (docs/decisions/0013-recipe.md), so they can start higher.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fedwon.models.blocks import Style
from fedwon.models.squeeze import SqueezeExcitation

ALPHA = 0.2
MEANS: Mapping[type[nn.Module], float] = MappingProxyType({nn.ReLU: 0.683332, nn.ReLU6: 0.683332, nn.SiLU: 0.369270})
"""Mean of the scaled activation of a standard normal value, by activation; by numerical integration."""
SILU_GROWTH = 1.07
"""Variance behind an inverted residual with SiLU whose input has variance 1, measured on EfficientNet-B0. The channels
behind a depthwise convolution differ in variance, and SiLU raises a large one more than it lowers a small one; left
alone that grows from block to block."""


class SkipGain(nn.Module):
    """``residual * value * alpha``, with one learnable value.

    Args:
        start: The value at first; 0 as published.
        alpha: How much a block's residual adds to the signal's standard deviation at value 1.
    """

    def __init__(self, start: float = 0.0, alpha: float = ALPHA) -> None:
        super().__init__()
        self.alpha = alpha
        self.value = nn.Parameter(torch.tensor(float(start)))

    def forward(self, residual: Tensor) -> Tensor:
        """Same shape as ``residual``, any shape."""
        return residual * (self.value * self.alpha)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows between the brackets."""
        return f"alpha={self.alpha}"


class Scale(nn.Module):
    """``x * factor``, a constant.

    Args:
        factor: The constant (dimensionless).
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``, any shape."""
        return x * self.factor

    def extra_repr(self) -> str:
        """What ``print(model)`` shows between the brackets."""
        return f"factor={self.factor:.4f}"


def residual_scale(style: Style) -> nn.Module:
    """What a block's residual passes before it is added: nothing where it was normalized, else :class:`SkipGain`."""
    return SkipGain(style.skip_gain) if style.normalization.free else nn.Identity()


def input_scale(style: Style, expected_std: float) -> nn.Module:
    """What a block's input passes: nothing where it is normalized or expected to have variance 1, else 1 / its std."""
    return Scale(1 / expected_std) if style.normalization.free and expected_std != 1 else nn.Identity()


def expected_stds(adds: Sequence[bool], growth: float = 1.0, skip_gain: float = 0.0) -> Iterator[float]:
    """The standard deviation expected at the input of each block of a network.

    Args:
        adds: Block by block, whether it adds its residual to its input; one that does not starts anew.
        growth: Variance behind a block whose input has variance 1, before it is added to anything.
        skip_gain: Where the skip gains start; below 1, where the published form has them later, is expected.
    """
    std, added = 1.0, ALPHA * max(skip_gain, 1.0)
    for block_adds in adds:
        yield std
        std = math.sqrt(std**2 + added**2 * growth if block_adds else growth)


def compensate_padding(conv: nn.Conv2d, size: int, activation: type[nn.Module]) -> None:
    """Start the gain of a depthwise WSConv2d where the zeros around a small map do not take its variance.

    A filter of 5x5 pixels on a map of 3x3 meets zeros with two thirds of its weights. With n of its N weights inside,
    on inputs of variance 1 and mean m, the output's variance is n/N * (1 + m^2 * (N - n) / (N - 1)): fewer terms, but
    their weights no longer add up to 0. Other convolutions are left as they are: their maps are larger than 3x3.

    Args:
        conv: Changed in place; without a gain, nothing happens.
        size: Side of the map that comes in, in pixels.
        activation: The nonlinearity that comes before; a key of :data:`MEANS`.
    """
    gain = getattr(conv, "gain", None)
    if gain is None:
        return
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    starts = range(-padding, size + padding - kernel + 1, stride)
    inside = [min(start + kernel, size) - max(start, 0) for start in starts]
    filter_size, mean = kernel**2, MEANS[activation]
    shares = [rows * columns / filter_size for rows in inside for columns in inside]
    offset = mean**2 * filter_size / max(filter_size - 1, 1)
    variance = sum(share * (1 + offset * (1 - share)) for share in shares) / len(shares)
    nn.init.constant_(gain, variance**-0.5)


def initialize(model: nn.Module, style: Style) -> None:
    """Draw the plain convolutions of a network.

    In a normalized network as torchvision does: Normal(0, 2 / fan-out), biases 0 (He et al., ICCV 2015,
    arXiv 1502.01852). Weight-standardized convolutions have an initialization of their own; the plain ones beside them
    belong to squeeze and excitation, whose last one starts at 0: each gate then is 1/2, and no variance is added.

    Args:
        model: Changed in place.
        style: What it is made of.
    """
    if style.normalization.free:
        for layer in model.modules():
            if isinstance(layer, SqueezeExcitation):
                nn.init.zeros_(layer.fc2.weight)
                if layer.fc2.bias is not None:
                    nn.init.zeros_(layer.fc2.bias)
        return
    for layer in model.modules():
        if type(layer) is nn.Conv2d:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
