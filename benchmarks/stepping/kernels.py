"""Kernels of torch's that can standardize a weight, each as one function of weight and gain.

All compute `gain * (W - mean) / (std * sqrt(N))` per filter. Where they differ is how often they read and write the
weights, forward and backward.

Sources: batch norm on the reshaped weight is timm's (`layers/std_conv.py`); the expression is that of the papers named
in `fedwon.models.ws_conv`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from benchmarks.stepping.timing import in_turn, ratios, spread
from fedwon.models.ws_conv import standardize

SHAPES = {
    "512x512x3x3": (512, 512, 3, 3),
    "320x960x1x1": (320, 960, 1, 1),
    "960x1x3x3": (960, 1, 3, 3),
}
"""Weights: the largest of `resnet18`, the largest and a depthwise one of `mobilenet_v2`."""
EPS = 1e-4
_NEGLIGIBLE = 1e-30
IN_USE = "group norm's"


def without_floor(weight: Tensor, gain: Tensor) -> Tensor:
    """Group norm's kernel without a look for filters below the floor."""
    filters, fan_in = weight.shape[0], math.prod(weight.shape[1:])
    scale = gain * fan_in**-0.5
    out: Tensor = torch.native_group_norm(weight, scale, None, 1, filters, fan_in, filters, _NEGLIGIBLE)[0]
    return out


def with_batch_norm(weight: Tensor, gain: Tensor) -> Tensor:
    """Each filter a channel of one example."""
    rows = weight.reshape(1, weight.shape[0], -1)
    scale = gain * rows.shape[2] ** -0.5
    return F.batch_norm(rows, None, None, scale, training=True, eps=_NEGLIGIBLE).view_as(weight)


def with_layer_norm(weight: Tensor, gain: Tensor) -> Tensor:
    """Each filter an example; its gain in a pass of its own, for layer norm's is per weight."""
    rows = weight.flatten(1)
    scale = gain * rows.shape[1] ** -0.5
    return (F.layer_norm(rows, rows.shape[1:], eps=_NEGLIGIBLE) * scale[:, None]).view_as(weight)


def with_expression(weight: Tensor, gain: Tensor) -> Tensor:
    """The equation, written down."""
    rows = weight.flatten(1)
    deviation = rows.std(dim=1, correction=0, keepdim=True) * math.sqrt(rows.shape[1])
    return (gain[:, None] * (rows - rows.mean(dim=1, keepdim=True)) / deviation).view_as(weight)


def one_pass(weight: Tensor, gain: Tensor) -> Tensor:  # noqa: ARG001 - the others need it
    """No standardization: the weight is read and written once, and so is its gradient."""
    return weight * 2.0


KERNELS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    IN_USE: lambda weight, gain: standardize(weight, gain, EPS),
    "the same without the floor": without_floor,
    "batch norm's": with_batch_norm,
    "layer norm's and a row gain": with_layer_norm,
    "the plain expression": with_expression,
    "none: one pass, for comparison": one_pass,
}
STANDING = """\
All give the same weights but for rounding. "Without the floor" is what is in use without the look for filters that are
nearly constant, which it would blow up to noise."""


def measure(seconds: float) -> dict[str, Any]:
    """Time all kernels on all shapes.

    Args:
        seconds: For all of them together.
    """
    return {shape: _compare(sizes, seconds / len(SHAPES)) for shape, sizes in SHAPES.items()}


def _compare(sizes: tuple[int, ...], seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    weight = torch.randn(sizes, requires_grad=True)
    gain = torch.ones(sizes[0], requires_grad=True)
    upstream = torch.randn(sizes)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, kernel in KERNELS.items():
        calls[name, "forward"] = lambda kernel=kernel: kernel(weight, gain)
        calls[name, "both"] = lambda kernel=kernel: torch.autograd.grad(
            kernel(weight, gain), (weight, gain), upstream, allow_unused=True
        )
    times = in_turn(calls, seconds)
    return {name: _summary(times, name, weight.numel()) for name in KERNELS}


def _summary(times: Mapping[tuple[str, str], Sequence[float]], name: str, weights: int) -> dict[str, Any]:
    forward, both = (1e9 * statistics.median(times[name, part]) / weights for part in ("forward", "both"))
    return {
        "forward_ns_a_weight": round(forward, 3),
        "back_ns_a_weight": round(both - forward, 3),
        "ratio": ratios(times[name, "both"], times[IN_USE, "both"]),
        "turns": len(times[name, "both"]),
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    heads = [f"{shape}: ns a weight forward, back | both, against {IN_USE}" for shape in found]
    lines = [f"| kernel | {' | '.join(heads)} |", f"|---|{'---|' * (2 * len(heads))}"]
    for name in KERNELS:
        cells = [name]
        for kernels in found.values():
            row = kernels[name]
            cells += [f"{row['forward_ns_a_weight']:.2f}, {row['back_ns_a_weight']:.2f}", spread(row["ratio"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", STANDING])
