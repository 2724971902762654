"""The password of the page: argon2id (RFC 9106), in a file that only the server's user reads."""

from __future__ import annotations

from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from fedwon.common.errors import ConfigError
from fedwon.common.files import read_private, write_private

NAME = "page-password"
SHORTEST = 10
LONGEST = 200
_HASHER = PasswordHasher()
"""With the library's parameters, RFC 9106's second choice: 64 MiB, three passes, four lanes."""


def set_password(pki: Path, password: str) -> None:
    """Set the password; whoever is logged in must log in again.

    Args:
        pki: the server's `pki/` folder, where all its secrets are.
        password: of ten characters or more.

    Raises:
        ConfigError: it is too short.
        StorageError: the file cannot be written.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise ConfigError(
            f"A password of the page has {SHORTEST} to {LONGEST} characters; this one has {len(password)}.",
            hint="Three or four words that do not belong together are easy to remember.",
        )
    write_private(pki / NAME, _HASHER.hash(password).encode())


def is_set(pki: Path) -> bool:
    """Tell whether there is a password."""
    return (pki / NAME).exists()


def verify(pki: Path, password: str) -> bool:
    """Tell whether this is the password; takes a tenth of a second and 64 MB.

    Raises:
        KeyExposed: others can read the file.
        StorageError: it cannot be read.
    """
    if not is_set(pki) or len(password) > LONGEST:
        return False
    try:
        return _HASHER.verify(read_private(pki / NAME).decode(errors="replace"), password)
    except (VerificationError, InvalidHashError):
        return False
