"""A released model at work: ONNX in, classes out. NumPy, Pillow and onnxruntime, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwon.common.errors import MissingExtra, UntrustedRelease
from fedwon.common.pixels import Inputs, Pixels, Preparation
from fedwon.common.release import INPUT, ONNX, OUTPUT, Release
from fedwon.common.task_settings import ImageConfig

Logits = NDArray[np.float32]
BATCH = 32
"""Images that go through the network at once; a matter of speed and memory only."""


class OnnxModel:
    """A network in onnxruntime, on the processor.

    Args:
        content: the bytes of the ONNX file.
        threads: processor threads; None for all cores.

    Raises:
        MissingExtra: onnxruntime is not installed.
        UntrustedRelease: the bytes are no model that onnxruntime can run.
    """

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors: a warning about an old processor is nobody's business here
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception class for each of its status codes
            said = " ".join(str(error).split())[:200]
            raise UntrustedRelease(f"onnxruntime cannot load the model: {said}.") from error

    def logits(self, inputs: Inputs) -> Logits:
        """Return the outputs (N, classes) for inputs (N, channels, size, size)."""
        found: Logits = self._session.run([OUTPUT], {INPUT: inputs})[0]
        return found


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra(
            "A release is run by onnxruntime, which is not installed.", hint="pip install 'fedwon[runtime]'"
        ) from None
    return onnxruntime


class Scorer:
    """A released model with its preparation of images.

    Args:
        model: the network.
        images: how images become inputs.
    """

    def __init__(self, model: OnnxModel, images: ImageConfig) -> None:
        self._model, self.preparation = model, Preparation(images)

    @classmethod
    def of(cls, release: Release, *, file: str = ONNX, threads: int | None = None) -> Scorer:
        """Load a release.

        Args:
            release: opened, its signature and files checked.
            file: which of its ONNX files.
            threads: processor threads; None for all cores.

        Raises:
            UntrustedRelease: the file is another one by now, or cannot be run.
            MissingExtra: onnxruntime is not installed.
        """
        return cls(OnnxModel(release.read(file), threads), release.manifest.preprocessing)

    def logits(self, images: Iterable[Pixels]) -> Iterator[Logits]:
        """Return the outputs (classes) of each decoded image (1 or 3, H, W), one after the other."""
        fitted = map(self.preparation.fit, images)
        while batch := list(islice(fitted, BATCH)):
            yield from self._model.logits(self.preparation.normalize(np.stack(batch)))


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return the softmax over the last axis."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    share: NDArray[np.float64] = raised / raised.sum(axis=-1, keepdims=True)
    return share
