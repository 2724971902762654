"""What stands between a convolution and its activation: nothing, batch, group or layer normalization, as data.

References:
    Wu and He, "Group normalization", ECCV 2018 (arXiv 1803.08494): 32 groups as the default.
    Li et al., "FedBN", ICLR 2021 (arXiv 2102.07623): the batch-normalized baselines, biases kept in front of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from fedwon.models.ws_conv import WSConv2d

_MOST_GROUPS = 32
_CHANNELS_PER_GROUP = 2


class UnknownNormalizationError(ValueError):
    """The name is none of the normalizations; the message lists them."""


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
