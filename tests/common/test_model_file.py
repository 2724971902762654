"""A model file explains itself, or says why it cannot."""

from __future__ import annotations

import json
import resource

import pytest
import torch

from fedwon.common.arrays import open_record, write_record
from fedwon.common.errors import BrokenFile, ConfigError, ModelMismatch
from fedwon.common.model_file import MANIFEST, describe, network, read_model, trained_network
from fedwon.common.network_state import record_of
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.task_settings import ImageConfig, ModelConfig


@pytest.fixture
def task():
    config = RunConfig(model=ModelConfig(width=0.1), images=ImageConfig(size=8))
    return TaskConfig.of(config, run="r", server_round=3, classes=("bad", "good"))


def test_a_model_comes_back_without_anything_else(task, tmp_path):
    model = network(task)
    write_record(record_of(model), tmp_path / "m", describe(task))
    found, record = read_model(tmp_path / "m")
    assert found == task
    loaded = trained_network(found, record)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_seed_gives_the_weights_and_the_process_keeps_its_own(task):
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    model = network(task)
    assert torch.equal(torch.rand(3), first)
    again, other = network(task), network(task.model_copy(update={"seed": 2}))
    name = next(iter(dict(model.named_parameters())))
    assert torch.equal(model.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(model.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize("text", [None, "", "{", "{}", "[]", "3", "null", "[" * 100_000])
def test_tensors_without_a_description(task, tmp_path, text):
    metadata = {} if text is None else {MANIFEST: text}
    write_record(record_of(network(task)), tmp_path / "m", metadata)
    with pytest.raises(BrokenFile, match="holds tensors but not"):
        read_model(tmp_path / "m")


@pytest.mark.parametrize("described", [None, [], {"run": "r"}])
def test_a_description_of_another_version(task, tmp_path, described):
    write_record(record_of(network(task)), tmp_path / "m", {MANIFEST: json.dumps({"task": described})})
    with pytest.raises(ConfigError, match="description in"):
        read_model(tmp_path / "m")


def test_tensors_of_another_network(task, tmp_path):
    wider = task.model_copy(update={"model": ModelConfig(width=0.5)})
    write_record(record_of(network(wider)), tmp_path / "m", describe(task))
    with pytest.raises(ModelMismatch, match="other shape"):
        trained_network(*read_model(tmp_path / "m"))


def test_a_file_cannot_ask_for_a_network_that_it_does_not_hold(task, tmp_path):
    small = record_of(network(task))
    huge = task.model_copy(update={"images": ImageConfig(size=2048), "model": ModelConfig(width=4)})
    write_record(small, tmp_path / "m", describe(huge))  # 600 GB of parameters
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelMismatch, match=r"larger than what it holds|cannot be made"):
        trained_network(*read_model(tmp_path / "m"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
    assert trained_network(task, open_record(tmp_path / "m")) is not None  # and then others can be made again


def test_the_header_is_small(task, tmp_path):
    write_record(record_of(network(task)), tmp_path / "m", describe(task))
    assert json.loads(open_record(tmp_path / "m").metadata[MANIFEST])["task"]["round"] == 3
