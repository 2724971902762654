"""What a training step asks of a box: memory for weights, gradients and what is kept for the backward pass.

Counted, not measured: the same on every machine. The program itself (Python, torch) comes on top, docs/edge.md says how
much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.common.model_file import network
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig


@dataclass(frozen=True)
class Footprint:
    """Of one method.

    Attributes:
        parameters: numbers in the network that are trained.
        model_bytes: of parameters and buffers, as float32.
        step_bytes: held at once in a training step.
    """

    parameters: int
    model_bytes: int
    step_bytes: int


def footprint(config: RunConfig, classes: tuple[str, ...]) -> Footprint:
    """Count what a step at the configured batch size holds.

    Args:
        config: the run.
        classes: of the network's outputs.
    """
    task = TaskConfig.of(config, run="compare", server_round=1, classes=classes)
    model = network(task).train()
    size, batch = config.images.size, config.training.batch_size
    kept: dict[int, int] = {}

    def _keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tensors = [*model.parameters(), *model.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(_keep, lambda tensor: tensor):
        images = torch.randn(batch, config.images.channels, size, size)
        F.cross_entropy(model(images), torch.zeros(batch, dtype=torch.int64))
    weights = sum(tensor.nbytes for tensor in tensors)
    gradients = sum(tensor.nbytes for tensor in model.parameters())
    momentum = gradients if config.training.momentum else 0
    activations = sum(size for place, size in kept.items() if place not in own)
    parameters = sum(tensor.numel() for tensor in model.parameters())
    return Footprint(parameters, weights, weights + gradients + momentum + activations)
