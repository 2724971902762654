"""What private training has cost at this site, over all runs and restarts, and what the site allows.

A row a run, noise and batch: how many steps. Under fedwon's link it is a file (`privacy.json` beside client.yaml),
written before a task begins, so that nothing is ever released that was not written down; a task that fails, or is done
again after a power cut, is so paid for twice. In a simulation, and under Flower's own SuperNode without
`privacy.ledger`, it is in Flower's `context.state`.

Runs may use the same images: what they cost adds up, at the site's own delta.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import ConfigRecord, RecordDict
from pydantic import Field, ValidationError

from fedwon.client.config import SitePrivacyRules
from fedwon.client.site import Site
from fedwon.common.accounting import Spent, sampled_epsilon
from fedwon.common.config import Settings
from fedwon.common.errors import BeyondLimits, BrokenFile, PrivacySpent
from fedwon.common.files import read_bytes, write_atomic
from fedwon.common.task_config import TaskConfig

RECORD, TEXT = "privacy", "ledger"
"""Where the ledger is in Flower's state."""


class Row(Settings):
    """Steps of one kind in one run."""

    run: str
    """The run."""
    noise: float = Field(gt=0)
    """Noise multiplier."""
    rate: float = Field(gt=0, le=1)
    """Probability that an image is in a batch."""
    steps: int = Field(ge=1)
    """How many."""


class Content(Settings):
    """The whole ledger."""

    rows: tuple[Row, ...] = ()
    """In the order in which they began."""

    def with_steps(self, run: str, plan: Spent) -> Content:
        """Return the ledger with so many steps more."""
        key = run, plan.noise, plan.rate
        rows = {(row.run, row.noise, row.rate): row for row in self.rows}
        before = rows[key].steps if key in rows else 0
        rows[key] = Row(run=run, noise=plan.noise, rate=plan.rate, steps=before + plan.steps)
        return Content(rows=tuple(rows.values()))

    def epsilon(self, delta: float, run: str | None = None) -> float:
        """Return what was spent, in all runs or in one."""
        return sampled_epsilon(
            [Spent(row.noise, row.rate, row.steps) for row in self.rows if run in {None, row.run}], delta
        )


def read_ledger(path: Path) -> Content:
    """Return what a file says was spent; nothing where there is none.

    Raises:
        BrokenFile: it cannot be understood; no budget is taken for unspent.
        StorageError: it cannot be read.
    """
    try:
        return Content.model_validate_json(read_bytes(path), strict=True) if path.exists() else Content()
    except ValidationError:
        raise BrokenFile(
            f"{path} is no ledger of what private training has cost here, so this site cannot tell what is left of its "
            "budget.",
            hint="Put it back from a backup. Only who is sure that nothing was spent may delete it.",
        ) from None


def spent_in_words(path: Path, rules: SitePrivacyRules) -> str:
    """Say what is spent of a site's budget.

    Raises:
        BrokenFile, StorageError: see `read_ledger`.
        MissingExtra: Opacus is not installed.
    """
    content = read_ledger(path)
    most = "no limit" if rules.most_epsilon is None else f"of {rules.most_epsilon:g}"
    runs = len({row.run for row in content.rows})
    return f"epsilon {content.epsilon(rules.delta):.3g} spent, {most}, at delta {rules.delta:g}; private runs: {runs}"


class Ledger:
    """The ledger of a site.

    Args:
        site: whose; its `privacy` says where the file is, and what it allows.
        state: Flower's, where there is no file.
    """

    def __init__(self, site: Site, state: RecordDict) -> None:
        self._rules, self._state = site.config.privacy, state
        self._path: Path | None = None if self._rules.ledger is None else site.base / self._rules.ledger

    def read(self) -> Content:
        """Return what was spent so far.

        Raises:
            BrokenFile: the file cannot be understood; no budget is taken for unspent.
            StorageError: it cannot be read.
        """
        if self._path is not None:
            return read_ledger(self._path)
        kept = self._state.get(RECORD)
        return Content.model_validate_json(str(kept[TEXT])) if isinstance(kept, ConfigRecord) else Content()

    def permit(self, task: TaskConfig) -> None:
        """Check that a task is as private as this site asks, whatever it would cost.

        Raises:
            BeyondLimits: it is not.
        """
        least, noise = self._rules.least_noise, task.privacy.noise
        asks = least is not None or self._rules.most_epsilon is not None
        if asks and noise is None:
            raise BeyondLimits(
                "This site trains privately only (`privacy` in client.yaml), and the task has no `privacy.examples`."
            )
        if least is not None and noise is not None and noise < least:
            raise BeyondLimits(
                f"This site trains with a noise multiplier of {least:g} at least (`privacy.least_noise` in "
                f"client.yaml); it was asked for {noise:g}."
            )

    def charge(self, task: TaskConfig, plan: Spent) -> float:
        """Write a task's cost down, before it begins.

        Returns:
            Epsilon of its run so far, with this task, at the run's delta.

        Raises:
            PrivacySpent: it would exceed what the run or the site allows; nothing is written down.
            BrokenFile, StorageError: see `read`.
            MissingExtra: Opacus is not installed.
        """
        after = self.read().with_steps(task.run, plan)
        asked, own = task.privacy, self._rules
        in_run = after.epsilon(asked.delta, task.run)
        if asked.epsilon_limit is not None and in_run > asked.epsilon_limit:
            raise PrivacySpent(
                f"With this task run {task.run} would have cost epsilon {in_run:.3g} at this site, above the run's "
                f"limit of {asked.epsilon_limit:g} (`privacy.examples.epsilon_limit`, delta {asked.delta:g})."
            )
        if own.most_epsilon is not None and (total := after.epsilon(own.delta)) > own.most_epsilon:
            raise PrivacySpent(
                f"With this task all runs together would have cost epsilon {total:.3g} at this site, above its own "
                f"limit of {own.most_epsilon:g} (`privacy.most_epsilon` in client.yaml, delta {own.delta:g})."
            )
        self._write(after)
        return in_run

    def _write(self, content: Content) -> None:
        text = content.model_dump_json(indent=1)
        if self._path is None:
            self._state[RECORD] = ConfigRecord({TEXT: text})
        else:
            write_atomic(self._path, text.encode())
