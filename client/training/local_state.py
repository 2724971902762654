"""What stays at this site: its own layers, after the last rounds that it trained, and what its updates still owe.

They live in Flower's `context.state`, one `ArrayRecord` a round under the name `<run>.r<round>`, so a stock SuperNode
and a simulation carry them as well; what a codec left out of an update (error feedback) beside them, as
`<run>.feedback.r<round>`. Under our own link they are put on the disk before the update of the same round
counts as finished: a power cut between the two costs that round's training, and never its result.

Two rounds are kept, because a task may be asked for again: round r starts from the newest state before r.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ArrayRecord, RecordDict

from fedwon.common.arrays import StoredRecord, open_record, read_header, write_record
from fedwon.common.errors import FedwonError
from fedwon.common.files import make_folder, move
from fedwon.common.system_errors import storage_error

logger = logging.getLogger(__name__)

LAYERS, FEEDBACK = "", ".feedback"
"""Kinds of what is kept."""
KEPT_ROUNDS = 2
KEPT_RUNS: Mapping[str, int] = {LAYERS: 4, FEEDBACK: 1}
"""Of how many runs, by kind: what an update owes is as large as a model, and a run that is taken up again later, after
another one, does without."""
_NAME = re.compile(r"(?P<run>.+?)(?P<kind>\.feedback)?\.r(?P<round>\d{4,})")
_UNNAMED = "unnamed"
_FILE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,200})@(?P<digest>[0-9a-f]{64})")


def recall(state: RecordDict, run: str, *, before: int, kind: str = LAYERS) -> ArrayRecord | None:
    """Return what was kept in the newest round of a run before this one; None if there is nothing yet."""
    rounds = [number for number in _rounds(state, run, kind) if number < before]
    return state.array_records[_name(run, kind, max(rounds))] if rounds else None


def remember(state: RecordDict, run: str, number: int, tensors: ArrayRecord, kind: str = LAYERS) -> None:
    """Keep tensors after a round; later rounds, which this one replaces, and old ones go.

    Args:
        state: Flower's state of the site.
        run: the run.
        number: the round.
        tensors: what stays here.
        kind: what they are.
    """
    earlier = [other for other in sorted(_rounds(state, run, kind)) if other < number][1 - KEPT_ROUNDS :]
    kept = {_name(run, kind, other): state.array_records[_name(run, kind, other)] for other in earlier}
    for other in _rounds(state, run, kind):
        del state[_name(run, kind, other)]
    for name, record in kept.items():  # to the end: runs are forgotten in the order in which they were last trained
        state[name] = record
    state[_name(run, kind, number)] = tensors
    runs = list(dict.fromkeys(match["run"] for match in _kept(state, kind)))
    for old_run in runs[: -KEPT_RUNS[kind]]:
        for old in _rounds(state, old_run, kind):
            del state[_name(old_run, kind, old)]


def _name(run: str, kind: str, number: int) -> str:
    return f"{run}{kind}.r{number:04d}"


def _kept(state: RecordDict, kind: str) -> list[re.Match[str]]:
    found = [_NAME.fullmatch(name) for name in state]
    return [match for match in found if match and (match["kind"] or LAYERS) == kind]


def _rounds(state: RecordDict, run: str, kind: str) -> list[int]:
    return [int(match["round"]) for match in _kept(state, kind) if match["run"] == run]


class LocalStates:
    """The state on the disk: a file a round, `<run>.r<round>@<SHA-256>.safetensors`.

    Args:
        folder: made if it is missing; no other process may write there.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)

    def load(self) -> RecordDict:
        """Return what is kept, oldest first. A damaged file is left out, and the log says so.

        Raises:
            StorageError: a file cannot be read.
        """
        state = RecordDict()
        for path, match in sorted(self._files().items(), key=lambda item: (_age(item[0]), item[0])):
            record = _opened(path, match["digest"])
            if record is not None:
                state[match["name"]] = record
        return state

    def keep(self, state: RecordDict) -> None:
        """Make the disk hold what the state holds: new tensors are written, and then those that are gone deleted.

        In the state a file takes the place of what was in memory.

        Raises:
            DiskFull: no space left; what was kept before is untouched.
        """
        wanted = {name: record for name, record in state.array_records.items() if _NAME.fullmatch(name)}
        for name, record in wanted.items():
            if not isinstance(record, StoredRecord):
                state[name] = self._write(name, record)
        current = {record.blob.path for record in state.array_records.values() if isinstance(record, StoredRecord)}
        try:
            for path in self._files():
                if path not in current:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, f"clearing {self.folder}") from None

    def _write(self, name: str, record: ArrayRecord) -> StoredRecord:
        blob = write_record(record, self.folder / _UNNAMED)
        path = move(blob.path, self.folder / f"{name}@{blob.digest}.safetensors")
        return open_record(path, digest=blob.digest)

    def _files(self) -> Mapping[Path, re.Match[str]]:
        found = {path: _FILE.fullmatch(path.stem) for path in self.folder.glob("*.safetensors")}
        return {path: match for path, match in found.items() if match and _NAME.fullmatch(match["name"])}


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise storage_error(error, f"reading {path}") from None


def _opened(path: Path, digest: str) -> StoredRecord | None:
    try:
        read_header(path)
        record = open_record(path)
    except FedwonError as error:
        logger.error("what this site keeps in %s cannot be used: %s", path.name, error.message)  # noqa: TRY400
        return None
    if record.blob.digest != digest:
        logger.error("what this site keeps in %s is damaged; the round before counts", path.name)
        return None
    return record
