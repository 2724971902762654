"""What stays at a site, by the type of the layer."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedwon.common import methods
from fedwon.models import (
    WSConv2d,
    build_model,
    freeze_statistics,
    local_names,
    sharing,
    standardize_weights,
    trainable_names,
)

STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}


def by_hand(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> set[str]:
    """The obvious way: a tensor belongs to the layer that its name without the last part leads to."""
    return {name for name in model.state_dict() if isinstance(model.get_submodule(name.rpartition(".")[0]), kinds)}


def test_both_tables_name_the_same_parts() -> None:
    assert set(get_args(methods.Keeps)) == set(get_args(sharing.Keeps))


def test_a_torchvision_resnet_whose_names_mislead() -> None:
    model = resnet18(num_classes=3)
    norms = by_hand(model, (nn.BatchNorm2d,))
    assert "layer2.0.downsample.1.weight" in norms  # no "bn" in its name
    assert local_names(model, "normalization") == norms
    assert len(norms) == 20 * 5
    assert local_names(model, "statistics") == {name for name in norms if name.rpartition(".")[2] in STATISTICS}
    assert local_names(model, "nothing") == set()
    assert local_names(model, "everything") == set(model.state_dict())


@pytest.mark.parametrize("normalization", ["none", "batch", "group", "layer"])
def test_shared_and_local_part_the_state(normalization: str) -> None:
    model = build_model("digit_cnn", normalization=normalization, width=0.1)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
    assert local_names(model, "normalization") == by_hand(model, kinds)
    statistics = local_names(model, "statistics")
    assert bool(statistics) == (normalization == "batch")
    assert statistics <= local_names(model, "normalization") < set(model.state_dict())


@pytest.mark.parametrize("normalization", ["none", "batch", "group", "layer"])
def test_what_training_moves_is_all_but_statistics(normalization: str) -> None:
    model = build_model("digit_cnn", normalization=normalization, width=0.1)
    buffers = {name for name, _ in model.named_buffers()}
    assert trainable_names(model) == set(model.state_dict()) - buffers
    assert local_names(model, "statistics") <= buffers
    last = next(name for name, _ in model.named_parameters())
    model.get_parameter(last).requires_grad = False
    assert trainable_names(model) == set(model.state_dict()) - buffers - {last}


def test_a_layer_without_a_parent_and_one_in_two_places() -> None:
    assert local_names(nn.BatchNorm2d(3), "statistics") == STATISTICS
    shared = nn.BatchNorm2d(3, affine=False)
    assert local_names(nn.Sequential(shared, nn.ReLU(), shared), "statistics") == {
        f"{place}.{name}" for place in (0, 2) for name in STATISTICS
    }


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(
        ValueError, match="keeps must be one of nothing, statistics, normalization, everything, got 'b'"
    ):
        local_names(nn.ReLU(), "b")  # type: ignore[arg-type]


def test_frozen_statistics_stay_and_are_used_while_scale_and_shift_learn() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(), nn.GroupNorm(1, 2))
    norm = model[1]
    norm.running_mean.fill_(3.0)
    model.train()
    freeze_statistics(model)
    assert [layer.training for layer in model] == [True, False, True, True]
    model(torch.ones(1, 1, 1, 1)).sum().backward()  # one image: its own statistics would be refused
    assert norm.running_mean.tolist() == [3.0, 3.0]
    assert norm.num_batches_tracked == 0
    assert norm.weight.grad is not None
    model.train()
    assert norm.training


def test_standardized_weights_compute_the_same_with_filters_of_norm_one() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(WSConv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1))
    with torch.no_grad():
        model[0].weight.mul_(7).add_(0.3)
        model[0].gain.uniform_(-2, 2)
    images, plain, gain = torch.randn(2, 3, 8, 8), model[2].weight.clone(), model[0].gain.clone()
    before = model(images)
    standardize_weights(model)
    torch.testing.assert_close(model(images), before)
    torch.testing.assert_close(model[0].weight.flatten(1).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(model[0].weight.mean(dim=(1, 2, 3)), torch.zeros(5), atol=1e-6, rtol=0)
    assert torch.equal(model[2].weight, plain)
    assert torch.equal(model[0].gain, gain)
