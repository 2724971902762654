"""How far each writer has come with each run."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from fedwon.server.store import Base


class WriterRow(Base):
    """What a writer has of a run."""

    __tablename__ = "writers"
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    writer: Mapped[str] = mapped_column(primary_key=True)  # "mlflow", "tensorboard"
    place: Mapped[str]  # where it writes to; another one is begun anew
    reference: Mapped[str] = mapped_column(default="")  # the run's name there
    round: Mapped[int] = mapped_column(default=-1)  # the last round whose figures are there
    state: Mapped[str] = mapped_column(default="")  # the run's last state that was told there: finished, ...
