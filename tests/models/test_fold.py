"""Folding: bit for bit the same function, of plain convolutions."""

import copy

import pytest
import torch
from torch import nn

from fedwon.models import NORMALIZATIONS, WSConv2d, available_models, build_model
from fedwon.models.fold import fold


def disturb(model):
    """Weights as after training: no filter of mean 0, no gain of 1, no bias of 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 + 0.05)
    return model


def same(model, folded, image):
    """Equal in both modes, each with the same random numbers (dropout) on a copy (batch statistics)."""
    for training in (True, False):
        outputs = []
        for network in (copy.deepcopy(model), copy.deepcopy(folded)):
            torch.manual_seed(3)
            outputs.append(network.train(training)(image))
        assert torch.equal(*outputs)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", available_models())
def test_the_registered_networks_stay_the_same_function(name, normalization):
    model = disturb(build_model(name, normalization=normalization, width=0.125, image_size=64))
    folded = fold(model)
    same(model, folded, torch.randn(3, 3, 64, 64))
    assert not any(isinstance(m, WSConv2d) for m in folded.modules())
    assert not any(key.endswith("gain") for key in folded.state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": 4},
        {"groups": 8, "bias": False},
        {"padding": (1, 2), "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "replicate", "stride": 2},
        {"padding": 1, "padding_mode": "circular", "groups": 2},
        {"padding": "same", "dilation": 2},
        {"padding": "same", "padding_mode": "reflect"},
        {"padding": "valid", "stride": (2, 1), "gain": False},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_kind_of_convolution(settings, dtype):
    conv = disturb(WSConv2d(8, 16, 3, dtype=dtype, **settings))
    folded = fold(conv)
    assert type(folded) is nn.Conv2d
    assert torch.equal(folded.weight, conv.standardized_weight())
    same(conv, folded, torch.randn(2, 8, 9, 7, dtype=dtype))


def test_the_original_is_left_alone():
    model = nn.Sequential(WSConv2d(3, 4, 3))
    before = copy.deepcopy(model.state_dict())
    folded = fold(model)
    with torch.no_grad():
        folded[0].bias.add_(1)
    assert isinstance(model[0], WSConv2d)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_mode_and_frozen_weights_are_kept():
    model = nn.Sequential(WSConv2d(3, 4, 3), WSConv2d(4, 4, 3)).eval()
    model[0].requires_grad_(requires_grad=False)
    folded = fold(model)
    assert not folded[0].training
    assert [p.requires_grad for p in folded.parameters()] == [False, False, True, True]


def test_a_shared_module_stays_shared():
    shared = disturb(WSConv2d(4, 4, 3, padding=1))
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Sequential(shared))
    folded = fold(model)
    assert folded[0] is folded[2] is folded[3][0]
    same(model, folded, torch.randn(1, 4, 6, 6))


def test_no_random_numbers_are_drawn():
    model = nn.Sequential(WSConv2d(3, 4, 3))
    state = torch.get_rng_state()
    fold(model)
    assert torch.equal(torch.get_rng_state(), state)
