"""How a release does on a site's own validation images: the same images that the run measured its models on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedwon.client.config import SiteConfig
from fedwon.client.images.decoding import Unreadable
from fedwon.client.images.listing import Listed, Wanted
from fedwon.client.images.opening import parted
from fedwon.common.config import parse
from fedwon.common.errors import UntrustedRelease
from fedwon.common.gates import Figures, figures
from fedwon.common.pixels import Pixels
from fedwon.common.release import Release
from fedwon.common.scoring import Scorer
from fedwon.common.task_config import TaskConfig

logger = logging.getLogger(__name__)

Measured = Callable[[Sequence[str]], Figures]


def measure(release: Release, site: SiteConfig, base: Path) -> Measured:
    """Let a release classify a site's validation images.

    Args:
        release: opened, its signature and files checked.
        site: where the images are, and how many threads may work.
        base: the folder that relative paths start at.

    Returns:
        What gives the figures for the names of the classes that are defects.

    Raises:
        ClassMismatch, DataError: the site's images cannot be used.
        MissingExtra: onnxruntime is not installed.
    """
    manifest = release.manifest
    task = parse(TaskConfig, manifest.task, f"the task of release {manifest.name}")
    if task.images != manifest.preprocessing or task.classes != manifest.classes:
        raise UntrustedRelease(f"Release {manifest.name} contradicts itself about images or classes.")
    listing, rows, _ = parted(site.data, task, base)
    confusion = _confusion(
        Scorer.of(release, threads=site.threads), listing["validation"], rows["validation"], len(task.classes)
    )
    return lambda defects: figures(confusion, manifest.classes, defects)


def _confusion(scorer: Scorer, listed: Listed, wanted: Sequence[Wanted], classes: int) -> NDArray[np.int64]:
    labels: list[int] = []

    def _read() -> Iterator[Pixels]:
        for item in wanted:
            try:
                image: Pixels = listed.source.read(item.row).numpy()
            except Unreadable as error:
                logger.warning("%s is left out, it cannot be read: %s", listed.source.name(item.row), error)
                continue
            labels.append(item.label)
            yield image

    confusion = np.zeros((classes, classes), dtype=np.int64)
    for number, logits in enumerate(scorer.logits(_read())):
        confusion[labels[number], int(logits.argmax())] += 1
    return confusion
