"""A sitting as the server keeps it on its disk, so that a crash in mid-round does not cost it.

Without this a crash between the first shares and the commit would end the run: a site helps to open one sum over its
update of a round, and no other one (`fedwon.client.opened_sums`). Nothing in it is secret from the server: public keys,
sealed shares that it cannot read, who masks with whom. It lies in the run's spool, which is cleared with each commit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from fedwon.common.config import Settings
from fedwon.common.files import read_bytes, write_atomic
from fedwon.common.secagg.messages import MaskOrder
from fedwon.server.secure.sitting import Agreed

logger = logging.getLogger(__name__)

FILE = "sitting.json"
"""In the run's spool."""


class KeptSitting(Settings):
    """A sitting from the moment in which sites have been told to mask."""

    model_config = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")

    round: int
    """Of which round."""
    agreed: Agreed
    """What the sites agreed on."""
    orders: Mapping[str, MaskOrder]
    """What each site was told with its task."""
    counted: tuple[str, ...] = ()
    """The sites whose updates are in the sum, once sites were asked to open it: it is that sum or none."""


def keep(spool: Path, sitting: KeptSitting) -> None:
    """Write a sitting down, in place of the one before.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomic(spool / FILE, sitting.model_dump_json().encode())


def kept(spool: Path, number: int) -> KeptSitting | None:
    """Return the sitting that a round was broken off in; None where there is none, or it cannot be understood.

    Raises:
        StorageError: the file cannot be read.
    """
    path = spool / FILE
    if not path.exists():
        return None
    try:
        found = KeptSitting.model_validate_json(read_bytes(path))
    except ValidationError:
        logger.warning("%s cannot be understood; the round begins in a new sitting", path)
        return None
    return found if found.round == number else None
