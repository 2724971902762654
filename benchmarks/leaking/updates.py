"""The updates that are attacked: each kind of them as data, made as the client makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedwon.client.images.image_set import Batch
from fedwon.client.training.local import train
from fedwon.client.training.private import Mechanism, planned, train_privately
from fedwon.common.codec.coding import decode, encode
from fedwon.common.config import parse
from fedwon.common.model_file import network
from fedwon.common.network_state import record_of
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig

CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Case:
    """One kind of update.

    Attributes:
        images: that the update is made of.
        batch: images a step.
        epochs: passes over them.
        method: as in a run.
        codec: the update's.
        noise: standard deviation of Gaussian noise on each number, as a share of the update's root mean square.
        private: noise multiplier of private training (`privacy.examples.noise`) with `clip` 1; 0: not private.
    """

    images: int
    batch: int
    epochs: int = 1
    method: str = "fedwon"
    codec: str = "plain"
    noise: float = 0.0
    private: float = 0.0

    @property
    def steps(self) -> int:
        """Optimizer steps in the update."""
        return self.epochs * -(-self.images // self.batch)


CASES: Mapping[str, Case] = {
    "1 image, 1 step": Case(1, 1),
    "1 image, 1 step, group norm": Case(1, 1, method="fedavg_gn"),
    "1 image, 1 step, int8": Case(1, 1, codec="int8"),
    "1 image, 1 step, topk": Case(1, 1, codec="topk"),
    "1 image, 1 step, noise 1": Case(1, 1, noise=1.0),
    "1 image, 1 step, noise 10": Case(1, 1, noise=10.0),
    "1 image, 1 step, private, noise 0.1": Case(1, 1, private=0.1),
    "1 image, 1 step, private, noise 1": Case(1, 1, private=1.0),
    "8 images, 1 step, private, noise 1": Case(8, 8, private=1.0),
    "1 image, 8 steps": Case(1, 1, epochs=8),
    "4 images, 1 step": Case(4, 4),
    "8 images, 8 steps of 1": Case(8, 1),
    "8 images, 1 step (or the sum of 8 sites)": Case(8, 8),
    "8 images, 1 step, batch norm": Case(8, 8, method="fedavg"),
    "32 images, 1 step": Case(32, 32),
    "32 images, 32 steps of 1": Case(32, 1),
}


class Few:
    """Images as training takes them.

    Args:
        pixels: (N, 1, S, S), prepared.
        labels: (N).
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels, self.classes = pixels, labels, CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, rows: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield the images of these rows, batch by batch."""
        for some in rows:
            yield Batch(self.pixels[list(some)], self.labels[list(some)])


def task_of(case: Case, seed: int) -> TaskConfig:
    """The task that a site would be given."""
    config = parse(
        RunConfig,
        {
            "method": case.method,
            "seed": seed,
            "model": {"name": "digit_cnn", "width": 0.1},
            "images": {"size": 28, "channels": 1, "mean": [0.5], "std": [0.5]},
            "training": {"lr": 0.01, "epochs": case.epochs, "batch_size": case.batch},
        },
        "benchmarks.leakage",
    )
    return TaskConfig.of(config, run="leakage", server_round=1, classes=CLASSES)


def update_of(case: Case, task: TaskConfig, secret: Few, seed: int) -> dict[str, Tensor]:
    """What the server sees: by parameter, the way from the global model to what the site sent."""
    model = network(task)
    before = record_of(model)
    if case.private:
        plan = planned(len(secret), case.batch, task.training, case.private)
        train_privately(model, secret, task.training, plan, Mechanism(1.0, case.private), seed=seed)  # type: ignore[arg-type]
    else:
        train(model, secret, task.training, batch_size=case.batch, minimum_batch=task.minimum_batch, seed=seed)  # type: ignore[arg-type]
    sent = record_of(model)
    if case.codec != "plain":
        parts, _ = encode(sent, before, case.codec, f"{seed}", ArrayRecord())
        sent = decode(parts, before)
    rng = np.random.default_rng(seed)
    names = [name for name, _ in network(task).named_parameters()]
    moved = {name: before[name].numpy().astype(np.float64) - sent[name].numpy() for name in names}
    size = np.sqrt(sum(float((part**2).sum()) for part in moved.values()) / sum(part.size for part in moved.values()))
    noisy = {name: part + rng.normal(0, case.noise * size, part.shape) for name, part in moved.items()}
    return {name: torch.from_numpy(part).float() for name, part in noisy.items()}
