"""A model on every site: each site measures it on its own images, the server collects the counts."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedwon.common.flower import set_message_id
from fedwon.common.task_config import TaskConfig
from fedwon.server.admission.rules import refuse_measured
from fedwon.server.rounds.site_grid import SiteGrid, metrics_of, node_id_of

NO_ANSWER = "no answer in time"


@dataclass(frozen=True)
class Score:
    """How a model does at one site.

    Attributes:
        part: "test" where the site keeps test images, otherwise "validation".
        correct: images classified rightly.
        examples: images looked at.
        loss: mean cross entropy.
    """

    site: str
    part: str
    correct: int
    examples: int
    loss: float

    @property
    def accuracy(self) -> float:
        """Share of images classified rightly, 0 to 1."""
        return self.correct / self.examples if self.examples else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the accuracy for JSON."""
        return asdict(self) | {"accuracy": self.accuracy}


def score_of(site: str, metrics: Mapping[str, float]) -> Score:
    """Read a site's score from the numbers of its answer: on test images where it has some."""
    part = "test" if metrics.get("test-examples", 0) > 0 else "validation"
    correct, examples = int(metrics[f"{part}-correct"]), int(metrics[f"{part}-examples"])
    return Score(site, part, correct, examples, float(metrics[f"{part}-loss"]))


@dataclass(frozen=True)
class Evaluation:
    """What all sites said.

    Attributes:
        scores: by site, sorted by name.
        failures: reason by site.
    """

    scores: tuple[Score, ...]
    failures: Mapping[str, str]

    @property
    def mean_accuracy(self) -> float:
        """Mean of the sites' accuracies, each site alike (the paper's average over domains)."""
        return sum(score.accuracy for score in self.scores) / len(self.scores) if self.scores else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "sites": {score.site: score.as_dict() for score in self.scores},
            "failures": dict(self.failures),
            "mean_accuracy": self.mean_accuracy,
        }


def evaluate_model(
    grid: SiteGrid, task: TaskConfig, record: ArrayRecord, *, timeout: float, surveyed: bool = True
) -> Evaluation:
    """Let every connected site that may work measure a model; why the others do not, is among the failures.

    Args:
        grid: the sites.
        task: what the model was trained as.
        record: its arrays.
        timeout: seconds to wait at most.
        surveyed: whether a score on more images than its site says it has does not count (`run.admission.surveyed`).
    """
    content = RecordDict({"arrays": record, "config": ConfigRecord(task.flat())})
    names: list[str] = []

    def _name(site: str) -> str:
        # unlike a training task, an evaluation asked for twice is done twice
        names.append(f"{task.run}.r{task.round:04d}.evaluate-{secrets.token_hex(4)}.{site}")
        return names[-1]

    found, failures = measurements(grid, content, number=task.round, name=_name, timeout=timeout, surveyed=surveyed)
    grid.committed(task.run, task.round, names)
    return Evaluation(tuple(score_of(site, found[site]) for site in sorted(found)), failures)


def measurements(
    grid: SiteGrid, content: RecordDict, *, number: int, name: Callable[[str], str], timeout: float, surveyed: bool
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Let every connected site that may work measure a model.

    Args:
        grid: the sites.
        content: model and task.
        number: the round of the model.
        name: makes the name of a site's task.
        timeout: seconds to wait at most.
        surveyed: as of `evaluate_model`.

    Returns:
        The numbers of each site that measured it, and why the others did not.
    """
    sites = {node_id_of(site): site for site in grid.sites()}
    messages = [Message(content, dst_node_id=node, message_type="evaluate", group_id=str(number)) for node in sites]
    for message in messages:
        set_message_id(message, name(sites[message.metadata.dst_node_id]))
    surveys = {site: grid.survey(site) for site in sites.values()} if surveyed else {}  # before it can leave again
    found, reasons = dict[str, dict[str, float]](), {**grid.resting(), **dict.fromkeys(sites.values(), NO_ANSWER)}
    for reply in grid.send_and_receive(messages, timeout=timeout):
        site = sites[reply.metadata.src_node_id]
        numbers = {} if reply.has_error() else metrics_of(reply.content)
        reason = reply.error.reason if reply.has_error() else refuse_measured(numbers, surveys.get(site))
        if reason is None:
            found[site] = numbers
            del reasons[site]
        else:
            reasons[site] = reason
    return found, reasons
