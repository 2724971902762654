"""What a site says about its images beside the numbers: unreadable files, classes left out, classes it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedwon.common.logs import one_line
from fedwon.server.rounds.site_grid import metrics_of

NAMED = 20
"""So many files or classes are named at most, however many a site sends."""
LONGEST = 200
"""Characters of such a name that are shown."""


def notes_of(content: RecordDict) -> str:
    """Return what an answer says about the site's images, in words; empty where all is well.

    Args:
        content: the records of the answer; `notes` is what `fedwon.client.app` writes.
    """
    notes: Mapping[str, Any] = content.config_records.get("notes", ConfigRecord())
    corrupt, skipped = _names(notes.get("corrupt")), _names(notes.get("skipped-classes"))
    missing = _names(notes.get("missing-classes"))
    count = metrics_of(content).get("corrupt-images", len(corrupt))
    parts = [
        f"{count} unreadable images were left out: {', '.join(corrupt)}" if corrupt else "",
        f"images of classes that the federation does not know were left out: {', '.join(skipped)}" if skipped else "",
        f"it has no image of: {', '.join(missing)}" if missing else "",
    ]
    return "; ".join(part for part in parts if part)


def _names(value: Any) -> list[str]:
    names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
    shown = [one_line(name)[:LONGEST] for name in names[:NAMED]]
    return [*shown, "..."] if len(names) > NAMED else shown
