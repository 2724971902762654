"""A model file that explains itself: safetensors with the task configuration in its header.

So `evaluate` and `predict` need nothing but the file: network, classes and image preparation are in it.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fedwon.common.arrays import StoredRecord, open_record
from fedwon.common.config import parse
from fedwon.common.errors import BrokenFile, ConfigError, MissingExtra, ModelMismatch, NotConvertible
from fedwon.common.network_state import load_into
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.models import Ablation, ConversionError, MissingLibraryError, build_model

MANIFEST = "fedwon"
MARGIN, SMALL = 4, 10**6
"""A network may have so many times the numbers of its file, and so many more, while it is being built: one that is
converted is built of another one."""


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
        MissingExtra: it is of a library that is not installed here.
        NotConvertible: it is torchvision's or timm's, and has normalization that has no exact counterpart.
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
        except MissingLibraryError as error:
            raise missing_library(error) from None
        except ValueError as error:
            raise ConfigError(f"`model.name: {task.model.name}`: {error}.") from error


def missing_library(error: MissingLibraryError) -> MissingExtra:
    """What to tell who names a network of a library that is not installed."""
    what = str(error)
    return MissingExtra(f"{what[0].upper()}{what[1:]}.", hint=f"pip install 'fedwon[{error.library}]'")


def trained_network(task: TaskConfig, record: StoredRecord) -> nn.Module:
    """Build the network of a task with the arrays of a record.

    What a file says of its network takes no more memory than the arrays in it would go with.

    Raises:
        ModelMismatch: tensors are missing, unknown or of another shape.
    """
    numbers = sum(math.prod(array.shape) for array in record.values())
    try:
        with _no_larger_than(MARGIN * numbers + SMALL):
            model = network(task)
    except RuntimeError as error:  # torch's own, where so much address space cannot be had
        raise ModelMismatch(f"The network that the model file describes cannot be made: {error}") from None
    load_into(model, record)
    return model


@contextmanager
def _no_larger_than(numbers: int) -> Iterator[None]:
    """Keep networks that this thread builds within so many parameters; memory that nobody has written to is not taken.

    Raises:
        ModelMismatch: there would be more; what was made of them is given back.
    """
    own, left = threading.get_ident(), numbers

    def _count(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is not None and threading.get_ident() == own:
            left -= parameter.numel()
            if left < 0:
                raise ModelMismatch(
                    f"The model file describes a network that is larger than what it holds (`{name}` of shape "
                    f"{list(parameter.shape)} is too much)."
                )

    handle = register_module_parameter_registration_hook(_count)
    try:
        yield
    finally:
        handle.remove()
