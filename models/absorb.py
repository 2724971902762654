"""The arithmetic of taking a normalization's constants into the layer in front of it, in float64.

With running mean m and variance v, a batch norm in evaluation mode is the map ``x -> scale * x + shift`` per channel::

    scale = gamma / sqrt(v + eps)         shift = beta - m * scale

After a convolution with filters W and bias b that is a convolution with filters ``scale * W`` and bias
``scale * b + shift`` (Ioffe and Szegedy 2015, section 3.1; Jacob et al. 2018, arXiv 1712.05877, section 3.2). Here the
filter is stored in the parts of :class:`~fedwon.models.offset_conv.OffsetWSConv2d`: direction, length, mean.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedwon.models.channel_affine import ChannelAffine
from fedwon.models.offset_conv import OffsetWSConv2d

_CONSTANT = 1e-12  # norm of the centred filter / norm of the filter, below which a filter has no direction


class Affine(NamedTuple):
    """``x -> scale * x + shift`` per channel: two float64 vectors ``(C,)``."""

    scale: Tensor
    shift: Tensor


def affine_of(mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Affine:
    """What a normalization with these constants computes.

    Args:
        mean: ``(C,)``.
        variance: ``(C,)``, >= 0.
        weight: gamma ``(C,)``; ``None`` is 1.
        bias: beta ``(C,)``; ``None`` is 0.
        eps: Added to the variance.
    """
    scale = torch.rsqrt(variance.detach().double() + eps)
    if weight is not None:
        scale = scale * weight.detach().double()
    shift = -mean.detach().double() * scale
    return Affine(scale, shift if bias is None else shift + bias.detach().double())


def absorbing_conv(conv: nn.Conv2d, affine: Affine) -> OffsetWSConv2d:
    """A weight-standardized convolution that computes ``affine(conv(x))``.

    Its raw filters are the centred ones at norm 1, where WSConv2d's learning starts too; gamma's sign goes into the
    gain, so that a filter keeps its direction. A filter without a direction of its own (all entries equal, dead ones
    included) gets gain 0 and an arbitrary direction, so that the gain can learn; with a fan-in of 1 there is none.

    Args:
        conv: The convolution; left alone.
        affine: What follows it, per output channel.
    """
    made = OffsetWSConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        True,
        conv.padding_mode,
        device="meta",  # no memory and no random numbers for values that are set below
    )
    direction, length, offset = _parts(conv.weight)
    bias = affine.shift if conv.bias is None else affine.shift + affine.scale * conv.bias.detach().double()
    values = {"weight": direction, "gain": affine.scale * length, "offset": affine.scale * offset, "bias": bias}
    for name, value in values.items():
        setattr(made, name, _parameter(value, conv.weight))
    return made.train(conv.training)


def absorbing_linear(linear: nn.Linear, affine: Affine) -> nn.Linear:
    """A Linear that computes ``affine(linear(x))``.

    Args:
        linear: The layer; left alone.
        affine: What follows it, per output feature.
    """
    made = nn.Linear(linear.in_features, linear.out_features, device="meta")
    bias = affine.shift if linear.bias is None else affine.shift + affine.scale * linear.bias.detach().double()
    made.weight = _parameter(linear.weight.detach().double() * affine.scale[:, None], linear.weight)
    made.bias = _parameter(bias, linear.weight)
    return made.train(linear.training)


def affine_layer(affine: Affine, dim: int, like: Tensor) -> ChannelAffine:
    """A layer that is the map.

    Args:
        affine: The map.
        dim: The channels' dimension.
        like: Gives type and device.
    """
    return ChannelAffine(affine.scale.to(like), affine.shift.to(like), dim)


def constants_of(norm: Any) -> Affine:
    """The map of a batch or instance norm layer with running statistics.

    Args:
        norm: ``nn.BatchNorm*``, ``nn.SyncBatchNorm`` or ``nn.InstanceNorm*`` with ``running_mean``.
    """
    return affine_of(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def _parts(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Filters as direction (OIHW; mean 0, norm 1), length ``(O,)`` and offset ``(O,)``."""
    filters = weight.detach().double().flatten(1)
    fan_in = filters.shape[1]
    mean = filters.mean(1, keepdim=True)
    centred = filters - mean
    length = centred.norm(dim=1)
    constant = length <= _CONSTANT * filters.norm(dim=1)
    direction = centred / length.masked_fill(constant, 1.0)[:, None]
    direction[constant] = _any_direction(fan_in).to(filters)
    return direction.view_as(weight), length.masked_fill(constant, 0.0), mean.squeeze(1) * math.sqrt(fan_in)


def _any_direction(fan_in: int) -> Tensor:
    """A vector of mean 0 and norm 1; 0 for a fan-in of 1."""
    ramp = torch.linspace(-1, 1, fan_in, dtype=torch.float64) if fan_in > 1 else torch.zeros(1, dtype=torch.float64)
    direction: Tensor = ramp / ramp.norm().clamp(min=_CONSTANT)
    return direction


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like).contiguous(), requires_grad=like.requires_grad)
