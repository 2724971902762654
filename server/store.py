"""The database of a server: sites, certificates, tokens, runs, rounds, tasks, metrics, audit trail; one SQLite file.

WAL mode, so that `status` and `enroll` read and write while the server runs. Writes are short transactions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic.util import CommandError
from sqlalchemy import JSON, DateTime, Engine, ForeignKey, Select, create_engine, event, literal_column, select, text
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from fedwon.common.errors import DiskFull, StorageError

BUSY_SECONDS = 30.0
"""How long a transaction waits for another process that writes."""

RESTORE = (
    "Stop the server, put back the last backup of fedwon.db (without fedwon.db-wal and fedwon.db-shm beside it) and go "
    "on with `fedwon-server start --resume`."
)
_HINTS = {
    "locked": "Another process has been writing to it for too long, such as a backup or a database tool: see "
    "`fuser -v` on the file, let that one end, and go on with `fedwon-server start --resume`.",
    "readonly": "Its folder is read-only or another user's (`mount`, `ls -l`); SQLite makes files beside it as well.",
    "unable to open": "Its folder must be there, this user's, and not read-only (`mount`, `ls -ld`); or this process "
    "may open too few files (`ulimit -n`).",
    "malformed": RESTORE,
    "disk I/O": "The disk fails or was taken away: look at `dmesg`, then go on with `fedwon-server start --resume`.",
}
"""What to do, by what SQLite says."""


class Moment(TypeDecorator[datetime]):
    """A point in time, stored and read back in UTC (SQLite keeps no time zone)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: object) -> datetime | None:
        """Store as UTC without a zone."""
        del dialect
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: object) -> datetime | None:
        """Read back as UTC."""
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: Moment, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


class Site(Base):
    """A site that has enrolled."""

    __tablename__ = "sites"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    enrolled: Mapped[datetime] = mapped_column(default=now)
    expires: Mapped[datetime]
    last_seen: Mapped[datetime | None]
    connected: Mapped[bool] = mapped_column(default=False)
    version: Mapped[str | None]
    data: Mapped[dict[str, Any] | None]
    revoked: Mapped[datetime | None]  # certificates issued up to then are void
    reason: Mapped[str] = mapped_column(default="", server_default=text("''"))
    unavailable: Mapped[str] = mapped_column(default="", server_default=text("''"))  # why it may not work now
    back: Mapped[datetime | None]  # when it may again, where it knows


class CertificateRow(Base):
    """A certificate that a site was given."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(primary_key=True)  # hexadecimal
    site: Mapped[str] = mapped_column(index=True)
    issued: Mapped[datetime] = mapped_column(default=now)
    expires: Mapped[datetime]
    authority: Mapped[str]  # fingerprint of the authority that signed it
    token: Mapped[str | None] = mapped_column(index=True)  # digest of the token that it was given for
    pem: Mapped[bytes]
    used: Mapped[datetime | None]  # first call with it
    revoked: Mapped[datetime | None] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(default="")


class Token(Base):
    """A single-use join token; only its hash is kept."""

    __tablename__ = "tokens"
    digest: Mapped[str] = mapped_column(primary_key=True)
    site: Mapped[str]
    made: Mapped[datetime] = mapped_column(default=now)
    expires: Mapped[datetime]
    used: Mapped[datetime | None]
    key: Mapped[str | None]  # digest of the public key that it was used with


UNDER_WAY = ("running", "paused")
"""States of a run that goes on."""


class RunRow(Base):
    """A run."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]]
    classes: Mapped[list[str]]
    state: Mapped[str]  # running, paused, finished, stopped, failed
    reason: Mapped[str] = mapped_column(default="")
    made: Mapped[datetime] = mapped_column(default=now)
    ended: Mapped[datetime | None]
    wish: Mapped[str] = mapped_column(default="", server_default=text("''"))  # the operator's: "pause", "stop"
    privacy: Mapped[dict[str, Any] | None]  # what it has cost: fedwon.server.runs.privacy_spent


class RoundRow(Base):
    """A committed round; round 0 is the initial model."""

    __tablename__ = "rounds"
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    digest: Mapped[str]
    size: Mapped[int]
    seconds: Mapped[float]
    committed: Mapped[datetime] = mapped_column(default=now)
    velocity: Mapped[str | None]  # digest of what the server's momentum goes on with, where it has some


class TaskRow(Base):
    """What one site was asked in one round, and what came of it."""

    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    round: Mapped[int]
    site: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]  # sent, received, averaged, refused, failed, late
    reason: Mapped[str] = mapped_column(default="")
    bytes_down: Mapped[int] = mapped_column(default=0)
    bytes_up: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)
    made: Mapped[datetime] = mapped_column(default=now)


class MetricRow(Base):
    """One number of one site about the global model of one round."""

    __tablename__ = "metrics"
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]


class AuditRow(Base):
    """Something that an operator or the system did and that somebody may ask about later."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[str] = mapped_column(default="")
    actor: Mapped[str] = mapped_column(
        default="", server_default=text("''")
    )  # a user of this machine; empty: the server
    times: Mapped[int] = mapped_column(default=1, server_default="1")  # where the same happened again and again
    until: Mapped[datetime | None]  # the last time, if not the first


class Store:
    """One open database.

    Args:
        path: the SQLite file; made and brought to the newest schema if need be.

    Raises:
        StorageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = _engine(path)
        try:
            with _translated(path):
                migrate(self.engine)
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction: committed at the end, rolled back on an error.

        Raises:
            StorageError: the database cannot be read or written; DiskFull where that is the reason.
        """
        with _translated(self.path), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def check(self) -> None:
        """Look through the whole file, which takes a tenth of a second for 100 MB, before a run relies on it.

        Raises:
            StorageError: it is damaged.
        """
        with self.session() as session:
            found = session.execute(text("PRAGMA quick_check(1)")).scalar()
        if found != "ok":
            raise StorageError(f"The database {self.path} is damaged: {found}.", hint=RESTORE)

    def audit(self, action: str, subject: str, detail: str = "", *, actor: str = "") -> None:
        """Write a line into the audit trail.

        Args:
            action: what was done.
            subject: to whom or what.
            detail: more about it.
            actor: who did it, where it was a person: see `fedwon.server.auditing.operator`.
        """
        with self.session() as session:
            session.add(AuditRow(action=action, subject=subject, detail=detail, actor=actor))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def newest_runs() -> Select[RunRow]:
    """Select the runs, the newest first: by the order in which they were made, whatever the clock said then."""
    return select(RunRow).order_by(literal_column("runs.rowid").desc())


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: object) -> None:
        del record
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # a committed round survives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


MIGRATING = threading.Lock()
"""Alembic has one context a process: whoever brings a database to its newest schema, MLflow's too, is alone."""


def migrate(engine: Engine) -> None:
    """Bring a database to the newest schema."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).resolve().parent / "migrations"))
    with MIGRATING, engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except CommandError as error:  # alembic's, about a revision that it does not know
        raise StorageError(
            f"The database {path} was made by another version of fedwon: {error}.",
            hint="Use the newer fedwon-server, or put back the backup from before the upgrade.",
        ) from None
    except OperationalError as error:
        said = str(error.orig)
        if "full" in said:
            raise DiskFull(f"No space left on the disk while writing {path}.") from None
        hint = next((hint for sign, hint in _HINTS.items() if sign in said), None)
        raise StorageError(f"The database {path} cannot be used: {said}.", hint=hint) from None
    except DatabaseError as error:
        raise StorageError(f"The database {path} is damaged: {error.orig}.", hint=RESTORE) from None
