"""A site's data, surveyed: for the server, for the site's own limits, and for `fedwon-client check`.

A survey lists and counts; it needs neither torch nor the images' content, so an idle site stays small.
`fedwon.client.images.opening` opens the images for a task.
"""

from __future__ import annotations

from pathlib import Path

from fedwon.client.config import DataConfig
from fedwon.client.images.listing import list_site
from fedwon.common.surveys import PARTS


def survey(data: DataConfig, base: Path) -> dict[str, dict[str, int]]:
    """Count a site's images without decoding any.

    Args:
        data: where they are.
        base: the folder that relative paths start at.

    Returns:
        Images by class name, sorted, and part (a `fedwon.common.surveys.Survey`). Without a `val` folder the site's
        validation images are still among `train`.

    Raises:
        DataError: as `fedwon.client.images.listing.list_site` says.
    """
    counts = {part: listed.count() for part, listed in list_site(data, base).items()}
    names = sorted(set().union(*counts.values()))
    return {name: {part: counts[part][name] if part in counts else 0 for part in PARTS} for name in names}
