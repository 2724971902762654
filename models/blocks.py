"""Building blocks: convolution, normalization and activation as callables, so that all variants share one code.

A :class:`Style` says which convolution, normalization and activation a network is made of; the networks themselves
never ask which variant they are.

References:
    Brock et al. 2021 (arXiv 2101.08692), section 4: the constant that keeps the variance through a ReLU.
    Wu and He, "Group normalization", ECCV 2018 (arXiv 1803.08494): 32 groups as the default.
    Li et al., "FedBN", ICLR 2021 (arXiv 2102.07623): the batch-normalized baselines, biases kept in front of them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from fedwon.models.ws_conv import WSConv2d
from fedwon.models.ws_linear import WSLinear

RELU_GAMMA = math.sqrt(2 / (1 - 1 / math.pi))
"""1.71286: 1 / the standard deviation of relu(z), z ~ Normal(0, 1). DeepMind and timm use 1.71396, an empirical value
0.06 % larger."""

GAMMAS: Mapping[type[nn.Module], float] = MappingProxyType({nn.ReLU: RELU_GAMMA, nn.ReLU6: 1.712859, nn.SiLU: 1.787187})
"""1 / the standard deviation of f(z), z ~ Normal(0, 1), by activation; but for ReLU by numerical integration."""

_MOST_GROUPS = 32
_CHANNELS_PER_GROUP = 2


class UnknownNormalizationError(ValueError):
    """The name is none of the normalizations; the message lists them."""


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


@dataclass(frozen=True)
class Normalization:
    """One way to keep a network's signal in range, as data.

    Attributes:
        conv: Makes a convolution; takes :class:`torch.nn.Conv2d`'s arguments.
        norm_maps: Makes what follows a convolution, for ``(N, C, H, W)``, from C.
        norm_vectors: Makes what follows a hidden Linear layer, for ``(N, C)``, from C.
    """

    conv: Callable[..., nn.Conv2d]
    norm_maps: Callable[[int], nn.Module]
    norm_vectors: Callable[[int], nn.Module]

    @property
    def free(self) -> bool:
        """Nothing is normalized: the network itself has to keep its signal."""
        return self.norm_maps is no_norm


def group_count(channels: int) -> int:
    """Groups of a group normalization: the largest of 32, 16, 8, 4, 2 that leaves equal groups of two or more, else 1.

    Two or more, because a hidden Linear's output has one value per channel: groups of one would normalize it to 0.

    Args:
        channels: Channels to be divided, > 0.

    Raises:
        ValueError: ``channels`` is not positive.
    """
    if channels <= 0:
        raise ValueError(f"channels must be positive, got {channels}")
    groups = _MOST_GROUPS
    while groups > 1 and (channels % groups or channels // groups < _CHANNELS_PER_GROUP):
        groups //= 2
    return groups


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization of ``(N, C)`` or ``(N, C, H, W)`` with :func:`group_count` groups."""
    return nn.GroupNorm(group_count(channels), channels)


def layer_norm(channels: int) -> nn.GroupNorm:
    """Layer normalization of ``(N, C)`` or ``(N, C, H, W)``: one group, i.e. over all of an example at once.

    Unlike :class:`torch.nn.LayerNorm` over ``(C, H, W)`` its affine parameters are per channel, so that the number
    of parameters does not depend on the image size; on ``(N, C)`` the two are the same.
    """
    return nn.GroupNorm(1, channels)


def no_norm(channels: int) -> nn.Identity:  # noqa: ARG001 - the others need it
    """Nothing at all."""
    return nn.Identity()


NORMALIZATIONS: Mapping[str, Normalization] = MappingProxyType(
    {
        # The Linear layers stay plain: the paper standardizes convolutions only.
        "none": Normalization(conv=WSConv2d, norm_maps=no_norm, norm_vectors=no_norm),
        "batch": Normalization(conv=nn.Conv2d, norm_maps=nn.BatchNorm2d, norm_vectors=nn.BatchNorm1d),
        "group": Normalization(conv=nn.Conv2d, norm_maps=group_norm, norm_vectors=group_norm),
        "layer": Normalization(conv=nn.Conv2d, norm_maps=layer_norm, norm_vectors=layer_norm),
    }
)
"""The variants by name; ``none`` is FedWon's."""


def find_normalization(name: str) -> Normalization:
    """The normalization of that name.

    Raises:
        UnknownNormalizationError: there is none; the message lists the names.
    """
    try:
        return NORMALIZATIONS[name]
    except KeyError:
        names = ", ".join(NORMALIZATIONS)
        raise UnknownNormalizationError(f"unknown normalization {name!r}; choose one of: {names}") from None


LinearKind = Literal["plain", "dropout", "standardized"]
"""Hidden fully connected layers: plain, as FedWon's; with dropout of one half behind them; or standardized like the
convolutions."""
_DROPOUT = 0.5


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
        skip_gain: Where the factor of each residual branch starts, in networks with residual sums.
        ablation: What is taken out.
    """

    normalization: Normalization
    scaled: bool = False
    hidden: LinearKind = "plain"
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
        return nn.Dropout(_DROPOUT) if self.hidden == "dropout" else nn.Identity()

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
    skip_gain: float = 0.0,
    ablation: Ablation = WHOLE,
) -> Style:
    """The style of a variant.

    Args:
        normalization: A key of :data:`NORMALIZATIONS`.
        relu_constant: Use :class:`ScaledActivation`, everywhere. Off is the reading faithful to FedWon's listing,
            which has the gain only; on is DeepMind's form. In front of a normalization layer the constant cancels.
        linear: What hidden fully connected layers are; FedWon leaves them plain.
        skip_gain: Where the factor of each residual branch starts; see :mod:`fedwon.models.residual`.
        ablation: What is taken out.

    Raises:
        UnknownNormalizationError: there is no such normalization.
        ValueError: something of weight standardization is to be taken out of a network that has none.
    """
    found = find_normalization(normalization)
    if not found.free and not (ablation.standardized and ablation.gain):
        raise ValueError(f"normalization {normalization!r} has no weight standardization to take anything out of")
    return Style(found, scaled=relu_constant, hidden=linear, skip_gain=skip_gain, ablation=ablation)


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
        style: What it is made of. The layer itself is a plain :class:`torch.nn.Linear` but in an ablation.
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
