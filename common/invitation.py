"""What a site needs to join, as a file: from `fedwon-server enroll --out` to `fedwon-client join --from`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import typer
from pydantic import Field

from fedwon.common.config import Settings, load
from fedwon.common.files import write_private


class Invitation(Settings):
    """The operator's join line, in parts.

    The token is a secret until it has been used: the file has mode 0600 and belongs to the site alone.
    """

    site: str
    """The name that the site will have."""
    server: str
    """Where tokens are taken, `host:port`."""
    fingerprint: str
    """SHA-256 of the authority's certificate."""
    token: str = Field(repr=False)
    """Single use."""

    @property
    def line(self) -> str:
        """The command that joins."""
        return f"fedwon-client join {self.server} --fingerprint {self.fingerprint} --token {self.token}"

    def write(self, path: Path) -> None:
        """Write the file, readable by its owner only.

        Raises:
            StorageError: it cannot be written.
        """
        write_private(path, self.model_dump_json(indent=2).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            ConfigMissing: there is none.
            ConfigError: it is no invitation; the message names what is wrong.
        """
        return load(cls, path)  # JSON is YAML


def invited(server: str | None, fingerprint: str | None, token: str | None, path: Path | None) -> Invitation:
    """Return what a join command was given, in parts or as a file.

    Raises:
        typer.BadParameter: a part is missing, or both were given.
        ConfigError: the file is no invitation.
    """
    if path is not None:
        if server or fingerprint or token:
            raise typer.BadParameter("it holds address, fingerprint and token; give no other", param_hint="--from")
        return Invitation.read(path)
    for value, name in ((server, "SERVER"), (fingerprint, "--fingerprint"), (token, "--token")):
        if value is None:
            raise typer.BadParameter("missing; paste the operator's whole line, or use --from", param_hint=name)
    return Invitation(site="", server=server or "", fingerprint=fingerprint or "", token=token or "")
