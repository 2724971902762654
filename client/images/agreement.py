"""Class names agreed by name, never by position.

The server says which classes the network's outputs stand for. A site's own folders or labels are looked up in that
list by name, so a site that lacks a class keeps the right indices for the others.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedwon.client.images.listing import Listed, Listing, Wanted, same_name
from fedwon.common.errors import ClassMismatch
from fedwon.common.surveys import Part
from fedwon.common.task_config import TaskConfig

_NAMED_AT_MOST = 10


@dataclass(frozen=True)
class Agreement:
    """How a site's classes relate to the federation's.

    Attributes:
        indices: the network's output for each class name.
        skipped: images left out, by class name that the federation does not know.
        missing: classes of the federation without an image to train on here.
    """

    indices: Mapping[str, int]
    skipped: Mapping[str, int]
    missing: tuple[str, ...]

    def wanted(self, part: Listed) -> list[Wanted]:
        """The images of a part that belong to a class of the federation, with their labels."""
        return [Wanted(row, self.indices[name]) for row, name in enumerate(part.classes) if name in self.indices]


def agree(listing: Listing, task: TaskConfig) -> Agreement:
    """Compare a site's classes with the federation's.

    Args:
        listing: the site's images by part.
        task: names the federation's classes and what to do about differences.

    Raises:
        ClassMismatch: the site has a class that the federation does not know, or lacks one, and the task says
            `refuse`.
    """
    names = [same_name(name) for name in task.classes]
    counts = {part: listed.count() for part, listed in listing.items()}
    skipped = _unknown(counts, names)
    trained = counts.get("train")  # images that are only looked at may come without a training part
    missing = tuple(name for name in names if not trained[name]) if trained is not None else ()
    if skipped and task.images.unknown_classes == "refuse":
        raise ClassMismatch(f"This site has {_described(skipped, names)}; the federation's are {_some(names)}.")
    if missing and task.images.missing_classes == "refuse":
        raise ClassMismatch(f"This site has no image to train on of {_some(missing)}, classes of the federation.")
    return Agreement({name: index for index, name in enumerate(names)}, skipped, missing)


def _unknown(counts: Mapping[Part, Counter[str]], known: Sequence[str]) -> dict[str, int]:
    total = sum(counts.values(), Counter[str]())
    return {name: total[name] for name in sorted(total) if name not in known}


def _described(unknown: Mapping[str, int], known: Sequence[str]) -> str:
    described = []
    for name, images in list(unknown.items())[:_NAMED_AT_MOST]:
        # by lower case, for a capital letter is the difference met most
        close = difflib.get_close_matches(name.lower(), [other.lower() for other in known], n=1)
        meant = next((f", did you mean `{other}`?" for other in known if close and other.lower() == close[0]), "")
        described.append(f"`{name}` (images: {images}{meant})")
    more = f" and {len(unknown) - _NAMED_AT_MOST} more" if len(unknown) > _NAMED_AT_MOST else ""
    return f"classes that the federation does not know: {', '.join(described)}{more}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_NAMED_AT_MOST])
    return shown + (f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else "")
