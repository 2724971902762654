"""The functional form of SGD against torch's own class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedwon.client.training.sgd import SGD
from fedwon.common.task_settings import TrainingConfig


def network() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 1e-2), (0.5, 1e-3)])
def test_the_bits_are_those_of_torchs_class(momentum, weight_decay):
    training = TrainingConfig(lr=0.1, momentum=momentum, weight_decay=weight_decay)
    ours, theirs = network(), network()
    own = SGD(ours.parameters(), training)
    twin = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    for step in range(5):
        inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, own), (theirs, twin)):
            optimizer.forget_gradients() if optimizer is own else optimizer.zero_grad()
            model(inputs).square().sum().backward()
            if step == 2:  # a layer that is out of use for a step keeps its momentum
                model[0].bias.grad = None
            optimizer.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, other)
