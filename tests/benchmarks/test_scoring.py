"""Counts of sites and domains, and what a place is served with."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from PIL import Image
from torch import nn

from benchmarks.paper.scoring import by_domain, scored_images
from fedwon.client.config import DataConfig
from fedwon.client.training.local_state import LocalStates, remember
from fedwon.common.arrays import StoredRecord, open_record, write_record
from fedwon.common.model_file import network
from fedwon.common.network_state import record_of
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.task_settings import ImageConfig, ModelConfig
from fedwon.models import local_names
from fedwon.server.comparison.scoring import Ensemble, counts, right_images, served


class Guess(nn.Module):
    """Answers with the image's first pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(x[:, 0, 0, 0].long(), 3).float()


class Images:
    """Enough of an `ImageSet`: each image is its guess."""

    classes = ("a", "b", "c")

    def __init__(self, labels: list[int], guesses: list[int]) -> None:
        self.labels, self.guesses = torch.tensor(labels, dtype=torch.int64), torch.tensor(guesses)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, rows: list[range]):
        for part in rows:
            yield type("Batch", (), {"inputs": self.guesses[list(part)].float().view(-1, 1, 1, 1)})


def scored(labels: list[int], guesses: list[int]) -> dict:
    images = Images(labels, guesses)
    return counts(Guess(), images)  # type: ignore[arg-type]


def test_the_parts_of_a_domain_add_up_to_what_one_count_would_be() -> None:
    rng = np.random.default_rng(2)
    labels, guesses = rng.integers(0, 3, 61).tolist(), rng.integers(0, 3, 61).tolist()
    cuts = [0, 7, 7, 40, 61]
    parts = {
        f"x--{index:02d}": scored(labels[first:last], guesses[first:last])
        for index, (first, last) in enumerate(itertools.pairwise(cuts))
    }
    whole = scored(labels, guesses)
    joined = by_domain({**parts, "y": scored([0, 1], [0, 2])})
    assert set(joined) == {"x", "y"}
    for key in ("correct", "examples", "class_correct", "class_examples"):
        assert joined["x"][key] == whole[key]
    ends = np.cumsum(whole["class_examples"])[:-1]
    for mine, theirs in zip(
        np.split(right_images(joined["x"]), ends), np.split(right_images(whole), ends), strict=True
    ):
        assert mine.sum() == theirs.sum()
    assert joined["y"]["correct"] == 1


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    x = torch.randn(5, 4)
    mean = (first(x).softmax(1) + second(x).softmax(1)) / 2
    torch.testing.assert_close(Ensemble([first, second])(x).exp(), mean)


def task_and_record(method: str, folder: Path) -> tuple[TaskConfig, StoredRecord]:
    config = RunConfig(method=method, model=ModelConfig(width=0.1), images=ImageConfig(size=8, channels=1))
    task = TaskConfig.of(config, run="run", server_round=2, classes=("a", "b"))
    write_record(record_of(network(task)), folder / "model")
    return task, open_record(folder / "model")


def keep(folder: Path, task: TaskConfig, value: float, number: int = 2) -> None:
    model = network(task)
    for name, tensor in model.state_dict().items():
        tensor.fill_(value) if name.endswith("running_mean") else None
    state, states = RecordDict(), LocalStates(folder)
    own = record_of(model, without=model.state_dict().keys() - local_names(model, task.keeps))
    remember(state, task.run, number, own)
    states.keep(state)


def mean_of(model: nn.Module) -> float:
    return float(model.state_dict()["conv1.norm.running_mean"][0])


def test_a_site_is_served_with_its_own_layers_and_a_new_place_with_all(tmp_path: Path) -> None:
    task, record = task_and_record("fedbn", tmp_path)
    local = tmp_path / "local"
    assert served(task, record, local, "a").means == "the global model, whose local layers nobody trained"
    keep(local / "a", task, 3.0)
    keep(local / "b", task, 5.0)
    keep(local / "late", task, 7.0, number=3)  # of a later round than the model's
    own = served(task, record, local, "b")
    assert own.means == "the global model with its own layers"
    assert mean_of(own.network) == 5
    new = served(task, record, local, "new")
    assert new.means == "the mean of 2 sites' models"
    assert isinstance(new.network, Ensemble)
    assert sorted(map(mean_of, new.network.networks)) == [3, 5]


def test_one_model_for_all_is_served_as_it_is(tmp_path: Path) -> None:
    task, record = task_and_record("fedavg", tmp_path)
    assert served(task, record, tmp_path / "local", "a").means == "the global model"


@pytest.mark.parametrize("sites", [{}, {"only": {"correct": 1}}])
def test_a_site_alone_is_its_domain(sites: dict) -> None:
    assert by_domain(sites) == sites


@pytest.mark.parametrize("parts", [("train",), ("train", "test")])
def test_a_place_is_scored_on_its_test_part_or_on_all_it_has(tmp_path: Path, parts: tuple[str, ...]) -> None:
    rng, sizes = np.random.default_rng(4), {"train": 9, "test": 6}
    for part in parts:
        for index in range(sizes[part]):
            path = tmp_path / part / "abc"[index % 3] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    run = RunConfig(images=ImageConfig(size=8, channels=1))
    task = TaskConfig.of(run, run="r", server_round=1, classes=("a", "b", "c"))
    images = scored_images(DataConfig(path=str(tmp_path)), task)
    assert len(images) == sizes[parts[-1]]
    assert images.classes == ("a", "b", "c")
