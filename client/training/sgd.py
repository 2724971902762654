"""torch's plain SGD through its functional form.

`torch.optim.SGD` is the same function behind a class that, when it is made, loads torch's compiler: memory and
seconds of a weak box, for a step that is never compiled (decision 0024).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from fedwon.common.task_settings import TrainingConfig


class SGD:
    """Stochastic gradient descent with momentum and weight decay, whose state begins empty.

    Args:
        parameters: what is trained.
        training: learning rate, momentum and weight decay.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], training: TrainingConfig) -> None:
        self._parameters, self._training = list(parameters), training
        self._momenta: list[Tensor | None] = [None] * len(self._parameters)

    def forget_gradients(self) -> None:
        """Let go of the gradients, so that the next ones need no addition."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step; parameters without a gradient stay as they are."""
        moving = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        momenta = [self._momenta[index] for index in moving]
        sgd(
            [self._parameters[index] for index in moving],
            [gradient for parameter in self._parameters if (gradient := parameter.grad) is not None],
            momenta,
            foreach=False,
            lr=self._training.lr,
            momentum=self._training.momentum,
            weight_decay=self._training.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for index, momentum in zip(moving, momenta, strict=True):
            self._momenta[index] = momentum
