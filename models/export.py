"""A network as an ONNX file, for whoever runs it without torch.

Exported by `torch.onnx.export` on torch.export (its other exporter, on TorchScript, is deprecated and cannot export
AlexNet's adaptive pooling), with the batch as the one free dimension. What the exporter notes about the machine, such
as paths of source files, is taken out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

OPSET = 18
"""Version of ONNX's operators; onnxruntime runs it from 1.14 on (2023)."""


def to_onnx(model: nn.Module, image_shape: tuple[int, int, int], names: tuple[str, str]) -> bytes:
    """Export a network for inference; the function is the model's in evaluation mode.

    Args:
        model: takes (N, channels, height, width) to (N, classes); left as it was. Fold it first.
        image_shape: channels, height, width.
        names: of input and output.

    Returns:
        The file: weights inside, float32.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    import onnxscript  # noqa: F401 - said at once where it is missing, not after a traceback of torch's

    training = model.training
    example = torch.zeros(2, *image_shape)  # two: torch.export takes a batch of one for a constant
    try:
        with _quietly():
            program: Any = torch.onnx.export(
                model.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[names[0]],
                output_names=[names[1]],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            return _stripped(program.model_proto)
    finally:
        model.train(training)


def _stripped(proto: Any) -> bytes:
    """Take out what tells of the machine and of the source, and what the exporter notes beside the graph."""
    parts = [proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.value_info]
    for part in [*parts, *proto.graph.input, *proto.graph.output]:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's talk to itself: warnings of libraries about each other, and lines on standard output."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loud]
    try:
        for logger in loud:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
