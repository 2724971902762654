"""A site's data: surveyed for the server and for `fedwon-client check`, or opened for a task.

A survey lists and counts; it needs neither torch nor the images' content, so an idle site stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedwon.client.config import DataConfig
from fedwon.client.images.listing import list_site
from fedwon.common.surveys import PARTS, Part
from fedwon.common.task_config import TaskConfig

if TYPE_CHECKING:
    from fedwon.client.images.opening import SiteData


@dataclass(frozen=True)
class Survey:
    """How many images a site has.

    Attributes:
        counts: images by class name and part (`train`, `validation`, `test`). Without a `val` folder the site's
            validation images are still among `train`.
    """

    counts: Mapping[str, Mapping[Part, int]]

    @property
    def classes(self) -> tuple[str, ...]:
        """The site's class names, sorted."""
        return tuple(self.counts)

    def total(self, part: Part) -> int:
        """Number of images of one part."""
        return sum(parts[part] for parts in self.counts.values())

    def as_dict(self) -> dict[str, dict[str, int]]:
        """The counts for JSON: class name to part to number."""
        return {name: {part: parts[part] for part in PARTS} for name, parts in self.counts.items()}


def survey(data: DataConfig, base: Path) -> Survey:
    """Count a site's images without decoding any.

    Args:
        data: where they are.
        base: the folder that relative paths start at.

    Raises:
        DataError: as `fedwon.client.images.listing.list_site` says.
    """
    counts = {part: listed.count() for part, listed in list_site(data, base).items()}
    names = sorted(set().union(*counts.values()))
    return Survey({name: {part: counts[part][name] if part in counts else 0 for part in PARTS} for name in names})


def open_site(data: DataConfig, task: TaskConfig, base: Path) -> SiteData:
    """List, agree on classes, split and decode a site's images; see `fedwon.client.images.opening`.

    Args:
        data: where they are and how much memory they may take.
        task: classes, image preparation, seed.
        base: the folder that relative paths start at.

    Raises:
        ClassMismatch: classes differ from the federation's in a way that the task refuses.
        EmptyClass: a class has a folder but no readable image.
        DataError: nothing is left to train on, or what `fedwon.client.images.listing.list_site` says.
        Cancelled: the task was given up meanwhile.
    """
    from fedwon.client.images import opening  # loads torch and torchvision, which a survey has no use for

    return opening.open_site(data, task, base)
