"""The global model after each round: a safetensors file, a manifest beside it, and a row in the database.

`round-0007.safetensors` is the model after round 7 (0: before any training), `round-0007.json` says what it is,
`round-0007.delta`, where the run has a codec for the way down, makes it of the model after round 6, and
`round-0007.velocity`, a safetensors file too, is what the server's momentum goes on with, for itself alone. A round
counts when its files have their final names and its row is committed, in this order. Old files go (`retention`);
manifests and rows stay.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flwr.app import ArrayRecord
from sqlalchemy import delete, select

from fedwon.common.arrays import Blob, StoredRecord, open_record, write_record
from fedwon.common.errors import BrokenFile, RunMissing
from fedwon.common.files import sha256_file, write_atomic
from fedwon.common.packing import ZSTD
from fedwon.common.rebuilding import OF_MODEL
from fedwon.common.system_errors import storage_error
from fedwon.server.rounds.site_grid import Delta
from fedwon.server.store import AuditRow, RoundRow, Store, now

logger = logging.getLogger(__name__)

NONE_LEFT = (
    "Put back the run's folder from a backup and resume again, or start a new run without `--resume`; "
    "`fedwon-server evaluate --round N` tells whether an older model is whole."
)


class Checkpoints:
    """The models of one run.

    Args:
        store: the server's database.
        run: the run's name.
        folder: the run's folder.
    """

    def __init__(self, store: Store, run: str, folder: Path) -> None:
        self._store, self._run, self._folder = store, run, folder

    def path(self, number: int) -> Path:
        """Return the file of the global model after a round."""
        return self._folder / f"round-{number:04d}.safetensors"

    def write(
        self, number: int, record: ArrayRecord, metadata: Mapping[str, str], manifest: Mapping[str, object]
    ) -> Blob:
        """Write a model and its manifest, each by atomic rename; nothing counts before its row is committed.

        Raises:
            DiskFull: no space left; the round before is untouched.
        """
        path = self.path(number)
        blob = write_record(record, path, metadata, sync_folder=False)  # the manifest's turn is next
        content = {"run": self._run, "round": number, "digest": blob.digest, "size": blob.size, **manifest}
        write_atomic(path.with_suffix(".json"), json.dumps(content, indent=1).encode())
        return blob

    def write_delta(self, number: int, delta: ArrayRecord, metadata: Mapping[str, str]) -> None:
        """Keep what makes the model of a round of the one before.

        Args:
            number: the round.
            delta: the model in a codec.
            metadata: the text entries of the model's file, so that a site makes that very file.

        Raises:
            DiskFull: no space left.
        """
        write_record(delta, self.delta_path(number), {OF_MODEL: json.dumps(metadata)}, packing=ZSTD)

    def write_velocity(self, number: int, velocity: ArrayRecord) -> str:
        """Keep what the server's momentum goes on with after a round; return its digest.

        Raises:
            DiskFull: no space left.
        """
        return write_record(velocity, self.velocity_path(number), sync_folder=False).digest  # the model's turn is next

    def velocity_path(self, number: int) -> Path:
        """Return the file of what the server's momentum goes on with after a round."""
        return velocity_of(self.path(number))

    def velocity(self, number: int) -> StoredRecord | None:
        """Return what the server's momentum goes on with after a committed round, its digest checked; None: at rest.

        Raises:
            BrokenFile: the file is not the one that was committed.
            RunMissing: that round was not committed.
            StorageError: there is no such file, or it cannot be read.
        """
        with self._store.session() as session:
            row = session.get(RoundRow, (self._run, number))
        if row is None:
            raise RunMissing(f"Run {self._run} has no committed round {number}.")
        return None if row.velocity is None else self._opened(row.velocity, self.velocity_path(number))

    def delta_path(self, number: int) -> Path:
        """Return the file that makes the model of a round of the one before."""
        return self.path(number).with_suffix(".delta")

    def delta(self, number: int) -> Delta | None:
        """Return what makes the model of a committed round of the one before, where that is less than the model.

        Raises:
            StorageError: it cannot be read.
        """
        path = self.delta_path(number)
        if not path.exists():
            return None
        query = select(RoundRow).where(RoundRow.run == self._run, RoundRow.number.in_([number - 1, number]))
        with self._store.session() as session:
            rows = session.scalars(query.order_by(RoundRow.number)).all()
        size = path.stat().st_size
        if len(rows) < 2 or size >= rows[1].size:
            return None
        return Delta(Blob(path, sha256_file(path), size, ZSTD), base=rows[0].digest)

    def row(self, number: int, blob: Blob, seconds: float, velocity: str | None = None) -> RoundRow:
        """Return the row that makes a round count; `velocity` is the digest of its velocity, where it has one."""
        file = {"path": blob.path.name, "digest": blob.digest, "size": blob.size}
        return RoundRow(run=self._run, number=number, **file, seconds=seconds, committed=now(), velocity=velocity)

    def here(self) -> list[int]:
        """Return the rounds whose model is on the disk, committed or not."""
        return sorted(int(path.stem.removeprefix("round-")) for path in self._folder.glob("round-*.safetensors"))

    def last(self) -> tuple[int, StoredRecord]:
        """Return the last committed round and its model, its digest checked.

        Raises:
            BrokenFile: the file is not the one that was committed.
            RunMissing: nothing was committed.
        """
        for row in self._rows():
            return row.number, self._model(row)
        raise RunMissing(f"Run {self._run} has no committed round.")

    def model(self, number: int) -> StoredRecord:
        """Return the model of a committed round, its digest checked.

        Raises:
            BrokenFile: the file is not the one that was committed.
            RunMissing: that round was not committed, or its model was let go.
        """
        rows = {row.number: row for row in self._rows()}
        if not 0 <= number <= max(rows, default=-1):
            raise RunMissing(f"Run {self._run} has no committed round {number}.")
        here = self.here()
        if number not in rows or (number not in here and here):
            raise RunMissing(
                f"The model of round {number} of {self._run} is not kept any more; there are those of rounds "
                f"{', '.join(map(str, here))}.",
                hint="`run.retention.rounds` in server.yaml says how many are kept.",
            )
        return self._model(rows[number])

    def publish(self) -> Path:
        """Give the last model the name `model.safetensors` as well, and return that file.

        Raises:
            StorageError: it cannot be written.
        """
        model, path = self.last()[1].blob.path, self._folder / "model.safetensors"
        temporary = path.with_suffix(".tmp")
        try:
            temporary.unlink(missing_ok=True)
            try:
                os.link(model, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(model, temporary)
            return temporary.replace(path)
        except OSError as error:
            raise storage_error(error, f"writing {path}") from None

    def fall_back(self) -> None:
        """Let the newest round count whose model is whole; those after it are forgotten, to be done again.

        A file that is damaged or gone is set aside, and log and audit trail say so. Sites, seed and rounds are the
        same, so the rounds done again give the same bits.

        Raises:
            BrokenFile: no kept model is whole.
            StorageError: a file cannot be read for another reason than damage.
        """
        lost: list[str] = []
        for row in self._rows():
            reason = self._damage(row)
            if reason is None:
                if lost:
                    self._forget_after(row.number, lost)
                return
            lost.append(reason)
        if lost:
            raise BrokenFile(f"No model of run {self._run} is whole any more. {lost[0]}", hint=NONE_LEFT)

    def _damage(self, row: RoundRow) -> str | None:
        path = self._folder / row.path
        for digest, file in ((row.digest, path), (row.velocity, velocity_of(path))):
            if digest is None:
                continue
            if not file.exists():
                return f"{file} is gone."
            try:
                self._opened(digest, file)
            except BrokenFile as error:
                return error.message
        return None

    def _forget_after(self, number: int, lost: Sequence[str]) -> None:
        for reason in lost:
            logger.error("%s", reason)
        logger.warning("round %d is the newest whole one; the run goes on from there", number)
        with self._store.session() as session:
            session.execute(delete(RoundRow).where(RoundRow.run == self._run, RoundRow.number > number))
            detail = f"back to round {number}: {' '.join(lost)}"
            session.add(AuditRow(action="checkpoint damaged", subject=self._run, detail=detail))

    def _rows(self) -> Iterator[RoundRow]:
        """The committed rounds, newest first."""
        with self._store.session() as session:
            query = select(RoundRow).where(RoundRow.run == self._run).order_by(RoundRow.number.desc())
            rows = session.scalars(query).all()
        yield from rows

    def _model(self, row: RoundRow) -> StoredRecord:
        return self._opened(row.digest, self._folder / row.path)

    @staticmethod
    def _opened(digest: str, path: Path) -> StoredRecord:
        record = open_record(path)
        if record.blob.digest != digest:
            raise BrokenFile(f"{path} is not the file that was committed (its digest differs).")
        return record


def velocity_of(model: Path) -> Path:
    """Return the file beside a round's model with what the server's momentum goes on with."""
    return model.with_suffix(".velocity")
