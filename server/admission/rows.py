"""Tables of admission: what counted, what was refused and is kept for inspection, and who is not asked any more."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from fedwon.server.store import Base, now

HELD, RELEASED, COUNTED, GONE = "held", "released", "counted", "gone"
"""What became of a quarantined update: kept, let out by an operator, averaged after that, or not usable after all."""


class AdmittedRow(Base):
    """An update that counted: what later ones of the site, and of the others, are compared with."""

    __tablename__ = "admitted"
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)  # that it was asked for in
    site: Mapped[str] = mapped_column(primary_key=True)
    examples: Mapped[float]
    norm: Mapped[float | None]  # of its difference to the model that it started from; None: not measured
    digest: Mapped[str] = mapped_column(index=True)


class QuarantineRow(Base):
    """An update that was refused."""

    __tablename__ = "quarantine"
    task: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    round: Mapped[int]  # that it was asked for in
    site: Mapped[str] = mapped_column(index=True)
    rule: Mapped[str]
    reason: Mapped[str]
    file: Mapped[str]  # its name in the run's quarantine folder
    digest: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(default=HELD)
    at: Mapped[datetime] = mapped_column(default=now)


class SuspensionRow(Base):
    """A site that is not asked to train until an operator says so."""

    __tablename__ = "suspensions"
    site: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=now)
