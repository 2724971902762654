"""A model on a set of images, counted class by class.

The counts (k of n) are what is kept: from them come accuracy, balanced accuracy and paired comparisons.
"""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import nn

from fedwon.client.agreement import agree
from fedwon.client.config import DataConfig
from fedwon.client.decoding import Preparation
from fedwon.client.images import ImageSet, Room, load_images
from fedwon.client.listing import list_site
from fedwon.client.local_state import LocalStates, recall
from fedwon.common.run_config import TaskConfig
from fedwon.models import fold

LOCAL = "local"
"""Folder, beside a checkpoint, of what stays at each site: a folder a site."""
_MEMORY = 4 * 2**30
_BATCH = 64


def scored_images(data: DataConfig, task: TaskConfig) -> ImageSet:
    """The images that a model is scored on: a domain's test part where it has one, else all of its images.

    Raises:
        FedwonError: the domain cannot be read, or its classes are not the model's.
    """
    listing = list_site(data, Path.cwd())
    parts = {"test": listing["test"]} if "test" in listing else dict(listing)
    agreement = agree(parts, task)
    (listed,) = parts.values()
    images, _ = load_images(
        listed.source, agreement.wanted(listed), task.classes, Preparation(task.images), Room(_MEMORY)
    )
    return images


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
        "right": base64.b64encode(np.packbits(by_class.numpy()).tobytes()).decode("ascii"),
    }


def right_images(score: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The bits of `right`: shape (examples,)."""
    packed = np.frombuffer(base64.b64decode(score["right"]), dtype=np.uint8)
    return np.unpackbits(packed)[: int(score["examples"])].astype(bool)


def accuracy(score: Mapping[str, Any]) -> float:
    """Share of images classified rightly, 0 to 1."""
    return float(score["correct"]) / max(int(score["examples"]), 1)


def balanced_accuracy(score: Mapping[str, Any]) -> float:
    """Mean over the classes that have images of the share classified rightly, 0 to 1."""
    pairs = zip(score["class_correct"], score["class_examples"], strict=True)
    return statistics.mean(correct / examples for correct, examples in pairs if examples)


METRICS = {"accuracy": accuracy, "balanced": balanced_accuracy}


def own_layers(folder: Path, task: TaskConfig) -> ArrayRecord | None:
    """What a simulated site keeps to itself, as of the task's round; None if that is nothing."""
    return recall(LocalStates(folder).load(), task.run, before=task.round + 1) if folder.is_dir() else None


def overlaid(model: nn.Module, local: ArrayRecord | None) -> nn.Module:
    """The model with a site's own layers in place of the global ones."""
    if local:
        model.load_state_dict(local.to_torch_state_dict(), strict=False)
    return model
