"""What a site keeps on its disk: finished updates until the server has committed their round, and models by digest.

An update that was trained is never trained again, even when the power fails before it was sent.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import ArrayRecord, RecordDict
from google.protobuf.message import DecodeError

from fedwon.common.arrays import Blob, StoredRecord, open_record, read_header, write_record
from fedwon.common.errors import BrokenFile, FedwonError, Refused
from fedwon.common.files import make_folder, sha256_file, write_atomic
from fedwon.common.rebuilding import UNPACKED, rebuild
from fedwon.common.system_errors import storage_error
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import blob_of, records_to_wire

logger = logging.getLogger(__name__)

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
KEPT_MODELS = 2
KEPT_OUTCOMES = 8
"""Outcomes of runs that nobody resumes must not fill the disk; a round that is still open is among the newest."""


def check_name(task_id: str) -> str:
    """Return a task's name if it can be a file's name.

    Raises:
        Refused: it cannot; the server is not to choose paths on this machine.
    """
    if _SAFE.fullmatch(task_id) is None:
        raise Refused(f"The server sent a task with the name {task_id[:80]!r}.")
    return task_id


class Journal:
    """Finished updates.

    An outcome is two files: `TASK.safetensors`, and `TASK@MODEL.header`, which begins with the SHA-256 of its rest.

    Args:
        folder: made if it is missing; no other process may write there.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)
        kept = set(self.unfinished())
        with _writing(folder):
            for path in self.folder.glob("*.safetensors"):  # a power cut between the two files of an outcome
                if path.stem not in kept:
                    path.unlink(missing_ok=True)

    def keep(self, task_id: str, model: str, content: RecordDict, seconds: float, packing: str = "") -> pb.SubmitHeader:
        """Put the outcome of a task on the disk: its arrays first, then the header, without which nothing counts.

        Args:
            task_id: the task.
            model: digest of the model that it started from.
            content: Flower's records.
            seconds: work on the task.
            packing: how the arrays are packed, as they lie here and as they travel.

        Returns:
            What is sent ahead of the arrays.

        Raises:
            DiskFull: no space left.
        """
        self.drop([task_id])  # one from another model: its header must not stand beside these arrays
        stored = RecordDict()
        for name, record in content.items():
            stored[name] = self._stored(task_id, record, packing) if isinstance(record, ArrayRecord) else record
        header = pb.SubmitHeader(task_id=task_id, records=records_to_wire(stored), seconds=seconds)
        content_bytes = header.SerializeToString()
        write_atomic(self._header(task_id, model), hashlib.sha256(content_bytes).digest() + content_bytes)
        self._prune(task_id)
        return header

    def _prune(self, kept: str) -> None:
        """Let the oldest outcomes go, but not the one just kept: the clock may have gone back."""
        with _writing(self.folder):
            by_age = sorted(self.folder.glob("*@*.header"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        newest = list(dict.fromkeys([kept, *(_task_of(path) for path in by_age)]))
        self.drop(newest[KEPT_OUTCOMES:])

    def _stored(self, task_id: str, record: ArrayRecord, packing: str) -> StoredRecord:
        return StoredRecord(write_record(record, self.arrays(task_id), packing=packing), {}, {})

    def finished(self, task_id: str, model: str) -> pb.SubmitHeader | None:
        """Return the outcome of a task that was done before from the same model, or None; a damaged one is dropped."""
        path = self._header(task_id, model)
        if not path.exists():
            return None
        header = _read_header(path)
        if header is None or header.task_id != task_id or not self.intact(header):
            logger.warning("the kept outcome of %s is damaged on this site's disk; the task is done again", task_id)
            self.drop([task_id])
            return None
        return header

    def intact(self, header: pb.SubmitHeader) -> bool:
        """Tell whether the arrays of an outcome are what its header says."""
        wanted = blob_of(header.records)
        try:
            return wanted is None or sha256_file(self.arrays(header.task_id)) == wanted.digest
        except FedwonError:
            return False

    def unfinished(self) -> list[str]:
        """Return the tasks whose outcome is kept."""
        return sorted({_task_of(path) for path in self.folder.glob("*@*.header")})

    def drop(self, task_ids: Iterable[str]) -> None:
        """Forget outcomes: the server has committed their round or does not want them any more.

        Raises:
            Refused: a name is none of a task.
            StorageError: a file cannot be removed.
        """
        for task_id in task_ids:
            name = check_name(task_id)
            with _writing(self.folder):
                for path in self.folder.glob(f"{name}@*.header"):  # first: without it the arrays do not count
                    path.unlink(missing_ok=True)
                self.arrays(name).unlink(missing_ok=True)

    def arrays(self, task_id: str) -> Path:
        """Return the file of an outcome's arrays, packed if they travel so."""
        return self.folder / f"{check_name(task_id)}.safetensors"

    def _header(self, task_id: str, model: str) -> Path:
        return self.folder / f"{check_name(task_id)}@{model[:16] or 'none'}.header"


class ModelCache:
    """Global models by digest; the newest few are kept.

    Args:
        folder: made if it is missing.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)

    def partial(self, wanted: pb.Blob) -> Path:
        """Return the file into which a model is fetched.

        Raises:
            Refused: the digest is none; the server is not to choose paths on this machine.
        """
        if _DIGEST.fullmatch(wanted.digest) is None:
            raise Refused(f"The server names a model by {wanted.digest[:80]!r}, which is no digest.")
        return self.folder / f"{wanted.digest}.part"

    def has(self, digest: str) -> bool:
        """Tell whether a model seems to be here; `get` says whether it is whole.

        Raises:
            Refused: the digest is none.
        """
        return self.partial(pb.Blob(digest=digest)).with_suffix(".safetensors").exists()

    def get(self, wanted: pb.Blob) -> StoredRecord | None:
        """Return a model that is here and whole, or None; of `wanted` the digest counts."""
        path = self.partial(wanted).with_suffix(".safetensors")
        if not path.exists():
            return None
        if sha256_file(path) != wanted.digest:
            logger.warning("the model in %s is damaged on this site's disk; it is fetched again", path)
            return None
        with _writing(self.folder):
            path.touch()  # the newest are kept, by use
        return open_record(path, digest=wanted.digest)

    def accept(self, wanted: pb.Blob) -> StoredRecord:
        """Take a model that was fetched whole, and let older ones go.

        Raises:
            BrokenFile: it is not the one that was asked for; it is deleted.
        """
        part = self.partial(wanted)
        try:
            if sha256_file(part) != wanted.digest:
                raise BrokenFile(f"The model {wanted.digest[:12]} arrived damaged (its digest differs).")
            read_header(part)
        except FedwonError:
            part.unlink(missing_ok=True)
            raise
        with _writing(self.folder):
            path = part.replace(part.with_suffix(".safetensors"))
            self._prune(path)
        return StoredRecord(Blob(path, wanted.digest, wanted.size), *read_header(path))

    def rebuild(self, wanted: pb.Blob, delta: pb.Delta) -> bool:
        """Make a model of another one that is here and a file of differences that was fetched whole.

        Returns:
            Whether the model is here now. It is not where the differences are damaged, or where this version makes
            other bytes of them than the server did; then the model has to be fetched.

        Raises:
            StorageError: a file cannot be written.
        """
        part, base = self.partial(delta.file), self.get(pb.Blob(digest=delta.base))
        made = self.partial(wanted)
        try:
            if base is None or sha256_file(part) != delta.file.digest:
                return False
            file = Blob(part, delta.file.digest, delta.file.size, delta.file.packing)
            rebuild(file, base, made, wanted.size)
            self.accept(wanted)
        except BrokenFile as error:
            logger.warning("the model %s cannot be made of differences: %s", wanted.digest[:12], error.message)
            return False
        finally:
            with _writing(self.folder):
                for path in (part, made, part.with_suffix(UNPACKED)):
                    path.unlink(missing_ok=True)
        return True

    def _prune(self, newest: Path) -> None:
        models = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in [path for path in models if path != newest][KEPT_MODELS - 1 :]:
            path.unlink(missing_ok=True)
        for pattern in ("*.part", f"*{UNPACKED}"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)


def _task_of(header: Path) -> str:
    return header.name.rsplit("@", 1)[0]


def _read_header(path: Path) -> pb.SubmitHeader | None:
    """Return a header as it was written, or None where it is damaged."""
    header = pb.SubmitHeader()
    try:
        content = path.read_bytes()
        if content[:32] != hashlib.sha256(content[32:]).digest():
            return None
        header.ParseFromString(content[32:])
    except (OSError, DecodeError):
        return None
    return header


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, f"clearing {folder}") from None
