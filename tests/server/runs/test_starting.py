"""What a run starts from: a model file, and everything that can be wrong with it or with the network's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from benchmarks.convert import with_statistics
from fedwon.common.config import load, parse
from fedwon.common.errors import BrokenFile, ConfigError, ModelMismatch, NotConvertible
from fedwon.common.model_file import network, read_model, trained_network
from fedwon.common.run_config import RunConfig
from fedwon.common.task_settings import ModelConfig
from fedwon.models import is_normalization_free, largest_difference, normalization_layers
from fedwon.server.config import ServerConfig
from fedwon.server.releases.converting import convert_file
from fedwon.server.runs.federating import federate
from fedwon.server.runs.run import Run
from fedwon.server.runs.starting import check_start
from fedwon.server.store import Store
from tests.server.server_kit import FakeGrid, small_run

NAME = "torchvision:resnet18"


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    original = with_statistics(torchvision.models.resnet18(num_classes=2), torch.randn(4, 3, 64, 64))
    save_file(original.state_dict(), tmp_path / "original.safetensors")
    convert_file(NAME, tmp_path / "original.safetensors", tmp_path / "free.safetensors")
    return tmp_path / "free.safetensors"


def run_with(**changes: object) -> RunConfig:
    return small_run().model_copy(update=changes)


def test_a_converted_network_is_where_a_run_starts(store: Store, converted: Path, tmp_path: Path) -> None:
    config = run_with(model=ModelConfig(name=NAME), pretrained=str(converted))
    check_start(config)
    run = Run.create(store, tmp_path, config, ("bad", "good"))
    task, record = read_model(run.model_path(0))
    model = trained_network(task, record)
    original = torchvision.models.resnet18(num_classes=2)
    original.load_state_dict(load_file(converted.with_name("original.safetensors")))
    images = torch.randn(2, 3, 64, 64)
    assert largest_difference(original, model, images) < 1e-4
    assert normalization_layers(model) == []
    assert is_normalization_free(model, images) is True


def test_an_earlier_run_is_where_a_run_starts(store: Store, tmp_path: Path) -> None:
    earlier = Run.create(store, tmp_path, run_with(seed=5), ("bad", "good"))
    later = Run.create(store, tmp_path, run_with(seed=6, pretrained=str(earlier.model_path(0))), ("bad", "good"))
    first, second = (dict(read_model(run.model_path(0))[1].to_torch_state_dict()) for run in (earlier, later))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_classes_in_another_order_are_refused(store: Store, tmp_path: Path) -> None:
    earlier = Run.create(store, tmp_path, run_with(), ("bad", "good"))
    with pytest.raises(ModelMismatch, match="tells apart bad, good; this federation good, bad"):
        Run.create(store, tmp_path, run_with(pretrained=str(earlier.model_path(0))), ("good", "bad"))
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_another_number_of_classes_is_refused(store: Store, converted: Path, tmp_path: Path) -> None:
    config = run_with(model=ModelConfig(name=NAME), pretrained=str(converted))
    with pytest.raises(ModelMismatch, match="has 2 classes, and this federation has 3") as caught:
        Run.create(store, tmp_path, config, ("a", "b", "c"))
    assert "--classes 3" in caught.value.hint


def test_a_file_of_another_network_is_refused(converted: Path) -> None:
    with pytest.raises(ModelMismatch, match="is of `torchvision:resnet18`, and the run trains `digit_cnn`"):
        check_start(run_with(pretrained=str(converted)))
    with pytest.raises(ModelMismatch, match="has no batch norm, and method `fedbn` needs it"):
        check_start(run_with(model=ModelConfig(name=NAME), method="fedbn", pretrained=str(converted)))


def test_a_file_that_fedwon_did_not_write_is_refused(converted: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenFile, match="was not written by fedwon"):
        check_start(run_with(pretrained=str(converted.with_name("original.safetensors"))))
    pickle = tmp_path / "model.pth"
    pickle.write_bytes(b"\x80\x02")
    with pytest.raises(BrokenFile, match="looks like a pickle"):
        check_start(run_with(pretrained=str(pickle)))


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (
            {"name": "digit_cn"},
            ConfigError,
            r"`model\.name: digit_cn`: unknown model 'digit_cn'.*digit_cnn.*torchvision:",
        ),
        ({"name": "alexnet"}, ConfigError, "alexnet needs an image_size of at least 63, got 8"),
        ({"name": "torchvision:resnet19"}, ConfigError, "no architecture `torchvision:resnet19`.*torchvision:resnet18"),
        ({"name": NAME, "width": 0.5}, ConfigError, "cannot be had with width 0.5"),
        ({"name": "torchvision:googlenet"}, ConfigError, "cannot be had with its auxiliary outputs"),
        ({"name": NAME}, ConfigError, "cannot be trained from random weights"),
        ({"name": "torchvision:convnext_tiny"}, NotConvertible, "has normalization that cannot be taken out"),
    ],
)
def test_a_network_that_cannot_be_had_is_told_before_any_site_is_waited_for(
    store: Store, tmp_path: Path, model: dict[str, object], error: type[Exception], words: str
) -> None:
    grid = FakeGrid({})
    with pytest.raises(error, match=words):
        federate(grid, run_with(model=ModelConfig(**model)), store, tmp_path)
    assert grid.said == []


@pytest.mark.parametrize("method", ["fedavg", "fedbn"])
def test_with_batch_norm_torchvisions_networks_start_from_random_weights(method: str) -> None:
    config = run_with(model=ModelConfig(name=NAME), method=method)
    check_start(config)
    assert len(normalization_layers(network(Run.task(_Shell(config), 0)))) == 20


class _Shell(Run):
    """A run without a folder."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.id, self.classes = config, "r", ("bad", "good")


def test_the_file_is_found_from_the_configurations_folder(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("pretrained: models/free.safetensors\n")
    (tmp_path / "server.yaml").write_text("run: {pretrained: /models/free.safetensors}\n")
    assert load(RunConfig, tmp_path / "run.yaml").pretrained == str(tmp_path / "models/free.safetensors")
    assert load(ServerConfig, tmp_path / "server.yaml").run.pretrained == "/models/free.safetensors"
    assert parse(RunConfig, {}, "x").located(tmp_path).pretrained is None
