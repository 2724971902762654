"""A run's figures as writers take them, read from the database: what it is, and what came of each round."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from fedwon.common.config import flatten
from fedwon.server.runs.run import Run
from fedwon.server.store import UNDER_WAY, MetricRow, RoundRow, RunRow, Store, TaskRow

COUNTED, TROUBLES = "averaged", ("refused", "failed", "late")


@dataclass(frozen=True)
class RunFacts:
    """What a run is.

    Attributes:
        parameters: its configuration laid flat, as text.
        state: running, paused, finished, stopped or failed.
        began: when it was made.
        ended: when it ended, if it has.
        last: its last committed round.
        model: the file of that round's model.
        digest: that file's SHA-256, hexadecimal.
    """

    id: str
    parameters: Mapping[str, str]
    state: str
    reason: str
    began: datetime
    ended: datetime | None
    last: int
    model: Path
    digest: str

    @property
    def under_way(self) -> bool:
        """Whether it goes on."""
        return self.state in UNDER_WAY


@dataclass(frozen=True)
class RoundFigures:
    """What came of one round.

    Attributes:
        number: the round; 0 is the model that the run began with.
        at: when it was committed.
        values: by name: `accuracy/mean`, `accuracy/worst`, `accuracy/site/SITE` and so on of the round's model (shares,
            0 to 1, on validation images; `test_accuracy/...` on test images), `loss/mean`, `train_loss/site/SITE`,
            `seconds/round` and `seconds/site/SITE`, `bytes/down`, `bytes/up` and both by site, and how many `updates`
            counted, or were `refused`, `failed` or `late`.
    """

    number: int
    at: datetime
    values: Mapping[str, float]


def read_run(store: Store, root: Path, run: str) -> RunFacts:
    """Read what a run is now.

    Raises:
        StorageError: the database cannot be read.
    """
    with store.session() as session:
        row = session.get_one(RunRow, run)
        newest = select(RoundRow).where(RoundRow.run == run).order_by(RoundRow.number.desc()).limit(1)
        last = session.scalars(newest).one()
    opened = Run.of_row(store, root, row)
    flat = {**flatten(opened.config), "classes": list(row.classes)}
    parameters = {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}
    model, ends = opened.folder / last.path, (row.made, row.ended)
    return RunFacts(run, parameters, row.state, row.reason, *ends, last.number, model, last.digest)


def read_rounds(store: Store, facts: RunFacts, after: int) -> list[RoundFigures]:
    """Return the rounds behind another one whose figures are whole.

    A round's model is measured by the sites in the round that follows, so the last one of a run that goes on is not.

    Raises:
        StorageError: the database cannot be read.
    """
    whole = facts.last if facts.state == "finished" else facts.last - 1
    with store.session() as session:
        found = select(RoundRow).where(RoundRow.run == facts.id, RoundRow.number > after, RoundRow.number <= whole)
        rounds = session.scalars(found.order_by(RoundRow.number)).all()
        told = (MetricRow.run == facts.id, MetricRow.round > after, MetricRow.round <= whole)
        metrics: defaultdict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for row in session.scalars(select(MetricRow).where(*told)):
            metrics[row.round][row.site][row.key] = row.value
        asked = (TaskRow.run == facts.id, TaskRow.round > after, TaskRow.round <= whole)
        tasks: defaultdict[int, list[TaskRow]] = defaultdict(list)
        for task in session.scalars(select(TaskRow).where(*asked).order_by(TaskRow.id)):
            tasks[task.round].append(task)
    return [
        RoundFigures(row.number, row.committed, _values(row, metrics[row.number], tasks[row.number])) for row in rounds
    ]


def _values(row: RoundRow, metrics: Mapping[str, Mapping[str, float]], tasks: list[TaskRow]) -> dict[str, float]:
    losses = {site: told["train-loss"] for site, told in metrics.items() if "train-loss" in told}
    validation_losses = [told["validation-loss"] for told in metrics.values() if told.get("validation-examples")]
    values = {
        **_accuracies(metrics, "validation", "accuracy"),
        **_accuracies(metrics, "test", "test_accuracy"),
        **{f"train_loss/site/{site}": loss for site, loss in losses.items()},
    }
    if validation_losses:
        values["loss/mean"] = sum(validation_losses) / len(validation_losses)
    return {**values, **(_costs(row, tasks) if row.number else {})}


def _accuracies(metrics: Mapping[str, Mapping[str, float]], part: str, name: str) -> dict[str, float]:
    found = {
        site: told.get(f"{part}-correct", 0.0) / told[f"{part}-examples"]
        for site, told in sorted(metrics.items())
        if told.get(f"{part}-examples")
    }
    if not found:
        return {}
    ends = {f"{name}/mean": sum(found.values()) / len(found), f"{name}/worst": min(found.values())}
    return {**ends, **{f"{name}/site/{site}": accuracy for site, accuracy in found.items()}}


def _costs(row: RoundRow, tasks: list[TaskRow]) -> dict[str, float]:
    values: defaultdict[str, float] = defaultdict(float)
    values["seconds/round"] = row.seconds
    for task in tasks:
        for name, value in (("bytes/down", task.bytes_down), ("bytes/up", task.bytes_up)):
            values[name] += value
            values[f"{name}/site/{task.site}"] += value
        values[f"seconds/site/{task.site}"] += task.seconds
    values["updates"] = sum(task.state == COUNTED for task in tasks)
    for state in TROUBLES:
        values[state] = sum(task.state == state for task in tasks)
    return dict(values)
