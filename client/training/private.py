"""Local training with differential privacy of single images: DP-SGD.

Source: Abadi et al., "Deep learning with differential privacy", CCS 2016 (arXiv:1607.00133), algorithm 1, as Opacus
counts it. In each step every image is in the batch with probability `rate`, by itself (Poisson sampling: what the
accountant assumes); its gradient, over all parameters, is shortened to `clip`; noise of `noise * clip` is added to the
sum; and that, over the expected number of images, is the gradient. Batches so differ in size, and may be empty: then
the step is noise alone.

What comes after costs nothing, for it sees the noisy gradient only: the proximal term, momentum, weight decay, and
adaptive gradient clipping (AGC), which keeps the noise from moving small weights far. AGC before the noise would bound
no single image; it takes the place of nothing here. Who is in a batch and the noise come from `fedwon.common.noise`
and not from the run's seed, which the server knows: private training does not repeat bit for bit.

The loss is not told: it is computed from the training images, without noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwon.client.images.image_set import Batch, ImageSet
from fedwon.client.training.grad_samplers import ExampleGradients
from fedwon.client.training.local import Stepper, TrainingOutcome
from fedwon.client.training.progress import raise_if_cancelled, report
from fedwon.common.accounting import Spent
from fedwon.common.errors import TaskFailed
from fedwon.common.noise import Draw, normal, uniform
from fedwon.common.task_settings import TrainingConfig

HELD = 2**25
"""Numbers of single images' gradients in memory at once (128 MiB); a large batch is taken a few images at a time."""


@dataclass(frozen=True)
class Mechanism:
    """How gradients are made private.

    Attributes:
        clip: longest gradient of one image.
        noise: standard deviation of the noise on a sum, over `clip`; 0 for none, which is not private.
        uniform: draws who is in a batch.
        normal: draws the noise.
    """

    clip: float
    noise: float
    uniform: Draw = uniform
    normal: Draw = normal


def planned(images: int, batch_size: int, training: TrainingConfig, noise: float) -> Spent:
    """Return what a round of private training costs: `training.epochs` passes are as many steps as without.

    Args:
        images: number of training images.
        batch_size: images a step, on average.
        training: steps or epochs.
        noise: the noise multiplier.

    Raises:
        TaskFailed: there is no image.
    """
    if images < 1:
        raise TaskFailed(
            "This site has no image to train on.", hint="Give it images; `fedwon-client check` counts them."
        )
    steps = training.steps or training.epochs * math.ceil(images / batch_size)
    return Spent(noise, min(1.0, batch_size / images), steps)


def train_privately(
    model: nn.Module, images: ImageSet, training: TrainingConfig, plan: Spent, mechanism: Mechanism, *, seed: int
) -> TrainingOutcome:
    """Train a model in place.

    Args:
        model: the network with the global weights; what it returns are logits (B, classes).
        images: what to train on.
        training: learning rate, momentum, weight decay, clipping (AGC), proximal term, augmentation.
        plan: steps, and how probable an image is in each.
        mechanism: how gradients are made private.
        seed: dropout and augmentation follow from it, which may be known.

    Returns:
        What it came to; `loss` is not a number.

    Raises:
        TaskFailed: there is no gradient of a single image in this network.
        Cancelled: the task was given up meanwhile.
    """
    started = time.monotonic()
    model.train()
    stepper, clipped = Stepper(model, training), 0.0
    expected = plan.rate * len(images)
    lots = [_drawn(mechanism, len(images), plan.rate) for _ in range(plan.steps)]
    at_once = max(1, HELD // sum(parameter.numel() for parameter in stepper.parameters))
    chunks = [[lot[start : start + at_once] for start in range(0, len(lot), at_once)] for lot in lots]
    gradients = ExampleGradients(model)
    with closing(gradients), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with closing(images.batches(chunk for lot in chunks for chunk in lot)) as batches:
            for done, lot in enumerate(chunks):
                raise_if_cancelled()
                report(done, plan.steps)
                totals = _clipped_sum(gradients, stepper, [next(batches) for _ in lot], mechanism.clip)
                stepper.move([_noisy(total, mechanism) / expected for total in totals])
                clipped += stepper.clipped
    report(plan.steps, plan.steps)
    return TrainingOutcome(
        loss=math.nan,
        examples=len(images),
        steps=plan.steps,
        seconds=time.monotonic() - started,
        clipped_fraction=clipped / plan.steps,
    )


def clipped_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """Add up the gradients of single images, each shortened to a length over all parameters together.

    One that is not finite counts as none: whatever an image does to the network, its part is bounded.

    Args:
        gradients: by parameter, (B, *shape).
        clip: the length.

    Returns:
        By parameter, (*shape).
    """
    norms = torch.stack([part.flatten(1).norm(dim=1) for part in gradients]).norm(dim=0)
    factors = torch.where(norms.isfinite(), (clip / norms.clamp(min=1e-30)).clamp(max=1.0), 0.0)
    if not bool(norms.isfinite().all()):
        gradients = [torch.where(norms.isfinite().view(-1, *[1] * (part.ndim - 1)), part, 0.0) for part in gradients]
    return [(factors @ part.flatten(1)).view(part.shape[1:]) for part in gradients]


def _drawn(mechanism: Mechanism, images: int, rate: float) -> list[int]:
    return torch.nonzero(torch.from_numpy(mechanism.uniform(images) < rate)).flatten().tolist()


def _clipped_sum(gradients: ExampleGradients, stepper: Stepper, batches: Sequence[Batch], clip: float) -> list[Tensor]:
    totals = [torch.zeros_like(parameter) for parameter in stepper.parameters]
    for batch in batches:
        inputs = stepper.augment(batch.inputs).to(stepper.device)
        found = clipped_sum(gradients.of(inputs, batch.labels.to(stepper.device)), clip)
        for total, part in zip(totals, found, strict=True):
            total.add_(part)
    return totals


def _noisy(total: Tensor, mechanism: Mechanism) -> Tensor:
    """Add noise, in float64; it is rounded together with the sum."""
    drawn = torch.from_numpy(mechanism.normal(total.numel())).view(total.shape)
    exact = total.cpu().double() + drawn * (mechanism.noise * mechanism.clip)
    return exact.to(total)
