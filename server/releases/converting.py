"""`fedwon-server convert`: a pretrained network of torchvision or timm from a file, as a file without normalization.

The file that comes out explains itself: its header names the architecture, so that :func:`read_converted` needs
nothing else. Weights come in and go out as safetensors; a pickle is never opened.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from flwr.app import ArrayRecord
from pydantic import Field
from torch import Tensor, nn

from fedwon.common.arrays import Blob, StoredRecord, open_record, write_record
from fedwon.common.config import Settings, parse
from fedwon.common.errors import BrokenFile, ConfigError, ModelMismatch, NotConvertible
from fedwon.common.model_file import missing_library
from fedwon.common.network_state import load_into, overlay, record_of
from fedwon.common.version import VERSION
from fedwon.models import MissingLibraryError, UnknownModelError
from fedwon.models.clipping import final_layer
from fedwon.models.convert import ConversionError, convert, detect, largest_difference
from fedwon.models.findings import Finding
from fedwon.models.outside_networks import check_known, image_size, original

MANIFEST = "fedwon.converted"
_PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar"})
_AS_SAFETENSORS = (
    'Where you trust it: python -c "import torch; from safetensors.torch import save_file; save_file({name: '
    "value.contiguous() for name, value in torch.load('{}', weights_only=True).items()}, 'model.safetensors')\""
)


class ConvertedNetwork(Settings):
    """What the header of a converted file says."""

    format: Literal[1]
    version: str
    """Version of fedwon that converted it."""
    architecture: Annotated[str, Field(max_length=100)]
    """Such as `torchvision:resnet18` or `timm:regnety_004`."""
    classes: Annotated[int, Field(ge=1, le=100_000)]
    """Outputs of the network."""
    weights: str
    """SHA-256 of the file that was converted."""


@dataclass(frozen=True)
class Conversion:
    """What came of it.

    Attributes:
        findings: What was found and what became of it.
        blob: The file that was written.
        new: Tensors that the weights file has for another number of classes, drawn anew.
        difference: Largest difference to the original on random images, relative to the largest output.
    """

    findings: list[Finding]
    blob: Blob
    new: tuple[str, ...]
    difference: float


def explain_architecture(architecture: str) -> list[Finding]:
    """Find what would become of each normalization of a network.

    Raises:
        ConfigError: there is no such network.
    """
    return detect(build(architecture))


def convert_file(architecture: str, weights: Path, out: Path, classes: int | None = None) -> Conversion:
    """Convert a network's weights and prove the result on random images.

    Args:
        architecture: Such as `torchvision:resnet18` or `timm:regnety_004`.
        weights: Safetensors file of the original's state dict.
        out: The file to write; one that is there is replaced.
        classes: Outputs of the network; those of the file if None. With another number the final layer is drawn anew.

    Raises:
        ConfigError: there is no such network, or `out` is `weights`.
        NotConvertible: it has normalization that has no exact counterpart.
        BrokenFile: the weights are no whole safetensors file.
        ModelMismatch: they are of another network.
        StorageError: a file cannot be read or written.
    """
    if out.resolve() == weights.resolve():
        raise ConfigError(f"{out} is the file to be converted.", hint="Give --out another name.")
    _check_name(architecture)
    record = open_weights(weights)
    model, new = _load(architecture, record, classes)
    findings, images = detect(model), _images(architecture)
    converted = _converted(architecture, model, images)
    described = ConvertedNetwork(
        format=1, version=VERSION, architecture=architecture, classes=_outputs(model), weights=record.blob.digest
    )
    blob = write_record(record_of(converted), out, {MANIFEST: described.model_dump_json()})
    return Conversion(findings, blob, new, largest_difference(model, converted, images))


def description(record: StoredRecord) -> ConvertedNetwork | None:
    """Return what the header of a converted file says; None if it says nothing of the kind.

    Raises:
        ConfigError: it is of another version.
    """
    try:
        described = json.loads(record.metadata[MANIFEST])
    except (KeyError, ValueError, RecursionError):
        return None
    return parse(ConvertedNetwork, described, f"the description in {record.blob.path}")


def read_converted(path: Path) -> nn.Module:
    """Build the network of a converted file, with its weights, in training mode.

    Raises:
        BrokenFile: it is no whole safetensors file, or not one that `convert_file` wrote.
        ConfigError: it is of another version.
        ModelMismatch: its tensors are not those of its architecture.
    """
    record = open_record(path)
    network = description(record)
    if network is None:
        raise BrokenFile(f"{path} was not written by `fedwon-server convert`.", hint="Convert the original file.")
    model = convert(build(network.architecture, network.classes))
    load_into(model, record)
    return model


def build(architecture: str, classes: int | None = None) -> nn.Module:
    """Build a network, its weights drawn from a fixed seed; nothing is downloaded.

    Args:
        architecture: `torchvision:` or `timm:`, and the name of one of its classifiers.
        classes: Outputs; the library's own number (1000 as a rule) if None.

    Raises:
        ConfigError: there is no such network.
    """
    _check_name(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return original(architecture, classes)


def _check_name(architecture: str) -> None:
    try:
        check_known(architecture)
    except MissingLibraryError as error:
        raise missing_library(error) from None
    except UnknownModelError as error:
        what, _, near = str(error).partition("; ")
        raise ConfigError(f"{what[0].upper()}{what[1:]}.", hint=f"{near[0].upper()}{near[1:]}.") from None


def open_weights(path: Path) -> StoredRecord:
    """Open a weights file.

    Raises:
        BrokenFile: it is a pickle, or no whole safetensors file.
        StorageError: it cannot be read.
    """
    if path.suffix.lower() in _PICKLES and path.exists():
        raise BrokenFile(
            f"{path} looks like a pickle, which can run code when it is opened; fedwon reads safetensors only.",
            hint=_AS_SAFETENSORS.replace("{}", path.name),
        )
    return open_record(path)


def _load(architecture: str, record: StoredRecord, classes: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the network with the file's weights; and the names of what the file has for other classes."""
    theirs = _classes_in(architecture, record)
    model = build(architecture, classes or theirs)
    state = model.state_dict()
    new = _other_classes(state, record, classes or theirs, theirs)
    # Files that others wrote often leave the counters out, which a converted network has no use for.
    names = [name for name in state if name not in new and (name in record or not name.endswith("num_batches_tracked"))]
    overlay(model, ArrayRecord({name: array for name, array in record.items() if name not in new}), names)
    return model, new


def _classes_in(architecture: str, record: StoredRecord) -> int:
    weight = f"{final_layer(build(architecture))}.weight"
    if weight not in record:
        raise ModelMismatch(f"{record.blob.path} has no `{weight}`, the final layer of {architecture}.")
    return int(record[weight].shape[0])


def _other_classes(state: dict[str, Tensor], record: StoredRecord, classes: int, theirs: int) -> tuple[str, ...]:
    """Names of tensors that differ in nothing but the number of classes."""
    return tuple(
        name
        for name, tensor in state.items()
        if classes != theirs and name in record
        if tuple(tensor.shape) == (classes, *record[name].shape[1:]) and record[name].shape[:1] == (theirs,)
    )


def _converted(architecture: str, model: nn.Module, images: Tensor) -> nn.Module:
    try:
        return convert(model, example=images)
    except ConversionError as error:
        raise NotConvertible(f"{architecture} cannot be converted: {_in_short(error)}") from error


def _in_short(error: ConversionError) -> str:
    barred: Collection[Finding] = [finding for finding in error.findings if not finding.exact]
    if not barred:
        return str(error)
    kinds = ", ".join(dict.fromkeys(finding.layer for finding in barred))
    first = next(iter(barred))
    return (
        f"{len(barred)} of its layers ({kinds}) have no exact counterpart; {first.where or 'the network'}: {first.why}."
    )


def _outputs(model: nn.Module) -> int:
    return int(model.state_dict()[f"{final_layer(model)}.weight"].shape[0])


def _images(architecture: str) -> Tensor:
    size = image_size(architecture)
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
