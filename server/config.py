"""server.yaml: what the operator decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator

from fedwon.common.config import Settings
from fedwon.common.run_config import Name, RunConfig
from fedwon.common.traces import TracesConfig
from fedwon.server.writers.config import WritersConfig

Address = Annotated[str, Field(pattern=r"^[^\s:/]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$")]
"""`host:port`, or `[address]:port` for IPv6."""


class EnrolmentLimits(Settings):
    """How many failed attempts to join are looked at; a good token is taken at any time, so nobody is locked out."""

    per_address: int = Field(default=10, ge=1, le=10_000)
    """Failed attempts a minute from one address (of IPv6: one /64)."""
    in_all: int = Field(default=100, ge=1, le=100_000)
    """Failed attempts a minute from all addresses together."""
    connections: int = Field(default=512, ge=1, le=65_536)
    """Connections that the enrolment port holds at most; more are closed at once."""


class ServerConfig(Settings):
    """A federation's server."""

    federation: Name = "federation"
    """The federation's name; it stands in every certificate."""
    listen: Address = "0.0.0.0:8470"
    """Where sites connect with their certificates (mutual TLS)."""
    enrolment: Address = "0.0.0.0:8471"
    """Where sites that join present their token; it can be closed in the firewall between enrolments."""
    names: tuple[str, ...] = Field(default=("localhost", "127.0.0.1"), min_length=1)
    """Host names and addresses by which sites reach this server; they stand in its certificate. The first one is told
    to sites that join."""
    heartbeat_seconds: float = Field(default=15.0, ge=0.2, le=600)
    """How often a site says that it is there; after three silent intervals it counts as gone."""
    enrolment_limits: EnrolmentLimits = EnrolmentLimits()
    """Limits of the enrolment port."""
    connections: int = Field(default=4096, ge=1, le=65_536)
    """Connections that the port for sites holds at most, those included that nobody knows yet; more are closed at once.
    A site has one, and a second one while it transfers. Never more than two thirds of the files that may be open
    ([security](security.md#floods))."""
    page: Address | None = "127.0.0.1:8472"
    """Where the operator's page is served ([operation](operation.md)): for this machine only, or, on any other address,
    over TLS and behind a login. `off`: not at all."""
    writers: WritersConfig = WritersConfig()
    """Where the figures of runs go besides the server's own database."""
    traces: TracesConfig | None = None
    """Where traces of runs, rounds and tasks are sent; empty: nowhere."""
    run: RunConfig = RunConfig()
    """What is trained, how, and by whom."""

    @field_validator("page", mode="before")
    @classmethod
    def _off_is_none(cls, page: object) -> object:
        return None if page is False else page  # YAML reads `off` as false

    def located(self, folder: Path) -> Self:
        """Return the same settings with the run's model file found from a folder."""
        return self.model_copy(update={"run": self.run.located(folder)})
