"""Gradients of each image by itself, all of a batch at once: Opacus's hooks, with our layers taught to them.

Opacus has one rule a layer type for the gradient of each example. Ours are added beside them:

- A weight-standardized layer computes with `standardized_weight()`, which depends on parameters only and on no example.
  So each example's gradient with respect to that weight is the plain layer's, and what it is with respect to the
  parameters follows by one linear map, the same for all examples: the derivative of the standardization, applied to
  the whole batch of gradients. Nothing couples examples.
- Plain convolutions too: Opacus's own rule multiplies every channel with every other before it takes what belongs
  together, which for a depthwise convolution is hundreds of times the work.

Layers of other types are seen to by Opacus, by its rules or by torch.func. Batch norm has no gradient of one example:
it computes each output from all examples of the batch, so that one image moves the gradients of all the others and
shortening each bounds nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own name for it
from torch.nn.modules.batchnorm import _BatchNorm

from fedwon.common.accounting import EXTRA
from fedwon.common.errors import MissingExtra, TaskFailed
from fedwon.models import OffsetWSConv2d, WSConv2d, WSLinear

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        from opacus.grad_sample import GradSampleModule
        from opacus.grad_sample.grad_sample_module import GradSampleHooks
except ImportError:
    raise MissingExtra("Opacus is not installed, with which this site would train privately.", hint=EXTRA) from None

Gradients = dict[Tensor, Tensor]
"""By parameter: (B, *shape)."""
Sampler = Callable[[Any, list[Tensor], Tensor], Gradients]
SAME = 1e-3
"""Relative difference above which the examples' gradients do not add up to the batch's: float32's is a hundredth."""


def conv_gradients(layer: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Gradient of each example with respect to the weight that a convolution convolves with.

    Args:
        layer: for its sizes.
        inputs: what came in, (B, C_in, H, W).
        outputs: gradient with respect to what went out, (B, C_out, H_out, W_out).

    Returns:
        (B, C_out, C_in / groups, kh, kw).
    """
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        # as the layer itself pads: (left, right, top, bottom)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, mode)  # noqa: SLF001
        columns = F.unfold(inputs, layer.kernel_size, layer.dilation, 0, layer.stride)
    else:
        columns = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    batch, groups = len(inputs), layer.groups
    columns = columns.view(batch, groups, -1, columns.shape[-1])
    out = outputs.reshape(batch, groups, -1, columns.shape[-1])
    return (out @ columns.transpose(2, 3)).reshape(batch, *layer.weight.shape)


def _conv(layer: nn.Conv2d, activations: list[Tensor], backprops: Tensor) -> Gradients:
    found = {layer.weight: conv_gradients(layer, activations[0], backprops)}
    if layer.bias is not None:
        found[layer.bias] = backprops.flatten(2).sum(dim=2)
    return found


def _standardized_conv(layer: WSConv2d, activations: list[Tensor], backprops: Tensor) -> Gradients:
    found = _through_standardization(layer, conv_gradients(layer, activations[0], backprops))
    if layer.bias is not None:
        found[layer.bias] = backprops.flatten(2).sum(dim=2)
    return found


def _standardized_linear(layer: WSLinear, activations: list[Tensor], backprops: Tensor) -> Gradients:
    """As `_through_standardization`; the gradients are outer products, of which fewer passes make the same."""
    filters, scale, above = _filters(layer)
    inputs, out = activations[0], backprops * (scale * layer.gain.detach())
    along = inputs @ filters.T  # (B, O)
    found = out[:, :, None] * (inputs - inputs.mean(dim=1, keepdim=True))[:, None, :]
    found.addcmul_((out * along * above)[:, :, None], filters, value=-1)
    return {layer.weight: found, layer.gain: backprops * along, layer.bias: backprops}


def _filters(layer: WSConv2d | WSLinear) -> tuple[Tensor, Tensor, Tensor]:
    """Standardized filters (O, N) without gain, what each was multiplied by for it, whether it is above the floor."""
    weight = layer.weight.detach().flatten(1)
    centred = weight - weight.mean(dim=1, keepdim=True)
    square = (centred * centred).sum(dim=1)
    scale = square.clamp(min=layer.eps).rsqrt()
    return centred * scale[:, None], scale, square >= layer.eps


def _through_standardization(layer: WSConv2d, gradients: Tensor) -> Gradients:
    """Take each example's gradient (B, *weight) from the standardized weight to the parameters that it is made of.

    With u a standardized filter, s what its centred self was multiplied by to become it, and G the gradient times the
    gain: s * (G - mean(G) - <G, u> u) for the weight; below the floor s is a constant, and the last term is 0. Written
    out, for torch's own derivative of the fused kernel would go through the examples one by one.
    """
    filters, scale, above = _filters(layer)
    flat = gradients.flatten(2)  # (B, O, N)
    along = torch.einsum("bon,on->bo", flat, filters)
    gain, offset = getattr(layer, "gain", None), getattr(layer, "offset", None)
    factor = scale if gain is None else scale * gain.detach()
    turned = flat - flat.mean(dim=2, keepdim=True)
    turned.addcmul_((along * above)[:, :, None], filters, value=-1).mul_(factor[:, None])
    found: Gradients = {layer.weight: turned.view_as(gradients)}
    if gain is not None:
        found[gain] = along
    if offset is not None:
        found[offset] = flat.sum(dim=2) / math.sqrt(filters.shape[1])
    return found


class _Hooks(GradSampleHooks):  # type: ignore[misc]  # Opacus has no annotations that mypy reads
    """Opacus's hooks, with rules of our own beside its."""

    GRAD_SAMPLERS: ClassVar[Mapping[type[nn.Module], Sampler]] = {
        **GradSampleModule.GRAD_SAMPLERS,
        nn.Conv2d: _conv,
        WSConv2d: _standardized_conv,
        OffsetWSConv2d: _standardized_conv,
        WSLinear: _standardized_linear,
    }


class ExampleGradients:
    """Computes the gradient of each image of a batch.

    Args:
        model: the network, in training mode; parameters carry more attributes until `close`.

    Raises:
        TaskFailed: the network has layers with which there is no gradient of a single image.
    """

    def __init__(self, model: nn.Module) -> None:
        for name, layer in model.named_modules():
            if isinstance(layer, _BatchNorm):
                raise TaskFailed(
                    f"Layer `{name}` is batch norm, which mixes the images of a batch: no image has a gradient of its "
                    "own that could be bounded.",
                    hint="Train privately with method `fedwon`, `fedavg_gn` or `fedavg_ln`.",
                )
            if getattr(layer, "inplace", False):  # the hooks' view of what it would overwrite is gone by then
                layer.inplace = False
        self._model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            self._hooks = _Hooks(model, loss_reduction="sum", strict=True)
        except NotImplementedError as error:
            raise TaskFailed(f"This network cannot be trained privately: {error}.") from None
        self._checked = False

    def of(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the gradient of each image's cross entropy, by parameter: (B, *shape).

        The first time they are held against the batch's own gradient: a parameter that is used where no rule sees it
        would else be trained without noise.

        Args:
            inputs: (B, C, H, W).
            labels: (B).

        Raises:
            TaskFailed: they do not add up to the gradient of the whole batch.
        """
        for parameter in self.parameters:
            parameter.grad = None
        self._hooks.set_grad_sample_to_none()
        with warnings.catch_warnings():
            # images need no gradient, and hooks do without
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            F.cross_entropy(self._model(inputs), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
        found = [parameter.grad_sample for parameter in self.parameters]  # type: ignore[attr-defined]
        if not self._checked:
            self._check(found)
            self._checked = True
        return [
            torch.zeros(len(labels), *parameter.shape) if part is None else part
            for parameter, part in zip(self.parameters, found, strict=True)
        ]

    def _check(self, found: list[Tensor | None]) -> None:
        for parameter, part in zip(self.parameters, found, strict=True):
            whole, total = parameter.grad, None if part is None else part.sum(dim=0)
            if whole is None and total is None:
                continue
            if whole is not None and total is not None:
                apart, size = (whole - total).norm(), whole.norm() + (0 if part is None else part.norm())
                if not apart > SAME * size:  # what is not finite fails elsewhere
                    continue
            names = [name for name, other in self._model.named_parameters() if other is parameter]
            raise TaskFailed(
                f"The gradients of the single images do not add up to the batch's at `{', '.join(names)}`: this "
                "network cannot be trained privately.",
                hint="Use another network, or train without `privacy.examples`.",
            )

    def close(self) -> None:
        """Take the hooks off the network."""
        self._hooks.cleanup()
        for parameter in self.parameters:
            parameter.grad = None
