"""A model file that explains itself: safetensors with the task configuration in its header.

So `evaluate` and `predict` need nothing but the file: network, classes and image preparation are in it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from fedwon.common.arrays import StoredRecord, open_record
from fedwon.common.config import parse
from fedwon.common.errors import BrokenFile, ConfigError, NotConvertible
from fedwon.common.network_state import load_into
from fedwon.common.run_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.models import Ablation, ConversionError, build_model

MANIFEST = "fedwon"


def describe(task: TaskConfig) -> dict[str, str]:
    """Return the text entries that make a model file explain itself."""
    return {MANIFEST: json.dumps({"format": 1, "version": VERSION, "task": task.model_dump(mode="json")})}


def read_model(path: Path) -> tuple[TaskConfig, StoredRecord]:
    """Open a model file.

    Returns:
        What it was trained as, and its arrays.

    Raises:
        BrokenFile: it is not a whole safetensors file, or was not written by fedwon.
        ConfigError: its description is of another version.
    """
    record = open_record(path)
    try:
        described = json.loads(record.metadata[MANIFEST])["task"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise BrokenFile(
            f"{path} holds tensors but not what fedwon needs to know about them.",
            hint="Use a file that a run of fedwon wrote (runs/<run>/model.safetensors).",
        ) from None
    return parse(TaskConfig, described, f"the description in {path}"), record


def network(task: TaskConfig) -> nn.Module:
    """Build the network of a task, with weights drawn from the task's seed; the process's generator is left alone.

    Raises:
        ConfigError: there is no such network, or not with these settings.
        NotConvertible: it is torchvision's, and has normalization that has no exact counterpart.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        try:
            return build_model(
                task.model.name,
                normalization=task.normalization,
                num_classes=len(task.classes),
                width=task.model.width,
                in_channels=task.images.channels,
                image_size=task.images.size,
                relu_constant=task.model.relu_constant,
                linear=task.model.linear,
                dropout=task.model.dropout,
                skip_gain=task.model.skip_gain,
                ablation=Ablation(**task.model.ablation.model_dump()),
            )
        except ConversionError as error:
            raise NotConvertible(
                f"`model.name: {task.model.name}` has normalization that cannot be taken out."
            ) from error
        except ValueError as error:
            raise ConfigError(f"`model.name: {task.model.name}`: {error}.") from error


def trained_network(task: TaskConfig, record: StoredRecord) -> nn.Module:
    """Build the network of a task with the arrays of a record.

    Raises:
        ModelMismatch: tensors are missing, unknown or of another shape.
    """
    model = network(task)
    load_into(model, record)
    return model
