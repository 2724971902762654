"""Building blocks: convolution, normalization and activation as callables, so that all variants share one code.

A :class:`Style` says which convolution, normalization and activation a network is made of; the networks themselves
never ask which variant they are.

References:
    Brock et al. 2021 (arXiv 2101.08692), section 4: the constant that keeps the variance through a ReLU.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from fedwon.models.normalizations import Normalization, find_normalization
from fedwon.models.ws_linear import WSLinear

RELU_GAMMA = math.sqrt(2 / (1 - 1 / math.pi))
"""1.71286: 1 / the standard deviation of relu(z), z ~ Normal(0, 1). DeepMind and timm use 1.71396, an empirical value
0.06 % larger."""

GAMMAS: Mapping[type[nn.Module], float] = MappingProxyType({nn.ReLU: RELU_GAMMA, nn.ReLU6: 1.712859, nn.SiLU: 1.787187})
"""1 / the standard deviation of f(z), z ~ Normal(0, 1), by activation; but for ReLU by numerical integration."""


class ScaledActivation(nn.Module):
    """``activation(x) * gamma``: with the right gamma, passes a standard normal input on with variance 1.

    The constant belongs to the nonlinearity and not to the convolution (DeepMind's form): folded into the weights it
    would also scale the first convolution, whose input is no activation's output.

    Args:
        activation: The nonlinearity.
        gamma: The factor (dimensionless); :data:`GAMMAS` has the theoretical ones.
    """

    def __init__(self, activation: nn.Module, gamma: float) -> None:
        super().__init__()
        self.activation = activation
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``, any shape."""
        out: Tensor = self.activation(x) * self.gamma
        return out

    def extra_repr(self) -> str:
        """What ``print(model)`` shows between the brackets."""
        return f"gamma={self.gamma:.5f}"


LinearKind = Literal["plain", "standardized"]
"""Hidden fully connected layers: plain, as FedWon's, or standardized like the convolutions."""


@dataclass(frozen=True)
class Ablation:
    """Parts of the normalization-free form that can be taken out, for research.

    Attributes:
        standardized: Standardize the weights of convolutions. ``False``: plain convolutions, nothing in their place.
        gain: Standardized convolutions have a gain.
    """

    standardized: bool = True
    gain: bool = True


WHOLE = Ablation()
"""Nothing is taken out."""


@dataclass(frozen=True)
class Style:
    """What the blocks of one network are made of.

    Attributes:
        normalization: Convolution and normalization.
        scaled: Multiply each activation by its constant of :data:`GAMMAS`.
        hidden: What hidden fully connected layers are.
        drop: Share of their outputs that is left out in each training step, 0 to 1.
        skip_gain: Where the factor of each residual branch starts, in networks with residual sums.
        ablation: What is taken out.
    """

    normalization: Normalization
    scaled: bool = False
    hidden: LinearKind = "plain"
    drop: float = 0.0
    skip_gain: float = 0.0
    ablation: Ablation = WHOLE

    def conv(self, *args: Any, **settings: Any) -> nn.Conv2d:
        """A convolution; takes :class:`torch.nn.Conv2d`'s arguments."""
        if not self.normalization.free:
            return self.normalization.conv(*args, **settings)
        if not self.ablation.standardized:
            return nn.Conv2d(*args, **settings)
        return self.normalization.conv(*args, **settings, gain=self.ablation.gain)

    def linear(self, in_features: int, out_features: int) -> nn.Linear:
        """A hidden fully connected layer."""
        kind = WSLinear if self.hidden == "standardized" else nn.Linear
        return kind(in_features, out_features)

    def dropout(self) -> nn.Module:
        """What follows a hidden fully connected layer's activation."""
        return nn.Dropout(self.drop) if self.drop else nn.Identity()

    def activation(self, kind: type[nn.Module] = nn.ReLU) -> nn.Module:
        """A nonlinearity.

        Args:
            kind: A key of :data:`GAMMAS`.
        """
        return ScaledActivation(kind(), GAMMAS[kind]) if self.scaled else kind()


def make_style(
    normalization: str = "none",
    *,
    relu_constant: bool = False,
    linear: LinearKind = "plain",
    dropout: float = 0.0,
    skip_gain: float = 0.0,
    ablation: Ablation = WHOLE,
) -> Style:
    """The style of a variant.

    Args:
        normalization: A key of :data:`~fedwon.models.normalizations.NORMALIZATIONS`.
        relu_constant: Use :class:`ScaledActivation`, everywhere. Off is the reading faithful to FedWon's listing,
            which has the gain only; on is DeepMind's form. In front of a normalization layer the constant cancels.
        linear: What hidden fully connected layers are; FedWon leaves them plain.
        dropout: Share of their outputs that is left out in each training step, 0 to 1.
        skip_gain: Where the factor of each residual branch starts; see :mod:`fedwon.models.residual`.
        ablation: What is taken out.

    Raises:
        UnknownNormalizationError: there is no such normalization.
        ValueError: something of weight standardization is to be taken out of a network that has none.
    """
    found = find_normalization(normalization)
    if not found.free and not (ablation.standardized and ablation.gain):
        raise ValueError(f"normalization {normalization!r} has no weight standardization to take anything out of")
    return Style(found, scaled=relu_constant, hidden=linear, drop=dropout, skip_gain=skip_gain, ablation=ablation)


class ConvBlock(nn.Module):
    """Convolution, normalization, activation: ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``.

    Args:
        style: What it is made of.
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Side of the square filter, in pixels.
        stride: Step of the filter, in pixels.
        padding: Pixels on each side.
        groups: As :class:`torch.nn.Conv2d`.
        bias: As :class:`torch.nn.Conv2d`.
        activation: The nonlinearity; ``None``: end with the normalization, e.g. before a residual sum.
    """

    def __init__(
        self,
        style: Style,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        super().__init__()
        normalization = style.normalization
        self.conv = style.conv(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=bias
        )
        self.norm = normalization.norm_maps(out_channels)
        self.activation = nn.Identity() if activation is None else style.activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class LinearBlock(nn.Module):
    """Fully connected layer, normalization, activation: ``(N, in_features)`` to ``(N, out_features)``.

    Args:
        style: What it is made of. The layer itself is a plain :class:`torch.nn.Linear`, as in the paper, or, with the
            hidden layers ``standardized``, as fedwon's default recipe has them, a
            :class:`~fedwon.models.ws_linear.WSLinear`.
        in_features: Inputs per example.
        out_features: Outputs per example.
    """

    def __init__(self, style: Style, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = style.linear(in_features, out_features)
        self.norm = style.normalization.norm_vectors(out_features)
        self.activation = style.activation()
        self.dropout = style.dropout()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_features)`` to ``(N, out_features)``.

        Raises:
            ValueError: batch normalization while training on a batch of one example, which has no statistics.
        """
        out: Tensor = self.dropout(self.activation(self.norm(self.linear(x))))
        return out
