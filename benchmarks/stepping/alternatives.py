"""Other ways to take the same step, each beside the one that is in use.

An alternative has to be worth its price in all of a step, so whole steps are compared. Each says why it is or is not in
use: seconds alone decide nothing about bits or accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from benchmarks.stepping.forms import CLIPPING, TRAINING, Step, images_of, inputs_of, network_of, step_of, training_step
from benchmarks.stepping.timing import in_turn, milliseconds, ratios, spread
from fedwon.client.training.sgd import SGD
from fedwon.models import AdaptiveGradientClipping, fold, laid_out
from fedwon.models.clipping import unitwise_norm

BATCHES = (1, 32)
_DENOMINATOR_FLOOR = 1e-6


@dataclass(frozen=True)
class Alternative:
    """Another way to do what is in use.

    Attributes:
        name: as the table shows it.
        against: a key of `IN_USE`.
        make: from a network's name and a batch size.
        standing: whether it is in use, and why.
    """

    name: str
    against: str
    make: Callable[[str, int], Step]
    standing: str


def other_layout(name: str, batch: int) -> Step:
    """The images lie pixel by pixel where they lay channel by channel, and the other way round."""
    model = network_of(name, "standardized")
    images, labels = images_of(name, batch)
    last = laid_out(model, images).is_contiguous(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.contiguous_format if last else torch.channels_last)
    return training_step(model, lambda: model(images), labels, SGD(model.parameters(), TRAINING).step)


def all_channels_last(name: str, batch: int) -> Step:
    """Images and weights lie pixel by pixel."""
    model = network_of(name, "standardized")
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = images_of(name, batch)
    images = images.contiguous(memory_format=torch.channels_last)
    return training_step(model, lambda: model(images), labels, SGD(model.parameters(), TRAINING).step)


def autocast(name: str, batch: int) -> Step:
    """Convolutions and matrix products in bfloat16, weights and their standardization in float32."""
    model = network_of(name, "standardized")
    images, labels = inputs_of(model, name, batch)

    def _forward() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out: Tensor = model(images)
        return out.float()

    return training_step(model, _forward, labels, SGD(model.parameters(), TRAINING).step)


def several_at_once(name: str, batch: int, *, fused: bool) -> Step:
    """SGD on all weights in one call: torch's `foreach` or its `fused` form."""
    model = network_of(name, "standardized")
    images, labels = inputs_of(model, name, batch)

    @torch.no_grad()
    def _move() -> None:
        moving = [parameter for parameter in model.parameters() if parameter.grad is not None]
        sgd(
            moving,
            [gradient for parameter in moving if (gradient := parameter.grad) is not None],
            [None] * len(moving),
            foreach=not fused,
            fused=fused,
            lr=TRAINING.lr,
            momentum=0.0,
            weight_decay=0.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    return training_step(model, lambda: model(images), labels, _move)


def clipping_while_moving(name: str, batch: int) -> Step:
    """Clipping without a pass of its own: the factor of each unit goes into the update, no gradient is written."""
    model = network_of(name, "standardized")
    images, labels = inputs_of(model, name, batch)
    clipping = AdaptiveGradientClipping(model, CLIPPING)
    return training_step(model, lambda: model(images), labels, lambda: clip_and_move(model, clipping, TRAINING.lr))


@torch.no_grad()
def clip_and_move(model: nn.Module, clipping: AdaptiveGradientClipping, lr: float) -> float:
    """Plain SGD by clipped gradients, which are left as they are.

    Args:
        model: With gradients.
        clipping: Says which parameters are clipped, and how much.
        lr: Learning rate.

    Returns:
        Share of the visited units that were clipped, as `AdaptiveGradientClipping.clip`.
    """
    clipped, flags = {id(parameter) for parameter in clipping.parameters}, []
    for weight in model.parameters():
        gradient = weight.grad
        if gradient is None:
            continue
        if id(weight) not in clipped:
            weight.add_(gradient, alpha=-lr)
            continue
        limit = clipping.clipping * unitwise_norm(weight).clamp(min=clipping.eps)
        factor = (limit / unitwise_norm(gradient).clamp(min=_DENOMINATOR_FLOOR)).clamp(max=1.0)
        weight.addcmul_(gradient, factor, value=-lr)
        flags.append(factor < 1)
    return float(sum(flag.sum() for flag in flags)) / max(1, sum(flag.numel() for flag in flags))


def prediction(name: str, batch: int, *, folded: bool) -> Step:
    """A forward pass for evaluation, with the weights standardized once before or in each pass."""
    model = network_of(name, "standardized").eval()
    model = fold(model) if folded else model
    images, _ = inputs_of(model, name, batch)

    def _predict() -> None:
        with torch.inference_mode():
            model(images)

    return _predict


def _in_use(form: str) -> Callable[[str, int], Step]:
    return lambda name, batch: step_of(network_of(name, form), name, form, batch)


IN_USE: Mapping[str, Callable[[str, int], Step]] = {
    "step": _in_use("standardized"),
    "step with clipping": _in_use("with clipping"),
    "forward pass": lambda name, batch: prediction(name, batch, folded=False),
}
ALTERNATIVES = (
    Alternative(
        "images in the other layout",
        "step",
        other_layout,
        "channels_last is in use for `mobilenet_v2`, and for `efficientnet_b0` from three images on; for the others it "
        "is not: at a batch of one they gain nothing, and their kept results would have other bits",
    ),
    Alternative(
        "images and weights channels_last",
        "step",
        all_channels_last,
        "not in use: a filter's weights no longer lie in a row, so they are copied to be standardized",
    ),
    Alternative(
        "bfloat16 autocast",
        "step",
        autocast,
        "not in use: a conversion of every weight in each step, and activations of eight bits' precision",
    ),
    Alternative(
        "SGD `foreach`",
        "step",
        lambda name, batch: several_at_once(name, batch, fused=False),
        "not in use: the same bits, and the update is bound by memory, not by calls",
    ),
    Alternative(
        "SGD `fused`",
        "step",
        lambda name, batch: several_at_once(name, batch, fused=True),
        "not in use: the same",
    ),
    Alternative(
        "clipping in SGD's pass",
        "step with clipping",
        clipping_while_moving,
        "not in use: it saves writing clipped gradients and reading them again, but gives other bits, and momentum and "
        "weight decay would need forms of their own",
    ),
    Alternative(
        "standardized weights kept",
        "forward pass",
        lambda name, batch: prediction(name, batch, folded=True),
        "in use, for evaluation and serving (`fold`), with the same bits",
    ),
)
NOT_APPLICABLE = (
    "Keeping standardized weights between the steps of gradient accumulation: there is no gradient accumulation here, "
    "for a batch of one is a legal batch; every step changes the weights."
)


def measure(networks: Sequence[str], seconds: float) -> dict[str, Any]:
    """Time all alternatives on these networks.

    Args:
        networks: Names.
        seconds: For all of them together; those that need longer for the fewest turns take it.
    """
    share = seconds / (len(networks) * len(BATCHES))
    return {name: {str(batch): _compare(name, batch, share) for batch in BATCHES} for name in networks}


def _compare(name: str, batch: int, seconds: float) -> dict[str, Any]:
    steps = {base: make(name, batch) for base, make in IN_USE.items()}
    steps |= {one.name: one.make(name, batch) for one in ALTERNATIVES}
    times = in_turn(steps, seconds)
    found: dict[str, Any] = {base: {"milliseconds": milliseconds(times[base])} for base in IN_USE}
    for one in ALTERNATIVES:
        mine = times[one.name]
        found[one.name] = {
            "milliseconds": milliseconds(mine),
            "ratio": ratios(mine, times[one.against]),
            "turns": len(mine),
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown, and below them how each alternative stands."""
    lines = [f"| tried | beside the | batch | {' | '.join(found)} |", f"|---|---|---|{'---|' * len(found)}"]
    for one in ALTERNATIVES:
        for batch in BATCHES:
            cells = (spread(batches[str(batch)][one.name]["ratio"]) for batches in found.values())
            lines.append(f"| {one.name} | {one.against} | {batch} | {' | '.join(cells)} |")
    standing = (f"- {one.name}: {one.standing}." for one in ALTERNATIVES)
    return "\n".join([*lines, "", *standing, f"- {NOT_APPLICABLE}"])
