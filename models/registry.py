"""One door to all networks: they register under a name and are built from one set of settings."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from fedwon.models.blocks import WHOLE, Ablation, LinearKind, Style, make_style

SMALLEST_IMAGE = 8
_CHANNEL_STEP = 8


class UnknownModelError(ValueError):
    """The name is none of the registered networks; the message lists them."""


@dataclass(frozen=True)
class ModelConfig:
    """What can be chosen about a network, whichever it is.

    Attributes:
        normalization: ``none`` (FedWon), ``batch``, ``group`` or ``layer``.
        num_classes: Outputs of the classifier; > 0.
        width: Factor on the number of channels and hidden features (dimensionless); > 0. 1 is the published network.
        in_channels: Channels of the image; > 0.
        image_size: Side of the square image, in pixels; >= 8. A network may need more and says so.
        relu_constant: Multiply every activation by its constant of :data:`~fedwon.models.blocks.GAMMAS`.
        linear: What hidden fully connected layers are: ``plain`` or ``standardized``.
        dropout: Share of their outputs that is left out in each training step; >= 0, < 1.
        skip_gain: Where the factor of each residual branch starts, without normalization; >= 0.
        ablation: What is taken out of the normalization-free form, for research.

    Raises:
        ValueError: a setting is out of its range; the message names it.
    """

    normalization: str = "none"
    num_classes: int = 10
    width: float = 1.0
    in_channels: int = 3
    image_size: int = 28
    relu_constant: bool = False
    linear: LinearKind = "plain"
    dropout: float = 0.0
    skip_gain: float = 0.0
    ablation: Ablation = WHOLE

    def __post_init__(self) -> None:
        make_style(self.normalization, ablation=self.ablation)
        for name, least in (("num_classes", 1), ("in_channels", 1), ("image_size", SMALLEST_IMAGE)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (math.isfinite(self.width) and self.width > 0):
            raise ValueError(f"width must be positive and finite, got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if not (math.isfinite(self.skip_gain) and self.skip_gain >= 0):
            raise ValueError(f"skip_gain must be at least 0 and finite, got {self.skip_gain}")

    @property
    def style(self) -> Style:
        """What the network's blocks are made of."""
        return make_style(
            self.normalization,
            relu_constant=self.relu_constant,
            linear=self.linear,
            dropout=self.dropout,
            skip_gain=self.skip_gain,
            ablation=self.ablation,
        )

    def scaled(self, channels: int) -> int:
        """Channels (or hidden features) at this width: the nearest multiple of 8, at least 8.

        At width 1 exactly ``channels``: what is published is not rounded.
        """
        if self.width == 1:
            return channels
        return max(_CHANNEL_STEP, round(channels * self.width / _CHANNEL_STEP) * _CHANNEL_STEP)


Builder = Callable[[ModelConfig], nn.Module]
BuilderT = TypeVar("BuilderT", bound=Builder)

FamilyBuilder = Callable[[str, ModelConfig], nn.Module]
FamilyT = TypeVar("FamilyT", bound=FamilyBuilder)

_BUILDERS: dict[str, Builder] = {}
_FAMILIES: dict[str, FamilyBuilder] = {}


def register(name: str) -> Callable[[BuilderT], BuilderT]:
    """Decorator that makes a network known by ``name``.

    What it decorates takes a :class:`ModelConfig` and gives the network: a function, or the network's class. It draws
    random numbers from torch's global generator only.

    Raises:
        ValueError: the name is taken.
    """

    def _add(builder: BuilderT) -> BuilderT:
        if name in _BUILDERS:
            raise ValueError(f"a model named {name!r} is already registered")
        _BUILDERS[name] = builder
        return builder

    return _add


def register_family(prefix: str) -> Callable[[FamilyT], FamilyT]:
    """Decorator that makes all networks known whose names begin with ``prefix``.

    What it decorates takes the whole name and a :class:`ModelConfig`.
    """

    def _add(builder: FamilyT) -> FamilyT:
        _FAMILIES[prefix] = builder
        return builder

    return _add


def available_models() -> tuple[str, ...]:
    """Names that :func:`build_model` knows, in alphabetical order; those of families are not listed."""
    return tuple(sorted(_BUILDERS))


def build_model(
    name: str,
    *,
    normalization: str = "none",
    num_classes: int = 10,
    width: float = 1.0,
    in_channels: int = 3,
    image_size: int = 28,
    relu_constant: bool = False,
    linear: LinearKind = "plain",
    dropout: float = 0.0,
    skip_gain: float = 0.0,
    ablation: Ablation = WHOLE,
) -> nn.Module:
    """A freshly initialized network in training mode, on torch's default device.

    The initial weights come from torch's global random generator as it stands: seed or fork it for repeatable ones.

    Args:
        name: One of :func:`available_models`, or one of a family: ``torchvision:resnet18``, ``timm:regnety_004``.
        normalization: ``none`` (FedWon), ``batch``, ``group`` or ``layer``.
        num_classes: Outputs of the classifier; > 0.
        width: Factor on the number of channels and hidden features; > 0.
        in_channels: Channels of the image; > 0.
        image_size: Side of the square image, in pixels; >= 8.
        relu_constant: Multiply every activation by its constant, a ReLU by sqrt(2 / (1 - 1/pi)). Off by default, the
            reading faithful to FedWon's listing; see :func:`~fedwon.models.blocks.make_style`.
        linear: Hidden fully connected layers: ``plain`` as FedWon's, or ``standardized``.
        dropout: Share of their outputs that is left out in each training step; >= 0, < 1.
        skip_gain: Where the factor of each residual branch starts, without normalization; 0 as published, >= 0.
        ablation: What is taken out of the normalization-free form, for research.

    Returns:
        A module that takes ``(N, in_channels, image_size, image_size)`` to logits ``(N, num_classes)``.

    Raises:
        UnknownModelError: no network has that name.
        UnknownNormalizationError: no normalization has that name.
        ValueError: a setting is out of its range.
    """
    family = next((family for prefix, family in _FAMILIES.items() if name.startswith(prefix)), None)
    if family is None and name not in _BUILDERS:
        choice = ", ".join([*available_models(), *(f"{prefix}..." for prefix in _FAMILIES)])
        raise UnknownModelError(f"unknown model {name!r}; choose one of: {choice}")
    config = ModelConfig(
        normalization=normalization,
        num_classes=num_classes,
        width=width,
        in_channels=in_channels,
        image_size=image_size,
        relu_constant=relu_constant,
        linear=linear,
        dropout=dropout,
        skip_gain=skip_gain,
        ablation=ablation,
    )
    return family(name, config) if family else _BUILDERS[name](config)
