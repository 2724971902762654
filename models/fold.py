"""Folding: a trained network with its weights standardized once and for all, as plain convolutions.

At inference the standardized weight of a :class:`~fedwon.models.ws_conv.WSConv2d` is a constant. The folded network
computes the same function bit for bit, is built of torch's own layers only, and so can be exported and run where this
package is not installed. It is for inference: trained further, its weights are no longer standardized.
"""

import copy

from torch import nn

from fedwon.models.ws_conv import WSConv2d
from fedwon.models.ws_linear import WSLinear


def fold(model: nn.Module) -> nn.Module:
    """A copy in which every WSConv2d and WSLinear is a plain Conv2d or Linear that holds the standardized weight.

    The output is exactly the same, in training and in evaluation mode; the bias stays and there is no ``gain``. A
    module that is registered in several places is still one module. Subclasses of WSConv2d are folded too, if all
    they change is :meth:`~fedwon.models.ws_conv.WSConv2d.standardized_weight`; hooks on a folded layer are lost.

    Args:
        model: Any module that can be deep-copied; a WSConv2d itself too.
    """
    # A layer that is already in the memo is taken from it: weights that are standardized anew are not copied before.
    memo: dict[int, object] = {}
    for layer in model.modules():
        if isinstance(layer, WSConv2d | WSLinear):
            memo[id(layer)] = _plain(layer, memo)
    return copy.deepcopy(model, memo)


def _plain(layer: WSConv2d | WSLinear, memo: dict[int, object]) -> nn.Module:
    plain: nn.Conv2d | nn.Linear = _plain_linear(layer) if isinstance(layer, WSLinear) else _plain_conv(layer)
    plain.weight = nn.Parameter(layer.standardized_weight().detach(), requires_grad=layer.weight.requires_grad)
    plain.bias = copy.deepcopy(layer.bias, memo)
    return plain.train(layer.training)


def _plain_linear(linear: WSLinear) -> nn.Linear:
    return nn.Linear(linear.in_features, linear.out_features, device="meta")


def _plain_conv(conv: WSConv2d) -> nn.Conv2d:
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        device="meta",  # no memory and no random numbers for weights that are replaced at once
    )
