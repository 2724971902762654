"""Small sites made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fedwon.client.config import DataConfig
from fedwon.client.images.image_set import ImageSet
from fedwon.client.images.opening import SiteData, open_site
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig


def task_of(classes: tuple[str, ...] = ("a", "b", "c"), *, number: int = 1, **run: Any) -> TaskConfig:
    """A task; `run` holds parts of a RunConfig."""
    run = {"images": {"size": 16}, "model": {"width": 0.05}, **run}
    return TaskConfig.of(RunConfig.model_validate(run), run="run-1", server_round=number, classes=classes)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_classes(folder: Path, counts: Mapping[str, int]) -> Path:
    for name, images in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            write_image(folder / name / f"{number:03}.png", seed=hash((len(name), number)) % 1000)
    return folder


def write_npz(path: Path, images: Any = None, labels: Any = None, **more: Any) -> Path:
    labels = np.arange(12) % 3 if labels is None else labels
    images = (
        np.random.default_rng(0).integers(0, 256, (len(labels), 9, 8, 3), dtype=np.uint8) if images is None else images
    )
    np.savez(path, images=images, labels=labels, **more)
    return path


def open_at(path: Path | str, task: TaskConfig | None = None, *, base: Path = Path(), **data: Any) -> SiteData:
    return open_site(DataConfig(path=str(path), **data), task or task_of(), base)


def pixels_of(images: ImageSet) -> torch.Tensor:
    (batch,) = images.batches([range(len(images))])
    return batch.inputs
