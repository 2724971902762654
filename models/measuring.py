"""Constants in place of a normalization that has none of its own: the best ones for some example images.

Layer norm, group norm and their like compute their statistics from the very example they normalize, so that no
constants are equal to them. What comes nearest, per channel and in the mean square over the examples, is the
least-squares line through the layer's outputs over its inputs. The layers are measured in one run, each on what the
layers before it give once they are constants themselves, so that errors do not pile up in scale. The network is
another function afterwards, and has to be trained on.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedwon.models.absorb import Affine, affine_layer
from fedwon.models.channel_affine import ChannelAffine
from fedwon.models.survey import channel_dim


class _Line(NamedTuple):
    affine: Affine
    dim: int
    residual: float


def measure(model: nn.Module, layers: Collection[nn.Module], images: Tensor) -> dict[nn.Module, ChannelAffine]:
    """Run the model once and fit a scale and shift per channel to each of the layers.

    Args:
        model: The network in evaluation mode; it is left as it was.
        layers: Normalization layers of it, each called once in a run.
        images: ``(N, C, H, W)``, as the network takes them. More of them measure better.

    Returns:
        What takes the place of a layer, for those that were called.
    """
    measured: dict[nn.Module, ChannelAffine] = {}

    def _measure(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        line = min(
            (_fit(inputs[0], output, dim) for dim in _candidates(layer, inputs[0])), key=lambda fit: fit.residual
        )
        measured[layer] = affine_layer(line.affine, line.dim, output)
        fitted: Tensor = measured[layer](inputs[0])
        return fitted

    handles = [layer.register_forward_hook(_measure) for layer in layers]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return measured


def _candidates(layer: nn.Module, x: Tensor) -> list[int]:
    """The dimensions that may be the channels': torchvision's LayerNorm2d has them second, LayerNorm last."""
    if type(layer) in {nn.LayerNorm, nn.RMSNorm} or not isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return [channel_dim(layer)]
    return [dim for dim in range(1, x.ndim) if x.shape[dim] == layer.normalized_shape[0]]


def _fit(x: Tensor, y: Tensor, dim: int) -> _Line:
    """The least-squares line per channel, in float64; a constant channel gets scale 0."""
    x, y = (values.detach().double().movedim(dim, 0).flatten(1) for values in (x, y))
    x_mean, y_mean = x.mean(1), y.mean(1)
    variance = x.var(1, correction=0)
    covariance = ((x - x_mean[:, None]) * (y - y_mean[:, None])).mean(1)
    scale = torch.where(variance > 0, covariance / variance, 0.0)
    affine = Affine(scale, y_mean - scale * x_mean)
    residual = (y - affine.scale[:, None] * x - affine.shift[:, None]).square().mean()
    return _Line(affine, dim, float(residual))
