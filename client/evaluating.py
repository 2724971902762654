"""A model file on a site's own images, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedwon.client.config import DataConfig
from fedwon.client.images.opening import open_site
from fedwon.client.training.local import Evaluation, evaluate
from fedwon.common.model_file import read_model, trained_network


def evaluate_file(path: Path, data: DataConfig, base: Path) -> dict[str, Any]:
    """Measure a model file on a site's validation images, and on its test images where there are some.

    Args:
        path: the model file.
        data: where the images are.
        base: folder that relative paths start at.

    Raises:
        ModelMismatch: the file's tensors are not the network's.
        BrokenFile: the file is damaged or not of fedwon's making.
        DataError: the images cannot be used.
    """
    task, record = read_model(path)
    model = trained_network(task, record)
    site = open_site(data, task, base)
    parts = {"validation": site.validation, "test": site.test}
    return {
        "model": str(path),
        "run": task.run,
        "round": task.round,
        "classes": list(task.classes),
        "parts": {
            name: _row(evaluate(model, images)) for name, images in parts.items() if images is not None and len(images)
        },
    }


def _row(found: Evaluation) -> dict[str, Any]:
    return {
        "correct": found.correct,
        "examples": found.examples,
        "accuracy": found.correct / found.examples,
        "loss": found.loss,
    }
