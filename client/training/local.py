"""Local training at one site: plain SGD, and evaluation.

Both repeat bit for bit on the same machine with the same number of threads: the order of the images and whatever the
network draws follow from one seed, and the random state of the rest of the process is left as it was.

Source of the proximal term: T. Li et al., FedProx, MLSys 2020, equation 2. Momentum buffers start empty each round, as
in FedBN's code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own name for it

from fedwon.client.images.augmentation import augmentation
from fedwon.client.images.image_set import Batch, ImageSet
from fedwon.client.training.progress import raise_if_cancelled, report
from fedwon.client.training.sgd import SGD
from fedwon.common.errors import TaskFailed
from fedwon.common.task_settings import TrainingConfig
from fedwon.models import AdaptiveGradientClipping, fold, freeze_statistics, laid_out

EVALUATION_BATCH = 64
"""Images evaluated at once; a matter of speed and memory only."""


@dataclass(frozen=True)
class TrainingOutcome:
    """What one round of local training came to.

    Attributes:
        loss: mean cross entropy over all images seen, each before the step it led to; without the proximal term.
        examples: number of training images.
        steps: optimizer steps taken.
        seconds: wall-clock time.
        clipped_fraction: share of units whose gradient was clipped, mean over the steps; 0 without clipping.
    """

    loss: float
    examples: int
    steps: int
    seconds: float
    clipped_fraction: float


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on a set of images.

    Attributes:
        loss: mean cross entropy, 0 if there are no images.
        correct: number of images whose class got the largest output.
        examples: number of images.
        class_correct: `correct` by class.
        class_examples: `examples` by class.
    """

    loss: float
    correct: int
    examples: int
    class_correct: tuple[int, ...]
    class_examples: tuple[int, ...]


def train(
    model: nn.Module,
    images: ImageSet,
    training: TrainingConfig,
    *,
    batch_size: int,
    minimum_batch: int,
    seed: int,
    frozen_statistics: bool = False,
) -> TrainingOutcome:
    """Train a model in place.

    No image is ever dropped: the last batch of an epoch is smaller, or larger where it would fall below
    `minimum_batch` (see `batch_sizes`). With `training.steps` the epochs go on, shuffled anew, until so many steps
    are done.

    Args:
        model: the network with the global weights; what it returns are logits (B, classes).
        images: what to train on.
        training: learning rate, momentum, weight decay, clipping, proximal term, epochs or steps.
        batch_size: images a step.
        minimum_batch: the smallest batch that the network can be trained on.
        seed: everything random follows from it.
        frozen_statistics: normalization layers use their running statistics and leave them as they are.

    Raises:
        TaskFailed: the loss is not finite any more, or there are too few images for this network.
        Cancelled: the task was given up meanwhile.
    """
    sizes = batch_sizes(len(images), batch_size, minimum_batch)
    total = training.steps or training.epochs * len(sizes)
    stepper = Stepper(model, training)
    started = time.monotonic()
    loss_sum = seen = 0.0
    clipped = 0.0
    model.train()
    if frozen_statistics:
        freeze_statistics(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with closing(images.batches(_orders(sizes, total, seed))) as batches:
            for done, batch in enumerate(batches):
                raise_if_cancelled()
                report(done, total)
                loss = stepper.step(batch)
                _check_finite(loss, f"in step {done + 1} of {total} of local training")
                loss_sum += loss * len(batch.labels)
                seen += len(batch.labels)
                clipped += stepper.clipped
    report(total, total)
    return TrainingOutcome(
        loss=loss_sum / seen,
        examples=len(images),
        steps=total,
        seconds=time.monotonic() - started,
        clipped_fraction=clipped / total,
    )


def batch_sizes(images: int, batch_size: int, minimum_batch: int) -> list[int]:
    """Sizes of the batches of one epoch.

    The last batch takes what is left. Where that is less than `minimum_batch` (one image, for batch norm) it joins the
    batch before it: no image is dropped, and none is used twice.

    Args:
        images: number of images.
        batch_size: images a batch.
        minimum_batch: the smallest batch that the network can be trained on.

    Raises:
        TaskFailed: there is no image, or fewer than `minimum_batch`, or the batches are to be smaller than that.
    """
    if batch_size < minimum_batch:
        raise TaskFailed(
            f"This site trains on batches of {batch_size}, and this network needs {minimum_batch} (batch norm).",
            hint="Raise `batch_size` in client.yaml, or use method `fedwon`, which has no batch norm.",
        )
    if images < max(minimum_batch, 1):
        raise TaskFailed(
            f"Images to train on at this site: {images}; this network needs at least {max(minimum_batch, 1)}.",
            hint="Give the site more images; method `fedwon` can train on a single one.",
        )
    whole, left = divmod(images, batch_size)
    sizes = [batch_size] * whole
    if left and left < minimum_batch:
        sizes[-1] += left
    elif left:
        sizes.append(left)
    return sizes


def evaluate(model: nn.Module, images: ImageSet, *, batch_size: int = EVALUATION_BATCH) -> Evaluation:
    """Evaluate a model.

    Networks are evaluated with their stored statistics, so no image influences another. The batch size changes the
    loss by no more than float32 rounding (relative 1e-5), for matrix products round differently at other sizes.

    Args:
        model: the network; left as it was.
        images: what to evaluate on; may be empty.
        batch_size: images at once.

    Raises:
        TaskFailed: the loss is not finite: the model has diverged.
        Cancelled: the task was given up meanwhile.
    """
    classes = len(images.classes)
    correct, examples = torch.zeros(classes, dtype=torch.int64), torch.zeros(classes, dtype=torch.int64)
    loss_sum = 0.0
    network = fold(model).eval()  # the same function bit for bit, with the weights standardized once
    starts = range(0, len(images), batch_size)
    rows = (range(start, min(start + batch_size, len(images))) for start in starts)
    with torch.inference_mode(), closing(images.batches(rows)) as batches:
        for batch in batches:
            raise_if_cancelled()
            labels = batch.labels
            logits = network(laid_out(model, batch.inputs.to(_device(model)))).cpu()
            loss_sum += F.cross_entropy(logits.double(), labels, reduction="sum").item()
            examples += labels.bincount(minlength=classes)
            correct += labels[logits.argmax(dim=1) == labels].bincount(minlength=classes)
    _check_finite(loss_sum, "when the model was evaluated, before any training here")
    return Evaluation(
        loss=loss_sum / max(len(images), 1),
        correct=int(correct.sum()),
        examples=len(images),
        class_correct=tuple(correct.tolist()),
        class_examples=tuple(examples.tolist()),
    )


class Stepper:
    """Takes optimizer steps and keeps what they need in between.

    Args:
        model: the network.
        training: as of `train`.
    """

    def __init__(self, model: nn.Module, training: TrainingConfig) -> None:
        self.model = model
        self.device = _device(model)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = SGD(self.parameters, training)
        self.augment = augmentation(training.augmentation)
        self.mu = training.proximal_mu or 0.0
        self.anchor = [parameter.detach().clone() for parameter in self.parameters] if self.mu else []
        self.clipping = AdaptiveGradientClipping(model, training.clipping) if training.clipping else None
        self.clipped = 0.0
        """Share of units clipped in the last step."""

    def step(self, batch: Batch) -> float:
        """Take one step and return the loss before it; none is taken if that is not finite."""
        self.optimizer.forget_gradients()
        inputs = laid_out(self.model, self.augment(batch.inputs).to(self.device))
        loss: Tensor = F.cross_entropy(self.model(inputs), batch.labels.to(self.device))
        value = loss.item()
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
            self._move()
        return value

    def move(self, gradients: Iterable[Tensor]) -> None:
        """Take one step by these gradients, one a parameter."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self._move()

    def _move(self) -> None:
        self._pull_to_anchor()
        self.clipped = self.clipping.clip() if self.clipping else 0.0
        self.optimizer.step()

    def _pull_to_anchor(self) -> None:
        """Add the gradient of mu/2 * ||w - w_global||^2, which is cheaper than to differentiate it."""
        for parameter, anchor in zip(self.parameters, self.anchor, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self.mu)


def _orders(sizes: list[int], total: int, seed: int) -> Iterator[list[int]]:
    """Rows of each of `total` batches: epoch after epoch, each in a new order."""
    generator = torch.Generator().manual_seed(seed)
    taken = 0
    while taken < total:
        order = iter(torch.randperm(sum(sizes), generator=generator).tolist())
        for size in sizes[: total - taken]:
            taken += 1
            yield list(islice(order, size))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _check_finite(loss: float, when: str) -> None:
    if not math.isfinite(loss):
        raise TaskFailed(
            f"The loss became {loss} {when}.",
            hint="Lower `training.lr`, or set `training.clipping` (such as 0.16) in the run's configuration.",
        )
