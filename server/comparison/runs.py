"""One run of the comparison: a method, its settings, a seed; trained in this process and scored on every line.

It is the federation itself, strategy, ClientApp and codecs, without the sockets; the lines train one after the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedwon.client.app import app as client_app
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.images.opening import SiteData, open_site
from fedwon.common.config import merged, parse
from fedwon.common.errors import TooFewUpdates
from fedwon.common.methods import METHODS, MethodName
from fedwon.common.model_file import read_model
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.update_settings import AdmissionConfig
from fedwon.server.comparison.scoring import LOCAL, Served, balanced_accuracy, counts, ensemble_of_others, served
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.rounds.events import Event, RoundCommitted, SiteAnswered
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store

Kind = Literal["trial", "run", "unseen"]
Heard = Callable[[int, float], None]
"""Told the number of a round that has ended and the mean score on validation images; may raise to break the run off."""


@dataclass(frozen=True)
class Spec:
    """What tells one run from another.

    Attributes:
        kind: a trial is scored on validation images only; an unseen run leaves a line out and is scored on it.
        method: a key of `METHODS`.
        lr: learning rate.
        clipping: lambda of adaptive gradient clipping; None: off.
        seed: the run's.
        rounds: rounds.
        without: the line left out; "": none.
    """

    kind: Kind
    method: MethodName
    lr: float
    clipping: float | None
    seed: int
    rounds: int
    without: str = ""

    @property
    def key(self) -> str:
        """What the run is stored under."""
        clipping = "off" if self.clipping is None else f"{self.clipping:g}"
        return f"{self.kind}/{self.method}/{self.lr:.6g}/{clipping}/{self.rounds}/{self.without}/{self.seed}"


@dataclass(frozen=True)
class Ground:
    """What all runs of a comparison have in common.

    Attributes:
        settings: of the run's configuration: all that no run decides for itself.
        lines: each line's data, by name.
        classes: the classes in the order of the network's outputs.
        threads: CPU threads of PyTorch.
        scratch: folder for the runs' files, which are thrown away.
    """

    settings: Mapping[str, Any]
    lines: Mapping[str, DataConfig]
    classes: tuple[str, ...]
    threads: int
    scratch: Path

    def config(self, spec: Spec) -> RunConfig:
        """The run's configuration, as an operator would write it.

        Raises:
            ConfigError: the method does not go with the settings.
        """
        sites = len(self.lines) - bool(spec.without)
        own = {
            "name": "compare",
            "method": spec.method,
            "seed": spec.seed,
            "rounds": spec.rounds,
            "classes": list(self.classes),
            "training": {"lr": spec.lr, "clipping": spec.clipping},
            "participation": {"minimum": sites, "retries": 0},
            "admission": AdmissionConfig.unsuspecting().model_dump(),
        }
        return parse(RunConfig, merged(self.settings, own), f"settings of the comparison with `{spec.method}`")


def carry_out(ground: Ground, spec: Spec, heard: Heard | None = None) -> dict[str, Any]:
    """Train and score.

    Args:
        ground: data and settings.
        spec: which run.
        heard: told after every round, with the score that the round's model has; None: rounds are not scored.

    Returns:
        `failed` (a reason or None), `seconds`, `round_seconds`, `train_seconds` (steps alone, all lines and rounds),
        `line_seconds` (of a round, by line), `up` and `down`
        (bytes a line and round), `course` (mean validation accuracy of the model that came into each round), and
        by line the scores `validation`, `test` and `unseen` (what lines get that took no part).

    Raises:
        ConfigError: the method does not go with the settings.
    """
    config = ground.config(spec)
    ground.scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="run-", dir=ground.scratch) as place:
        folder = Path(place)
        training = {name: data for name, data in ground.lines.items() if name != spec.without}
        weighed = Weighed()
        sites = {name: SiteConfig(data=data, threads=ground.threads) for name, data in training.items()}
        keeps = METHODS[spec.method].keeps != "nothing"  # else what a line keeps need not outlive the run
        grid = InProcessGrid(sites, Path.cwd(), weighed, folder=folder / LOCAL if keeps else None)
        watcher = _Watcher(ground, spec, folder, heard)
        store = Store(folder / "fedwon.db")
        started, failed = time.monotonic(), None
        try:
            outcome = federate(grid, config, store, folder, listeners=[watcher.hear])
            watcher.score(outcome.model)
        except TooFewUpdates as error:  # the loss of a line is not finite any more: a result like any other
            failed = error.message
        finally:
            store.close()
        return {
            "failed": failed,
            "seconds": time.monotonic() - started,
            "up": weighed.mean_up,
            "down": weighed.mean_down,
            **watcher.found(),
        }


class Weighed(ClientApp):
    """The site's app, which weighs the arrays that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self._up: list[int] = []
        self._down: list[int] = []

    def __call__(self, message: Message, context: Context) -> Message:
        """Do a task as the site would."""
        trains = message.metadata.message_type == "train"
        down = array_bytes(message)
        reply = client_app(message, context)
        if trains:
            self._down.append(down)
            self._up.append(array_bytes(reply))
        return reply

    @property
    def mean_up(self) -> float:
        """Bytes of an answer to a training task."""
        return statistics.fmean(self._up) if self._up else 0.0

    @property
    def mean_down(self) -> float:
        """Bytes of the model that comes with it, whole."""
        return statistics.fmean(self._down) if self._down else 0.0


def array_bytes(message: Message) -> int:
    """Bytes of all arrays in a message."""
    records = message.content.array_records.values() if message.has_content() else ()
    return sum(len(array.data) for record in records for array in record.values())


class _Watcher:
    """Hears a run's events, scores its models, and keeps what the report needs."""

    def __init__(self, ground: Ground, spec: Spec, folder: Path, heard: Heard | None) -> None:
        self._ground, self._spec, self._folder, self._heard = ground, spec, folder, heard
        self._opened: dict[str, SiteData] = {}
        self._scores: dict[str, dict[str, Any]] = {"validation": {}, "test": {}, "unseen": {}}
        self._rounds: list[float] = []
        self._line_seconds: dict[str, list[float]] = {}
        self._train_seconds = 0.0
        self._course: dict[int, list[float]] = {}

    def hear(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, SiteAnswered):
            self._line_seconds.setdefault(event.site, []).append(event.seconds)
            self._train_seconds += event.metrics.get("train-seconds", 0.0)
            examples = event.metrics.get("validation-examples", 0)
            if examples:
                share = event.metrics["validation-correct"] / examples
                self._course.setdefault(event.model_round, []).append(share)
        if isinstance(event, RoundCommitted) and event.number:
            self._rounds.append(event.seconds)
            if self._heard is not None:
                score = self._validation(event.path) if self._spec.kind == "trial" else 0.0
                self._heard(event.number, score)

    def _validation(self, path: Path) -> float:
        task, record = read_model(path)
        values = []
        for name in self._trained():
            images = self._open(name, task).validation
            if len(images):
                score = counts(served(task, record, self._folder / LOCAL, name).network, images)
                self._scores["validation"][name] = score
                values.append(balanced_accuracy(score))
        return statistics.fmean(values) if values else 0.0

    def score(self, path: Path) -> None:
        """Score the final model; a trial never opens a test image."""
        if self._spec.kind == "trial":
            return
        task, record = read_model(path)
        local = self._folder / LOCAL
        if self._spec.without:
            self._count("unseen", self._spec.without, task, served(task, record, local, self._spec.without))
            return
        for name in self._trained():
            model = served(task, record, local, name)
            self._count("test", name, task, model)
            self._scores["validation"][name] = counts(model.network, self._open(name, task).validation)
            if METHODS[self._spec.method].keeps == "everything":
                self._count("unseen", name, task, ensemble_of_others(task, record, local, name))

    def _count(self, part: str, name: str, task: TaskConfig, model: Served) -> None:
        test = self._open(name, task).test
        if test is not None:
            self._scores[part][name] = counts(model.network, test)

    def _trained(self) -> list[str]:
        return [name for name in self._ground.lines if name != self._spec.without]

    def _open(self, name: str, task: TaskConfig) -> SiteData:
        if name not in self._opened:
            self._opened[name] = open_site(self._ground.lines[name], task, Path.cwd())
        return self._opened[name]

    def found(self) -> dict[str, Any]:
        """All that was heard and scored."""
        return {
            **self._scores,
            "round_seconds": self._rounds,
            "train_seconds": self._train_seconds,
            "line_seconds": {name: statistics.fmean(seconds) for name, seconds in self._line_seconds.items()},
            "course": [round(statistics.fmean(self._course[number]), 4) for number in sorted(self._course)],
        }
