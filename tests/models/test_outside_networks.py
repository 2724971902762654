"""Networks of torchvision and timm by name: the library's own, with batch norm or without, or a clear refusal."""

import sys

import pytest
import torch

from benchmarks.convert import with_statistics
from fedwon.common.config import parse
from fedwon.common.errors import MissingExtra
from fedwon.common.model_file import network
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.models import (
    MissingLibraryError,
    UnknownModelError,
    build_model,
    convert,
    is_outside,
    largest_difference,
    local_names,
    normalization_layers,
)
from fedwon.models.outside_networks import LIBRARIES, check_known, image_size, original

SMALL = {"torchvision:": "torchvision:mobilenet_v3_small", "timm:": "timm:lcnet_050"}
TIMMS = ("resnet18", "mobilenetv3_small_050", "regnety_004", "ghostnet_050", "repvgg_a0")


@pytest.fixture(autouse=True)
def _own_random_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)


def test_every_library_has_a_small_one_here():
    assert set(SMALL) == set(LIBRARIES)


@pytest.mark.parametrize("name", SMALL.values())
def test_a_network_by_name(name):
    assert is_outside(name)
    assert len(normalization_layers(build_model(name, normalization="batch", num_classes=3))) > 10
    free = build_model(name, normalization="none", num_classes=3)
    assert normalization_layers(free) == []
    assert free(torch.randn(1, 3, 64, 64)).shape == (1, 3), "one image is a batch"


@pytest.mark.parametrize("name", SMALL.values())
def test_the_weights_are_drawn_from_torchs_generator(name):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(original(name, 3).state_dict())
    first, second, third = states
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


@pytest.mark.parametrize("name", TIMMS)
def test_timms_networks_stay_the_same_function_without_an_example(name):
    """A site builds the network by its name alone, and has no images to prove it on."""
    images = torch.randn(8, 3, 64, 64)
    model = with_statistics(original(f"timm:{name}", 4), images)
    assert largest_difference(model, convert(model), images[:2]) < 1e-4


def test_fedbn_keeps_timms_batch_norm_at_the_site():
    model = build_model("timm:lcnet_050", normalization="batch", num_classes=3)
    kept = local_names(model, "normalization")
    assert {name.rpartition(".")[2] for name in kept} >= {"running_mean", "running_var", "weight", "bias"}
    assert all("bn" in name for name in kept)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("torchvision:resnt18", "`torchvision:resnet18`"),
        ("timm:regnety_04", "`timm:regnety_004`"),
        ("timm:hf-hub:somebody/network", "`timm:"),  # what timm would fetch from the internet
        ("timm:local-dir:/tmp", "`timm:"),
        ("timm:resnet18.a1_in1k", "`timm:resnet18`"),
        ("resnet18", "`torchvision:resnet18`"),
        ("keras:resnet18", "`torchvision:resnet18`"),
    ],
)
def test_a_name_that_no_library_has(name, near):
    with pytest.raises(UnknownModelError, match="no architecture") as caught:
        check_known(name)
    assert near in str(caught.value)


@pytest.mark.parametrize("setting", [{"width": 0.5}, {"in_channels": 1}, {"dropout": 0.1}, {"normalization": "group"}])
@pytest.mark.parametrize("name", SMALL.values())
def test_a_setting_that_such_networks_do_not_have(name, setting):
    with pytest.raises(ValueError, match=f"{name} cannot be had with"):
        build_model(name, **setting)


def test_sizes():
    assert image_size("torchvision:inception_v3") == 299
    assert image_size("timm:inception_v3") == image_size("torchvision:resnet18") == 224


@pytest.mark.usefixtures("without_timm")
def test_timm_is_not_installed():
    for look in (check_known, original, build_model):
        with pytest.raises(MissingLibraryError, match="`timm:resnet18` is one of timm's networks"):
            look("timm:resnet18")
    assert check_known("torchvision:resnet18") is None


@pytest.mark.usefixtures("without_timm")
def test_whoever_lacks_timm_is_told_how_to_install_it():
    config = parse(RunConfig, {"model": {"name": "timm:resnet18"}}, "x")
    with pytest.raises(MissingExtra, match="timm is not installed here") as caught:
        network(TaskConfig.of(config, run="r", server_round=0, classes=("a", "b")))
    assert caught.value.hint == "pip install 'fedwon[timm]'"


@pytest.mark.parametrize("prefix", LIBRARIES)
def test_no_recipe_changes_what_was_trained_elsewhere(prefix):
    """The configuration knows the prefixes too, without loading torch."""
    run = parse(RunConfig, {"model": {"name": f"{prefix}resnet18"}}, "x")
    assert (run.model.relu_constant, run.model.linear, run.training.clipping) == (False, "plain", None)
