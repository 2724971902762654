"""The images of a benchmark that models are scored on, and the scores of sites joined to those of their domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.partitions import domain_of
from fedwon.client.config import DataConfig
from fedwon.client.images.agreement import agree
from fedwon.client.images.decoding import Preparation
from fedwon.client.images.image_set import ImageSet, Room, load_images
from fedwon.client.images.listing import list_site
from fedwon.common.task_config import TaskConfig
from fedwon.server.comparison.scoring import packed, right_images

_MEMORY = 4 * 2**30


def scored_images(data: DataConfig, task: TaskConfig) -> ImageSet:
    """The images that a model is scored on: a domain's test part where it has one, else all of its images.

    Raises:
        FedwonError: the domain cannot be read, or its classes are not the model's.
    """
    listing = list_site(data, Path.cwd())
    parts = {"test": listing["test"]} if "test" in listing else dict(listing)
    agreement = agree(parts, task)
    (listed,) = parts.values()
    images, _ = load_images(
        listed.source, agreement.wanted(listed), task.classes, Preparation(task.images), Room(_MEMORY)
    )
    return images


def by_domain(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Join the counts of the sites of a domain, whose test images are parts of the domain's."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for site in sorted(scores):
        groups.setdefault(domain_of(site), []).append(scores[site])
    return {domain: _joined(parts) for domain, parts in groups.items()}


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if len(parts) == 1:
        return dict(parts[0])
    sizes = [np.cumsum(part["class_examples"])[:-1] for part in parts]
    bits = [np.split(right_images(part), ends) for part, ends in zip(parts, sizes, strict=True)]
    by_class = np.concatenate([chunk for chunks in zip(*bits, strict=True) for chunk in chunks])
    return {
        **{key: sum(part[key] for part in parts) for key in ("correct", "examples")},
        **{key: np.sum([part[key] for part in parts], axis=0).tolist() for key in ("class_correct", "class_examples")},
        "right": packed(by_class),
    }
