"""The answers of a round: each is looked at as it comes, noted, told, and counted or not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedwon.common.arrays import StoredRecord, open_record, write_record
from fedwon.common.codec import PLAIN, codec_of
from fedwon.common.codec.coding import decode
from fedwon.common.errors import BrokenFile, FedwonError, ModelMismatch, StorageError
from fedwon.common.surveys import Survey
from fedwon.server.admission.outliers import Candidate, refuse_outliers, start_of
from fedwon.server.admission.pull import held_back
from fedwon.server.admission.quarantine import give_up, hold, released
from fedwon.server.admission.rules import Landed, Past, Refusal, refuse, refuse_arrays, refuse_size
from fedwon.server.admission.suspension import suspend_repeated, suspended
from fedwon.server.admission.track_record import TrackRecord
from fedwon.server.aggregation.averaging import Update
from fedwon.server.aggregation.differences import Change, norm
from fedwon.server.rounds.events import SiteAnswered, SiteFailed, SiteNoted
from fedwon.server.rounds.notes import notes_of
from fedwon.server.rounds.site_grid import SiteGrid, metrics_of, node_id_of
from fedwon.server.runs.run import Run

LATE = "no answer before the round closed"
STILL_COUNTS = "no answer before the round closed; it still counts if it comes soon"


@dataclass(frozen=True)
class Accepted:
    """An answer that counts.

    Attributes:
        update: its arrays, and how many images are behind them.
        metrics: its numbers.
        task: the task that it answers.
        round: the round that it was asked for in.
        start: of the model that it started from, what the update has.
        norm: of the difference; None where nothing is compared with it.
    """

    update: Update
    metrics: RecordDict
    task: str
    round: int
    start: ArrayRecord
    norm: float | None = None

    @property
    def past(self) -> Past:
        """What later updates are compared with."""
        update = self.update
        return Past(update.site, self.round, update.examples, self.norm, update.record.blob.digest)


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
        self._held: set[str] = set()
        self._rules = run.config.admission
        self._track_record = TrackRecord(run.store, run.id, self._rules.window)

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
            reason = "the answer does not hold one record of arrays"
            self._refuse(site, task, Refusal("broken", reason), metrics, None)
            return reason
        arrived, model = next(iter(content.array_records.values())), next(iter(task.content.array_records.values()))
        try:
            record = self._stored(name, _decoded(arrived, content, task.content))
        except BrokenFile as error:
            kept = arrived if isinstance(arrived, StoredRecord) else None
            self._refuse(site, task, Refusal("broken", error.message), metrics, kept)
            return error.message
        if isinstance(arrived, StoredRecord) and arrived.blob.path != record.blob.path:
            with suppress(OSError):  # it was unpacked for this moment, and may be as large as the update
                arrived.blob.path.unlink(missing_ok=True)
        refusal = refuse(self._landed(number, site, task, record, metrics), self._shared, self._rules)
        if refusal is not None:
            self._refuse(site, task, refusal, metrics, record)
            return refusal.reason
        self._answered(number, site, task, metrics)
        self._note_images(site, notes_of(content))
        update = Update(site, int(metrics["num-examples"]), record, rounds_late=number - round_of(task))
        start = start_of(record, model)
        moved = norm(Change(record, start)) if self._compares else None
        numbers = RecordDict({"metrics": MetricRecord(metrics)})
        return Accepted(update, numbers, name, round_of(task), start, moved)

    @property
    def _compares(self) -> bool:
        """Whether any rule needs to know how far an update moves the model."""
        return not self._rules.norm is self._rules.own_norm is self._rules.cosine is None

    def _landed(
        self, number: int, site: str, task: Message, record: StoredRecord, metrics: Mapping[str, Any]
    ) -> Landed:
        known = self._track_record
        looks = self._rules.replays and len(record) > 0  # of a method that shares nothing, all updates are alike
        earlier = known.earlier(site, record.blob.digest, round_of(task)) if looks else None
        rules = self._run.config.aggregation
        private = self._run.config.privacy.sites.noise is not None  # the bound is on one site's update
        alone = rules.rule if rules.needs_single_sites else "privacy.sites" if private else ""
        return Landed(record, metrics, self._survey_of(site), known.of(site, number), earlier, alone)

    def _refuse(
        self, site: str, task: Message, refusal: Refusal, metrics: Mapping[str, Any], record: StoredRecord | None
    ) -> None:
        """Keep an update in quarantine; it counts neither towards the quorum nor in the average."""
        name, path = task.metadata.message_id, None if record is None else record.blob.path
        self._grid.discount(name)
        hold(self._run, refusal, task=name, site=site, number=round_of(task), metrics=metrics, path=path)
        suspend_repeated(self._run.store, self._run.id, site, self._rules.suspend_after)

    def compare(self, number: int, asked: Mapping[str, Message], accepted: dict[str, Accepted]) -> dict[str, Missing]:
        """Compare the updates of a round with one another, once enough of them are there.

        Args:
            number: the round in hand.
            asked: the tasks by site.
            accepted: the updates that passed by themselves; those that do not count after all are taken out.

        Returns:
            Why each of those does not count, by site.
        """
        out = suspended(self._run.store)
        refused = {
            site: Refusal("suspended", f"the site is suspended: {out[site]}") for site in accepted if site in out
        }
        candidates = [
            Candidate(site, one.update.examples, Change(one.update.record, one.start), one.norm)
            for site, one in sorted(accepted.items())
            if one.norm is not None and site not in refused
        ]
        refused |= refuse_outliers(candidates, self._track_record.before(number), self._rules)
        self._hold_back(number, [one for one in candidates if one.site not in refused], accepted)
        missing = {}
        for site, refusal in refused.items():
            one = accepted.pop(site)
            self._refuse(site, asked[site], refusal, metrics_of(one.metrics), one.update.record)
            missing[site] = self._noted(number, site, asked[site], Missing(refusal.reason, "refused"))
        return missing

    def _hold_back(self, number: int, candidates: Sequence[Candidate], accepted: dict[str, Accepted]) -> None:
        """Let updates that pull too hard weigh less; the audit trail says so once a site."""
        known = self._track_record.before(number)
        held = held_back(candidates, known, self._rules, self._run.config.aggregation)
        for site in (one.site for one in candidates):
            portion = held[site].portion if site in held else 1.0  # anew where the round was asked for again
            accepted[site] = replace(accepted[site], update=replace(accepted[site].update, portion=portion))
        for site in sorted(held.keys() - self._held):
            self._held.add(site)
            self._run.store.audit("update held back", site, f"{accepted[site].task}: {held[site].reason}")

    def released(self, number: int, counting: Collection[str]) -> dict[str, Accepted]:
        """Return the refused updates that an operator let out, by task, as updates of the round in hand.

        Args:
            number: the round in hand.
            counting: tasks of which another answer counts by itself.

        Raises:
            StorageError: the database cannot be used.
        """
        found = {}
        for row, record in released(self._run):
            if row.task in counting:
                give_up(self._run, row, "its later answer to the same task counts")
                continue
            try:
                start = self._run.model(row.round - 1)
            except FedwonError as error:
                give_up(self._run, row, error.message)
                continue
            if (reason := refuse_arrays(record, self._shared)) is not None:
                give_up(self._run, row, reason)
                continue
            late, numbers = max(number - row.round, 0), RecordDict({"metrics": MetricRecord(row.metrics)})
            update = Update(row.site, int(row.metrics["num-examples"]), record, rounds_late=late)
            found[row.task] = Accepted(update, numbers, row.task, row.round, start_of(record, start))
        return found

    def _survey_of(self, site: str) -> Survey | None:
        """Return what images a site said it has; when it has left meanwhile, what it said when it was asked."""
        return self._grid.survey(site) or self._surveys.get(site)

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
        BrokenFile: it is larger than any update can be, or is not what its codec writes; also later, when its tensors
            are asked for.
    """
    model = next(iter(asked.array_records.values()))
    if (too_much := refuse_size(arrived, model)) is not None:
        raise BrokenFile(too_much)
    return arrived if codec_of(content) == PLAIN else decode(arrived, model)
