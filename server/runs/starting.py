"""What a run starts from: random weights, or those of a model file; checked before any site is waited for."""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import ArrayRecord

from fedwon.common.arrays import StoredRecord
from fedwon.common.errors import BrokenFile, ConfigError, ModelMismatch
from fedwon.common.model_file import MANIFEST, network, read_model, trained_network
from fedwon.common.network_state import record_of
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.models import is_outside
from fedwon.server.releases.converting import description, open_weights


def check_start(config: RunConfig) -> None:
    """Build the network and open the model file: what is wrong there no site can mend.

    Raises:
        ConfigError: there is no such network, or not with these settings.
        StorageError: the model file cannot be read.
        BrokenFile: it is none of fedwon's.
        ModelMismatch: it is of another network.
    """
    classes = config.classes or ("a", "b")
    # Without memory, as far as possible: to take normalization out, its values are looked at.
    with torch.device("cpu" if is_outside(config.model.name) else "meta"):
        network(TaskConfig.of(config, run="check", server_round=0, classes=classes))
    if config.pretrained is not None:
        _check_same_network(config, _opened(config.pretrained))
    elif is_outside(config.model.name) and config.rules.normalization == "none":
        raise ConfigError(
            f"`model.name: {config.model.name}` without batch norm cannot be trained from random weights.",
            hint="Convert pretrained weights (docs/convert.md) and name the file in `pretrained`, or take `resnet18`, "
            "`mobilenet_v2` or `efficientnet_b0`, which keep their signal without normalization.",
        )


def initial_weights(config: RunConfig, task: TaskConfig) -> ArrayRecord:
    """Return the weights before any training.

    Args:
        config: the run.
        task: what its sites are told.

    Raises:
        StorageError: the model file cannot be read, or does not fit.
    """
    if config.pretrained is None:
        return record_of(network(task))
    record = _opened(config.pretrained)
    _check_same_network(config, record)
    _check_same_classes(task, record)
    return record_of(trained_network(task, record))


def _opened(path: str) -> StoredRecord:
    record = open_weights(Path(path))
    if MANIFEST not in record.metadata and description(record) is None:
        raise BrokenFile(
            f"{path} was not written by fedwon, so nothing tells which network it is of.",
            hint="`fedwon-server convert` makes a file to start from of weights that you have.",
        )
    return record


def _check_same_network(config: RunConfig, record: StoredRecord) -> None:
    converted = description(record)
    found = converted.architecture if converted else read_model(record.blob.path)[0].model.name
    if found != config.model.name:
        raise ModelMismatch(
            f"{record.blob.path} is of `{found}`, and the run trains `{config.model.name}`.",
            hint=f"Set `model.name: {found}`, or name another file in `pretrained`.",
        )
    if converted and config.rules.normalization != "none":
        raise ModelMismatch(
            f"{record.blob.path} was converted, it has no batch norm, and method `{config.method}` needs it.",
            hint="Use method `fedwon`.",
        )


def _check_same_classes(task: TaskConfig, record: StoredRecord) -> None:
    converted = description(record)
    if converted and converted.classes != len(task.classes):
        raise ModelMismatch(
            f"{record.blob.path} has {converted.classes} classes, and this federation has {len(task.classes)} "
            f"({', '.join(task.classes)}).",
            hint=f"Convert the original with `--classes {len(task.classes)}`: its final layer is then new.",
        )
    if not converted and (theirs := read_model(record.blob.path)[0].classes) != task.classes:
        raise ModelMismatch(
            f"{record.blob.path} tells apart {', '.join(theirs)}; this federation {', '.join(task.classes)}.",
            hint="Outputs mean classes by their position: set `classes` in the configuration to those of the file.",
        )
