"""A run on disk: its row in the database, its folder, its committed rounds.

`<root>/runs/<run>/` holds the models of its rounds (`checkpoints`); `spool/` updates of the round in hand;
`quarantine/` those that were refused.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from flwr.app import ArrayRecord

from fedwon.common.arrays import Blob, StoredRecord, open_record
from fedwon.common.config import parse
from fedwon.common.errors import FedwonError, RunMissing
from fedwon.common.files import remove_leftovers
from fedwon.common.model_file import describe
from fedwon.common.run_config import BEFORE_CODECS, RunConfig
from fedwon.common.system_errors import storage_error
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.server.rounds.bookkeeping import Bookkeeping
from fedwon.server.rounds.events import Event, Listener, RoundCommitted, RunEnded, RunPaused
from fedwon.server.runs.checkpoints import Checkpoints
from fedwon.server.runs.privacy_spent import add_round, clip_of
from fedwon.server.runs.retention import let_go, prune_quarantine
from fedwon.server.runs.starting import initial_weights
from fedwon.server.store import UNDER_WAY, RunRow, Store, newest_runs, now

NOTHING: Mapping[str, int] = MappingProxyType({})


class Run(Bookkeeping):
    """One run.

    Args:
        store: the server's database.
        root: the server's folder.
        run_id: name of the run, also of its folder below `runs/`.
        config: what is trained and how.
        classes: class names in the order of the network's outputs.
        listeners: told what happens.
    """

    def __init__(  # noqa: PLR0917
        self,
        store: Store,
        root: Path,
        run_id: str,
        config: RunConfig,
        classes: Sequence[str],
        listeners: Sequence[Listener] = (),
    ) -> None:
        super().__init__(store, run_id)
        self.config, self.classes = config, tuple(classes)
        self.folder = root / "runs" / run_id
        self.spool, self.quarantine = self.folder / "spool", self.folder / "quarantine"
        self.checkpoints = Checkpoints(store, run_id, self.folder)
        self.listeners = list(listeners)

    @classmethod
    def create(
        cls, store: Store, root: Path, config: RunConfig, classes: Sequence[str], listeners: Sequence[Listener] = ()
    ) -> Run:
        """Begin a run: its folder, its row and its initial model; when that fails, nothing of it stays.

        Raises:
            StorageError: the folder or the database cannot be written, or the model file to start from does not fit.
        """
        run_id = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        run = cls(store, root, run_id, config, classes, listeners)
        run.begin(0, initial_weights(config, run.task(0)))
        return run

    def begin(self, number: int, model: ArrayRecord) -> None:
        """Make the run's folder and its row, with the model of a round that it begins after.

        Raises:
            StorageError: the folder or the database cannot be written; nothing of the run stays.
        """
        try:
            self.make_folders()
            blob = self._checkpoint(number, model, ())
            with self.store.session() as session:
                described = self.config.model_dump(mode="json")
                session.add(RunRow(id=self.id, config=described, classes=list(self.classes), state="running"))
                session.flush()
                session.add(self.checkpoints.row(number, blob, 0.0))
        except FedwonError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def reconfigure(self, config: RunConfig) -> None:
        """Go on under another configuration: a relay learns its parent's round by round."""
        self.config = config
        with self.store.session() as session:
            session.get_one(RunRow, self.id).config = config.model_dump(mode="json")

    @classmethod
    def unfinished(cls, store: Store, root: Path, listeners: Sequence[Listener] = ()) -> Run:
        """Return the newest run that has not finished.

        Raises:
            RunMissing: there is none.
        """
        with store.session() as session:
            rows = session.scalars(newest_runs()).all()
        row = next((row for row in rows if row.state != "finished"), None)
        if row is None:
            raise RunMissing(f"There is no unfinished run in {root}.", hint="Start one without `--resume`.")
        return cls.of_row(store, root, row, listeners)

    @classmethod
    def open(cls, store: Store, root: Path, run_id: str | None = None) -> Run:
        """Open a run to look at, by name or the newest.

        Raises:
            RunMissing: there is none of that name.
        """
        with store.session() as session:
            query = newest_runs()
            row = session.scalars(query if run_id is None else query.where(RunRow.id == run_id)).first()
        if row is None:
            raise RunMissing(f"There is no run{f' `{run_id}`' if run_id else ''} in {root}.")
        return cls.of_row(store, root, row)

    @classmethod
    def of_row(cls, store: Store, root: Path, row: RunRow, listeners: Sequence[Listener] = ()) -> Run:
        """Make the run that a row describes; one that began before there were codecs goes on without."""
        config = parse(RunConfig, {**BEFORE_CODECS, **row.config}, f"the configuration of run {row.id}")
        return cls(store, root, row.id, config, row.classes, listeners)

    @property
    def state(self) -> str:
        """Return how the run stands: running, paused, finished, stopped or failed."""
        with self.store.session() as session:
            return session.get_one(RunRow, self.id).state

    @property
    def wish(self) -> str:
        """What the operator wishes of the run: see `fedwon.server.runs.wishes`."""
        with self.store.session() as session:
            return session.get_one(RunRow, self.id).wish

    @property
    def clip(self) -> float:
        """How far an update of the next round may move the model, where whole sites are private."""
        with self.store.session() as session:
            return clip_of(session.get_one(RunRow, self.id), self.config.privacy.sites)

    def grant(self) -> None:
        """Note that the operator's wish was fulfilled: a run that is taken up again goes on."""
        with self.together() as session:
            session.get_one(RunRow, self.id).wish = ""

    def task(self, number: int) -> TaskConfig:
        """Return what sites are told in a round."""
        return TaskConfig.of(self.config, run=self.id, server_round=number, classes=self.classes)

    def tell(self, event: Event) -> None:
        """Tell all listeners."""
        for listener in self.listeners:
            listener(event)

    def model_path(self, number: int) -> Path:
        """Return the file of the global model after a round."""
        return self.checkpoints.path(number)

    def commit(
        self,
        number: int,
        record: ArrayRecord,
        *,
        seconds: float,
        sites: Sequence[str],
        delta: ArrayRecord | None = None,
        velocity: ArrayRecord | None = None,
        averaged: Iterable[str] = (),
        releases: Mapping[str, int] = NOTHING,
        told: Mapping[str, float] = NOTHING,
        clip: float | None = None,
    ) -> StoredRecord:
        """Make a round count: its files, each by atomic rename, then one transaction.

        Models that are not kept any more go after that.

        Args:
            number: the round.
            record: the new global model.
            seconds: how long the round took.
            sites: whose updates are in it.
            delta: what makes it of the model before, in a codec.
            velocity: what the server's momentum goes on with.
            averaged: the tasks that these updates came of.
            releases: what it cost in privacy of whole sites: see `fedwon.server.runs.privacy_spent`.
            told: what it cost in privacy of single images, by site.
            clip: how far an update of the next round may go, where whole sites are private.

        Returns:
            The model as it stands on the disk.

        Raises:
            DiskFull: no space left; the round before is untouched.
        """
        moving = None if velocity is None else self.checkpoints.write_velocity(number, velocity)
        blob = self._checkpoint(number, record, sites)
        if delta is not None:
            self.checkpoints.write_delta(number, delta, describe(self.task(number)))
        with self.together() as session:
            session.merge(self.checkpoints.row(number, blob, seconds, moving))
            self.averaged(averaged)
            add_round(session.get_one(RunRow, self.id), releases, told, clip)
        self.tell(RoundCommitted(number, seconds, blob.path, tuple(sites)))
        let_go(self.checkpoints, self.store, self.id, self.config, number)
        return open_record(blob.path, digest=blob.digest)

    def _checkpoint(self, number: int, record: ArrayRecord, sites: Sequence[str]) -> Blob:
        manifest = {
            "sites": list(sites),
            "version": VERSION,
            "config": self.config.model_dump(mode="json"),
            "classes": list(self.classes),
        }
        return self.checkpoints.write(number, record, describe(self.task(number)), manifest)

    def last(self) -> tuple[int, StoredRecord]:
        """Return the last committed round and its model, its digest checked.

        Raises:
            BrokenFile: the file is not the one that was committed.
            RunMissing: nothing was committed.
        """
        return self.checkpoints.last()

    def model(self, number: int) -> StoredRecord:
        """Return the model of a committed round, its digest checked.

        Raises:
            BrokenFile: the file is not the one that was committed.
            RunMissing: that round was not committed, or its model was let go.
        """
        return self.checkpoints.model(number)

    def take_up(self) -> None:
        """Go on with a run that was broken off, from its newest whole model.

        Raises:
            BrokenFile: no kept model is whole.
            StorageError: the folder or the database cannot be written.
        """
        self.make_folders()
        self.checkpoints.fall_back()
        self.set_state("running")

    def quarantined(self, path: Path) -> Path:
        """Keep a refused update for inspection; return where it is.

        Raises:
            StorageError: it cannot be moved.
        """
        try:
            kept = path.replace(self.quarantine / path.name)
        except OSError as error:
            raise storage_error(error, f"moving {path} to {self.quarantine}") from None
        prune_quarantine(self.quarantine, self.config.retention, newest=kept)
        return kept

    def clear_spool(self, keeping: Collection[str] = ()) -> None:
        """Delete updates that are averaged or belong to a round that is over; the folder stays.

        Args:
            keeping: tasks whose updates may still come, or be half here.
        """
        for path in self.spool.glob("*"):
            if path.stem not in keeping:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def finish(self, state: str, reason: str = "") -> Path | None:
        """End the run; a finished one gives its last model the name `model.safetensors`.

        What the sites sent of a round that was cut short stays, so that they need not send it again.

        Returns:
            That file, or None when the run has not finished.

        Raises:
            StorageError: the file or the database cannot be written.
        """
        path = None
        if state == "finished":
            path = self.checkpoints.publish()
            self.clear_spool()
        self.set_state(state, reason)
        self.tell(RunEnded(self.id, state, reason, path))
        return path

    def make_folders(self) -> None:
        """Make the run's folders, and delete what a `kill -9` left half-written in them."""
        try:
            for folder in (self.folder, self.spool, self.quarantine):
                folder.mkdir(parents=True, exist_ok=True)
                remove_leftovers(folder)
        except OSError as error:
            raise storage_error(error, f"making {self.folder}") from None

    @contextmanager
    def paused(self, reason: str) -> Iterator[None]:
        """Note that the run pauses while the block runs, and why; the operator sees it."""
        self.set_state("paused", reason)
        self.store.audit("run paused", self.id, reason)
        self.tell(RunPaused(self.id, reason))
        yield
        self.set_state("running")

    def set_state(self, state: str, reason: str = "") -> None:
        """Note that the run goes on, pauses or has ended."""
        with self.together() as session:
            row = session.get_one(RunRow, self.id)
            row.state, row.reason = state, reason
            row.ended = None if state in UNDER_WAY else now()
