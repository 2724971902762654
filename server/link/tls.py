"""The server's side of TLS, read again for new connections whenever the files in `pki/` have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from fedwon.common.errors import FedwonError
from fedwon.common.pki import load_credentials
from fedwon.server.identity.authorities import stamp

logger = logging.getLogger(__name__)

FILES = ("ca.pem", "server.pem", "server.key")


def server_credentials(pki: Path, *, mutual: bool, began: Callable[[], None] = lambda: None) -> grpc.ServerCredentials:
    """Make credentials for a port.

    Connections that stand keep what they began with; a file that cannot be read leaves everything as it was.

    Args:
        pki: the server's `pki/` folder.
        mutual: ask for a certificate of the federation.
        began: called, in a thread of gRPC's, whenever somebody begins a handshake.

    Raises:
        StorageError, KeyExposed, BrokenFile: the files cannot be used.
    """
    seen = _stamps(pki)

    def _changed() -> Any:
        nonlocal seen
        began()
        found = _stamps(pki)
        if found == seen:
            return None
        try:
            configuration = _configuration(pki)
        except FedwonError as error:  # another process may be in the middle of writing them
            logger.warning("the server's certificate could not be read again: %s", error.message)
            return None
        seen = found
        logger.info("new connections get the server's new certificate")
        return configuration

    return grpc.dynamic_ssl_server_credentials(_configuration(pki), _changed, require_client_authentication=mutual)


def _stamps(pki: Path) -> list[Any]:
    return [stamp(pki / name) for name in FILES]


def _configuration(pki: Path) -> Any:
    held = load_credentials(pki, "server")
    return grpc.ssl_server_certificate_configuration([(held.key, held.certificate)], held.authority)
