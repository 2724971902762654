"""A model on a set of images, counted class by class, and what a place is served with.

The counts (k of n) are what is kept: from them come accuracy, balanced accuracy and paired comparisons.
"""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor, nn

from fedwon.client.images.image_set import ImageSet
from fedwon.client.training.local_state import LocalStates, recall
from fedwon.common.arrays import StoredRecord
from fedwon.common.model_file import trained_network
from fedwon.common.task_config import TaskConfig
from fedwon.models import fold

LOCAL = "local"
"""Folder, beside a checkpoint, of what stays at each site: a folder a site."""
_BATCH = 64


def counts(model: nn.Module, images: ImageSet) -> dict[str, Any]:
    """Count what the model gets right, in all and by class, and note for each image whether it was right.

    Returns:
        `correct`, `examples`, `class_correct`, `class_examples`, and `right`: a bit an image, packed, base64, class by
        class, in an order that is the same for every model. Paired comparisons need it.
    """
    network = fold(model).eval()
    rows = [range(start, min(start + _BATCH, len(images))) for start in range(0, len(images), _BATCH)]
    with torch.inference_mode():
        guesses = [network(batch.inputs).argmax(dim=1) for batch in images.batches(rows)]
    right = torch.cat(guesses) == images.labels if guesses else torch.zeros(0, dtype=torch.bool)
    by_class = right[images.labels.argsort(stable=True)]
    classes = len(images.classes)
    return {
        "correct": int(right.sum()),
        "examples": len(images),
        "class_correct": images.labels[right].bincount(minlength=classes).tolist(),
        "class_examples": images.labels.bincount(minlength=classes).tolist(),
        "right": packed(by_class.numpy()),
    }


def right_images(score: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The bits of `right`: shape (examples,)."""
    stored = np.frombuffer(base64.b64decode(score["right"]), dtype=np.uint8)
    return np.unpackbits(stored)[: int(score["examples"])].astype(bool)


def accuracy(score: Mapping[str, Any]) -> float:
    """Share of images classified rightly, 0 to 1."""
    return float(score["correct"]) / max(int(score["examples"]), 1)


def balanced_accuracy(score: Mapping[str, Any]) -> float:
    """Mean over the classes that have images of the share classified rightly, 0 to 1."""
    pairs = zip(score["class_correct"], score["class_examples"], strict=True)
    return statistics.mean(float(correct) / float(examples) for correct, examples in pairs if examples)


METRICS = {"accuracy": accuracy, "balanced": balanced_accuracy}


class Served(NamedTuple):
    """What a site or a new domain is served with.

    Attributes:
        network: takes images to scores of the classes.
        means: in words.
    """

    network: nn.Module
    means: str


class Ensemble(nn.Module):
    """The mean of several networks' probabilities, as logits.

    Args:
        networks: all of the same classes.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, C, H, W)` to logits `(N, classes)`."""
        return torch.stack([network(x).softmax(dim=1) for network in self.networks]).mean(dim=0).log()


def served(task: TaskConfig, record: StoredRecord, local: Path, name: str) -> Served:
    """What a place is served with: the global model, with its own layers where it has such.

    Where sites keep layers of their own, the global model is not whole: a place that took no part gets the mean of the
    probabilities that the sites' models give.

    Args:
        task: what the model was trained as.
        record: the global model.
        local: the folder of what stays at the sites, a folder a site.
        name: of the place.
    """
    if task.keeps == "nothing":
        return Served(trained_network(task, record), "the global model")
    own = _own_layers(local / name, task)
    if own is not None:
        return Served(overlaid(trained_network(task, record), own), "the global model with its own layers")
    return ensemble_of_others(task, record, local, name)


def ensemble_of_others(task: TaskConfig, record: StoredRecord, local: Path, name: str) -> Served:
    """What a place is served with that has no layers of its own: the mean of the other sites' models.

    Args:
        task: what the model was trained as; a method that keeps layers at the sites.
        record: the global model.
        local: the folder of what stays at the sites, a folder a site.
        name: of the place, whose own layers are not used.
    """
    folders = [folder for folder in sorted(local.glob("*")) if folder.name != name]
    others = [layers for folder in folders if (layers := _own_layers(folder, task)) is not None]
    if not others:
        return Served(trained_network(task, record), "the global model, whose local layers nobody trained")
    networks = [overlaid(trained_network(task, record), layers) for layers in others]
    return Served(Ensemble(networks), f"the mean of {len(networks)} sites' models")


def _own_layers(folder: Path, task: TaskConfig) -> ArrayRecord | None:
    """What a simulated site keeps to itself, as of the task's round; None if that is nothing."""
    return recall(LocalStates(folder).load(), task.run, before=task.round + 1) if folder.is_dir() else None


def overlaid(model: nn.Module, local: ArrayRecord) -> nn.Module:
    """The model with a site's own layers in place of the global ones."""
    model.load_state_dict(local.to_torch_state_dict(), strict=False)
    return model


def packed(right: NDArray[np.bool_]) -> str:
    """Bits as text: what `right_images` reads."""
    return base64.b64encode(np.packbits(right).tobytes()).decode("ascii")
