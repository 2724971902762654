"""From a trained network to the files of a release, each compared with the network before it is written."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedwon.common.arrays import write_record
from fedwon.common.errors import MissingExtra, NotReleasable
from fedwon.common.files import write_atomic
from fedwon.common.logs import hushed
from fedwon.common.network_state import record_of
from fedwon.common.pixels import Inputs, Preparation
from fedwon.common.release import INPUT, ONNX, ONNX_INT8, OUTPUT, WEIGHTS, Parity
from fedwon.common.task_config import TaskConfig
from fedwon.common.task_settings import ImageConfig
from fedwon.models import fold
from fedwon.models.export import to_onnx
from fedwon.server.releases.parity import Images, Sample, compare, released_outputs, sample, trained_outputs
from fedwon.server.releases.wish import Wish

EXTRA = "pip install 'fedwon[release]'"


@dataclass(frozen=True)
class Exported:
    """A network in the forms of a release.

    Attributes:
        network: folded; its layers are torch's own.
        files: the ONNX files' bytes by name.
        parity: how far each is from the trained network.
    """

    network: nn.Module
    files: dict[str, bytes]
    parity: dict[str, Parity]

    def write(self, folder: Path, name: str) -> None:
        """Write all files into a folder.

        Raises:
            DiskFull: no space left.
        """
        for file, content in self.files.items():
            write_atomic(folder / file, content)
        write_record(record_of(self.network), folder / WEIGHTS, {"fedwon.release": name})


def export(network: nn.Module, task: TaskConfig, wish: Wish) -> Exported:
    """Fold a network, write it as ONNX, and compare.

    Args:
        network: as it was trained.
        task: what it was trained as.
        wish: how it is compared, and whether a quantized one is made too.

    Raises:
        NotReleasable: an exported model computes something else than the network.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
        DataError: the images to compare by cannot be read.
    """
    seen = sample(wish.images, task.classes, task.images.size)
    folded = fold(network).eval()
    try:
        content = to_onnx(folded, (task.images.channels, task.images.size, task.images.size), (INPUT, OUTPUT))
    except ImportError as error:
        raise MissingExtra(f"A release is exported with {error.name}, which is not installed.", hint=EXTRA) from None
    trained = trained_outputs(network, seen.images, task.images)
    files, parity = {ONNX: content}, {ONNX: _compared(content, trained, seen, task.images, wish.limit)}
    _check(parity[ONNX])
    if wish.int8:
        files[ONNX_INT8] = quantized(content, seen, task.images)
        parity[ONNX_INT8] = _compared(files[ONNX_INT8], trained, seen, task.images, wish.limit_int8)
        _check_int8(parity[ONNX_INT8])
    return Exported(folded, files, parity)


def _compared(content: bytes, trained: NDArray[np.float32], seen: Sample, images: ImageConfig, limit: float) -> Parity:
    return compare(trained, released_outputs(content, seen.images, images), seen.source, limit)


def _check(found: Parity) -> None:
    if not found.largest_difference <= found.limit * found.largest_output:
        raise NotReleasable(
            f"The exported model computes something else: outputs differ by up to {found.largest_difference:.2g} of "
            f"{found.largest_output:.3g} over {found.images} images ({found.source}), and the limit is "
            f"{found.limit:g} of the largest output."
        )


def _check_int8(found: Parity) -> None:
    other = found.images - found.same_class
    if other > found.limit * found.images:
        raise NotReleasable(
            f"The int8 model puts {other} of {found.images} images into another class ({found.source}), and the limit "
            f"is {found.limit:.1%}.",
            hint="Release without `--int8`, give more images of the lines with `--images`, or raise `--limit-int8`.",
        )


def quantized(content: bytes, seen: Sample, images: ImageConfig) -> bytes:
    """Return an ONNX file with weights and activations of 8 bits, whose ranges are measured on images.

    Args:
        content: the ONNX file.
        seen: images of the kind that the lines have; noise would give ranges that say nothing.
        images: how images become inputs.

    Raises:
        NotReleasable: there are no real images.
        MissingExtra: onnxruntime is not installed.
    """
    if seen.source.startswith("random"):
        raise NotReleasable(
            "An int8 model needs real images to measure its ranges on, and none were named.",
            hint="Name a folder of the lines' images with `--images`.",
        )
    try:
        from onnxruntime.quantization import QuantFormat, quantize_static
    except ImportError:
        raise MissingExtra("int8 is made by onnxruntime and onnx; one is not installed.", hint=EXTRA) from None
    with tempfile.TemporaryDirectory() as place:
        whole, small = Path(place) / "whole.onnx", Path(place) / "small.onnx"
        whole.write_bytes(content)
        reader = _Calibration(seen.images, images)
        with hushed(None, logging.ERROR):  # it asks for a pass that folded networks have no need of
            quantize_static(whole, small, reader, quant_format=QuantFormat.QDQ, per_channel=True)
        return small.read_bytes()


class _Calibration:
    """Hands the quantizer inputs one by one: onnxruntime's `CalibrationDataReader`, which is duck-typed."""

    def __init__(self, images: Images, config: ImageConfig) -> None:
        self._inputs = _inputs(images, Preparation(config))

    def get_next(self) -> dict[str, Inputs] | None:
        """Return the next input by its name, None after the last."""
        inputs = next(self._inputs, None)
        return None if inputs is None else {INPUT: inputs}


def _inputs(images: Sequence[Any], preparation: Preparation) -> Iterator[Inputs]:
    for image in images:
        yield preparation.normalize(preparation.fit(image)[None])
