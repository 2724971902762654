"""The answers of a round: each is looked at as it comes, noted, told, and counted or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedwon.common.arrays import StoredRecord, open_record, write_record
from fedwon.common.codec import PLAIN, codec_of
from fedwon.common.codec.coding import decode
from fedwon.common.errors import BrokenFile, ModelMismatch, StorageError
from fedwon.common.wire.surveys import Survey
from fedwon.server.admission import refuse
from fedwon.server.aggregation import Update
from fedwon.server.events import SiteAnswered, SiteFailed, SiteNoted
from fedwon.server.notes import notes_of
from fedwon.server.runs import Run
from fedwon.server.site_grid import SiteGrid, metrics_of, node_id_of

LATE = "no answer before the round closed"
STILL_COUNTS = "no answer before the round closed; it still counts if it comes soon"


@dataclass(frozen=True)
class Accepted:
    """An answer that counts.

    Attributes:
        update: its arrays, and how many images are behind them.
        metrics: its numbers.
    """

    update: Update
    metrics: RecordDict


@dataclass(frozen=True)
class Missing:
    """An answer that does not count.

    Attributes:
        reason: why, in words.
        state: "failed", "refused" or "late", as in the database.
    """

    reason: str
    state: str


def round_of(message: Message) -> int:
    """Return the round that a task belongs to; a late one's is not the one in hand."""
    return int(message.metadata.group_id)


class Answers:
    """Looks at the answers to the tasks of a run.

    Args:
        run: where they are noted.
        grid: the sites.
        shared: the arrays that every update must have, by name, shape and element type.
        surveys: what images each site said it has when it was asked.
    """

    def __init__(self, run: Run, grid: SiteGrid, shared: ArrayRecord, surveys: Mapping[str, Survey | None]) -> None:
        self._run, self._grid, self._shared, self._surveys = run, grid, shared, surveys
        self._images: dict[str, str] = {}

    def collect(
        self, number: int, asked: Mapping[str, Message], replies: Iterable[Message]
    ) -> tuple[dict[str, Accepted], dict[str, Missing]]:
        """Take the answers of a round as they come.

        Args:
            number: the round in hand.
            asked: the tasks by site.
            replies: their answers; what is missing at the end is late.

        Returns:
            What counts, and why the rest does not, both by site.
        """
        waiting = {node_id_of(site): site for site in asked}
        accepted: dict[str, Accepted] = {}
        missing: dict[str, Missing] = {}
        for reply in replies:
            site = waiting.pop(reply.metadata.src_node_id)
            outcome = self._looked_at(number, site, asked[site], reply)
            if isinstance(outcome, Accepted):
                accepted[site] = outcome
            else:
                missing[site] = self._noted(number, site, asked[site], outcome)
        for site in waiting.values():
            reason = STILL_COUNTS if self.may_be_late(number, asked[site]) else LATE
            missing[site] = self._noted(number, site, asked[site], Missing(reason, "late"))
        return accepted, missing

    def _looked_at(self, number: int, site: str, task: Message, reply: Message) -> Accepted | Missing:
        if reply.has_error():
            return Missing(reply.error.reason or "no reason given", "failed")
        outcome = self._examined(number, site, task, reply.content)
        return outcome if isinstance(outcome, Accepted) else Missing(outcome, "refused")

    def may_be_late(self, number: int, task: Message) -> bool:
        """Tell whether a task that is open when a round ends is carried on into the next one."""
        return number - round_of(task) < self._run.config.participation.late_rounds

    def _examined(self, number: int, site: str, task: Message, content: RecordDict) -> Accepted | str:
        """Return what counts of an answer, or the reason why it is refused."""
        name, metrics = task.metadata.message_id, metrics_of(content)
        if len(content.array_records) != 1:
            self._grid.discount(name)
            return "the answer does not hold one record of arrays"
        arrived = next(iter(content.array_records.values()))
        try:
            record = self._stored(name, _decoded(arrived, content, task.content))
        except BrokenFile as error:
            self._grid.discount(name)
            if isinstance(arrived, StoredRecord):
                self._run.quarantined(arrived.blob.path)
            return error.message
        if isinstance(arrived, StoredRecord) and arrived.blob.path != record.blob.path:
            with suppress(OSError):  # it was unpacked for this moment, and may be as large as the update
                arrived.blob.path.unlink(missing_ok=True)
        reason = refuse(record, metrics, self._shared, self._images_of(site))
        if reason is not None:
            self._grid.discount(name)
            self._run.quarantined(record.blob.path)
            return reason
        self._answered(number, site, task, metrics)
        self._note_images(site, notes_of(content))
        update = Update(site, int(metrics["num-examples"]), record, rounds_late=number - round_of(task))
        return Accepted(update, RecordDict({"metrics": MetricRecord(metrics)}))

    def _images_of(self, site: str) -> int | None:
        """Return how many images a site said it has; when it has left meanwhile, what it said when it was asked."""
        survey = self._grid.survey(site) or self._surveys.get(site)
        return (
            None if survey is None else sum(row.get("train", 0) + row.get("validation", 0) for row in survey.values())
        )

    def _stored(self, name: str, record: ArrayRecord) -> StoredRecord:
        if isinstance(record, StoredRecord):
            return record
        path = self._run.spool / f"{name}.safetensors"
        try:
            blob = write_record(record, path)
        except ModelMismatch as error:
            raise BrokenFile(error.message) from None
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001  # bytes of a site's own making, which nobody has looked at so far
            raise BrokenFile(f"The answer's arrays cannot be read ({type(error).__name__}: {error}).") from None
        return open_record(path, digest=blob.digest)

    def _answered(self, number: int, site: str, task: Message, metrics: Mapping[str, float]) -> None:
        name, trained = task.metadata.message_id, round_of(task)
        cost = self._grid.traffic(name)
        looked = {key: value for key, value in metrics.items() if key.startswith("validation")}
        with self._run.soon():
            self._run.settled(name, "received", cost=cost)
            self._run.measured(trained - 1, site, looked)
            self._run.measured(trained, site, {key: value for key, value in metrics.items() if key not in looked})
        self._run.tell(SiteAnswered(number, site, metrics, trained - 1, cost.seconds, cost.bytes_down, cost.bytes_up))

    def _note_images(self, site: str, text: str) -> None:
        if text and self._images.get(site) != text:
            self._images[site] = text
            self._run.store.audit("images", site, text)
            self._run.tell(SiteNoted(site, text))

    def _noted(self, number: int, site: str, task: Message, missing: Missing) -> Missing:
        self._run.settled(task.metadata.message_id, missing.state, reason=missing.reason)
        self._run.tell(SiteFailed(number, site, missing.reason))
        return missing


def _decoded(arrived: ArrayRecord, content: RecordDict, asked: RecordDict) -> ArrayRecord:
    """Return the update that an answer is about, however it was written.

    Raises:
        BrokenFile: it is not what its codec writes; also later, when its tensors are asked for.
    """
    if codec_of(content) == PLAIN:
        return arrived
    return decode(arrived, next(iter(asked.array_records.values())))
