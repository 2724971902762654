"""The releases in the server's folder, each looked at only after its signature was found right."""

from __future__ import annotations

import logging

from fedwon.common.errors import FedwonError, ReleaseMissing
from fedwon.common.files import read_bytes
from fedwon.common.release import Manifest, Release, open_release, read_manifest
from fedwon.server.serving import Home

logger = logging.getLogger(__name__)

FOLDER = "releases"


def list_releases(home: Home) -> list[Manifest]:
    """Return what releases there are, oldest first; one that the federation did not sign is named in the log."""
    folder, authorities = home.folder / FOLDER, read_bytes(home.folder / "pki" / "ca.pem")
    found = []
    for place in sorted(folder.glob("[!.]*")) if folder.is_dir() else []:
        try:
            found.append(read_manifest(place, authorities))
        except FedwonError as error:
            logger.warning("%s is passed over: %s", place, error.message)
    return sorted(found, key=lambda manifest: (manifest.made, manifest.name))


def find_release(home: Home, name: str) -> Release:
    """Open a release by name, every byte of it checked.

    Raises:
        ReleaseMissing: there is none of that name.
        UntrustedRelease: it is not what was signed.
    """
    known = [manifest.name for manifest in list_releases(home)]
    if name not in known and not (home.folder / FOLDER / name).is_dir():
        names = f"there are: {', '.join(known[-5:])}" if known else "there is none yet: `fedwon-server release`"
        raise ReleaseMissing(f"There is no release `{name}`; {names}.")
    return open_release(home.folder / FOLDER / name, read_bytes(home.folder / "pki" / "ca.pem"))
