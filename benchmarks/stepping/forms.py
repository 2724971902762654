"""The forms of a network whose training steps are compared, and a step of each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.client.training.sgd import SGD
from fedwon.common.recipes import RECIPES
from fedwon.common.task_settings import TrainingConfig
from fedwon.models import AdaptiveGradientClipping, WSConv2d, build_model, laid_out
from fedwon.models.blocks import LinearKind

SIZES = {"digit_cnn": 28, "alexnet": 128}
SIZE = 64
BATCHES = (1, 2, 8, 32)
FORMS = ("plain", "standardized", "with clipping", "recipe", "batch norm")
CLIPPING = 0.16
TRAINING = TrainingConfig(lr=1e-6)

Step = Callable[[], None]
"""One training step, ready to be called: forward, backward, update."""


def plain(model: nn.Module) -> nn.Module:
    """Put an ordinary convolution in place of each weight-standardized one: the floor of the comparison."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, WSConv2d):
                setattr(parent, name, _ordinary(layer))
    return model


def _ordinary(layer: WSConv2d) -> nn.Conv2d:
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=layer.bias is not None,
    )


OPEN = RECIPES["tuned"]["model"]["skip_gain"]
"""Branches that are open, as fedwon's are: closed ones get gradients so small that computing with them is slow."""


def network_of(name: str, form: str) -> nn.Module:
    """A network in one form, with the same random numbers behind its weights each time.

    Args:
        name: Of a network that `build_model` knows.
        form: One of `FORMS`.
    """
    torch.manual_seed(0)
    normalization = "batch" if form == "batch norm" else "none"
    linear: LinearKind = "standardized" if form == "recipe" else "plain"
    model = build_model(
        name,
        normalization=normalization,
        image_size=SIZES.get(name, SIZE),
        relu_constant=normalization == "none",
        linear=linear,
        skip_gain=OPEN,
    )
    return plain(model) if form == "plain" else model


def images_of(name: str, batch: int) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, S, S) of the size that a network is measured at, and labels (B,)."""
    torch.manual_seed(0)
    size = SIZES.get(name, SIZE)
    return torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))


def inputs_of(model: nn.Module, name: str, batch: int) -> tuple[Tensor, Tensor]:
    """`images_of`, with the images as a site lays them out for this network."""
    images, labels = images_of(name, batch)
    return laid_out(model, images), labels


def step_of(model: nn.Module, name: str, form: str, batch: int) -> Step:
    """A training step as a site takes it: with the client's own SGD, and the images as it lays them out.

    Args:
        model: As `network_of` makes it; it keeps its gradients between steps, like any that trains.
        name: Of the network.
        form: Of the network; two of `FORMS` clip.
        batch: Images.
    """
    images, labels = inputs_of(model, name, batch)
    optimizer = SGD(model.parameters(), TRAINING)
    clipping = AdaptiveGradientClipping(model, CLIPPING) if form in {"with clipping", "recipe"} else None

    def _move() -> None:
        if clipping is not None:
            clipping.clip()
        optimizer.step()

    return training_step(model, lambda: model(images), labels, _move)


def training_step(model: nn.Module, forward: Callable[[], Tensor], labels: Tensor, move: Step) -> Step:
    """A training step made of its parts.

    Args:
        model: Whose gradients are forgotten first.
        forward: Gives the outputs (B, classes).
        labels: (B,).
        move: Changes the weights by their gradients.
    """
    parameters = list(model.parameters())

    def _step() -> None:
        for parameter in parameters:
            parameter.grad = None
        F.cross_entropy(forward(), labels).backward()
        move()

    return _step


def runnable(form: str, batch: int) -> bool:
    """Batch norm has no statistics of one image."""
    return form != "batch norm" or batch > 1
