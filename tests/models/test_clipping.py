"""Adaptive gradient clipping against loops over single units."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedwon.models import AdaptiveGradientClipping, WSConv2d, build_model, final_layer, unitwise_norm


def twin_norm(values):
    return math.sqrt(math.fsum(float(v) ** 2 for v in np.ravel(values)))


def twin_clip(weight, gradient, clipping, eps):
    """The published rule, one unit at a time; returns the new gradient, units clipped, units."""
    units = [...] if weight.ndim <= 1 else list(range(weight.shape[0]))
    result, clipped = gradient.copy(), 0
    for unit in units:
        limit = clipping * max(twin_norm(weight[unit]), eps)
        norm = twin_norm(gradient[unit])
        if norm > limit:
            result[unit] = gradient[unit] * limit / max(norm, 1e-6)
            clipped += 1
    return result, clipped, len(units)


def network():
    model = nn.Sequential(
        WSConv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2)
    )
    return model.double()


@given(
    clipping=st.sampled_from([0.01, 0.16, 1.28]),
    eps=st.sampled_from([1e-3, 0.5]),
    size=st.sampled_from([1e-3, 0.1, 10.0]),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=40)
def test_equals_the_twin(clipping, eps, size, seed):
    generator = torch.Generator().manual_seed(seed)
    model = network()
    clipper = AdaptiveGradientClipping(model, clipping, eps, exclude=())
    expected, clipped, units = {}, 0, 0
    for name, p in model.named_parameters():
        rows = (p.shape[0],) + (1,) * (p.ndim - 1)
        spread = torch.rand(rows, generator=generator, dtype=torch.float64) * 2 * size
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64) * spread
        expected[name], c, u = twin_clip(p.detach().numpy(), p.grad.numpy().copy(), clipping, eps)
        clipped, units = clipped + c, units + u
    share = clipper.clip()
    assert share == pytest.approx(clipped / units, abs=1e-12)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), expected[name], rtol=1e-12, atol=1e-15)


def test_units():
    assert unitwise_norm(torch.ones(4, 3, 5, 5)).shape == (4, 1, 1, 1)
    torch.testing.assert_close(unitwise_norm(torch.ones(4, 3, 5, 5)), torch.full((4, 1, 1, 1), 75**0.5))
    torch.testing.assert_close(unitwise_norm(torch.tensor([[3.0, 4.0], [6.0, 8.0]])), torch.tensor([[5.0], [10.0]]))
    torch.testing.assert_close(unitwise_norm(torch.tensor([3.0, 4.0])), torch.tensor(5.0))
    torch.testing.assert_close(unitwise_norm(torch.tensor(-2.0)), torch.tensor(2.0))


def test_a_linear_is_clipped_per_output_row():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.1]]))
    layer.weight.grad = torch.tensor([[0.3, 0.4], [30.0, 40.0]])
    assert AdaptiveGradientClipping(layer, 0.5, exclude=()).clip() == 0.5
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[0.3, 0.4], [0.03, 0.04]]))


def test_norms_are_of_the_raw_weight_and_the_weight_stays():
    layer = WSConv2d(2, 1, 3, bias=False, gain=False)
    layer.weight.data.mul_(100)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.full_like(before, 10.0)  # norm 42: above lambda * |W_hat| = 1, below lambda * |W|
    assert AdaptiveGradientClipping(layer, 1.0, exclude=()).clip() == 0
    assert torch.equal(layer.weight, before)


def fill_gradients(model, value=1e3):
    for p in model.parameters():
        p.grad = torch.full_like(p, value)


def untouched(model, value=1e3):
    return {name for name, p in model.named_parameters() if torch.equal(p.grad, torch.full_like(p, value))}


def test_the_final_layer_is_left_alone_and_nothing_else():
    model = build_model("digit_cnn", width=0.125)
    fill_gradients(model)
    clipper = AdaptiveGradientClipping(model, 0.01)
    assert clipper.clip() == 1
    assert untouched(model) == {"fc3.weight", "fc3.bias"}
    assert clipper.excluded == ("fc3",)


def test_final_layer_is_the_last_with_a_matrix():
    assert final_layer(network()) == "5"
    assert final_layer(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))) == "0"
    assert final_layer(nn.BatchNorm1d(2)) is None
    assert final_layer(nn.Linear(2, 2)) == ""


@pytest.mark.parametrize("as_pairs", [False, True])
def test_exclusion_by_module_and_by_parameter(as_pairs):
    model = nn.Sequential()
    for name in ("a", "ab", "b"):
        model.add_module(name, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    fill_gradients(model)
    what = iter(model.named_parameters()) if as_pairs else model
    AdaptiveGradientClipping(what, 0.01, exclude=["a", "b.1.bias"]).clip()
    assert untouched(model) == {"a.0.weight", "a.0.bias", "a.1.weight", "a.1.bias", "b.1.bias"}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = self.first.weight


def test_each_parameter_once_though_shared():
    model = Tied()
    clipper = AdaptiveGradientClipping(model, 0.5, exclude=())
    assert [id(p) for p in clipper.parameters] == [id(model.first.weight), id(model.first.bias)]
    nested = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(2, 2))), nn.Linear(2, 2))
    assert len(AdaptiveGradientClipping(nested, 0.5, exclude=()).parameters) == 4


def test_a_tied_parameter_is_protected_by_any_of_its_names():
    model = Tied()
    fill_gradients(model)
    clipper = AdaptiveGradientClipping(model, 0.01)
    assert clipper.excluded == ("head",)
    clipper.clip()
    assert untouched(model) == {"first.weight"}


def test_parameters_without_gradient_and_gradients_not_finite():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    clipper = AdaptiveGradientClipping(model, 0.1)
    assert clipper.clip() == 0
    model[0].weight.grad = torch.tensor([[math.nan, 1.0], [math.inf, 1.0]])
    clipper.clip()
    assert not model[0].weight.grad.isfinite().all(1).any()


def test_a_zero_weight_can_move():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.zero_()
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    AdaptiveGradientClipping(layer, 0.1, eps=1e-3, exclude=()).clip()
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[0.6e-4, 0.8e-4]]))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_arguments_out_of_range(value):
    with pytest.raises(ValueError, match="clipping must be positive"):
        AdaptiveGradientClipping(network(), value)
    with pytest.raises(ValueError, match="eps must be positive"):
        AdaptiveGradientClipping(network(), 0.1, value)


def test_names_and_parameters_that_do_not_fit():
    with pytest.raises(ValueError, match="'fc9', which is no module or parameter"):
        AdaptiveGradientClipping(network(), 0.1, exclude=["fc9"])
    with pytest.raises(ValueError, match="single string 'fc3'"):
        AdaptiveGradientClipping(network(), 0.1, exclude="fc3")
    with pytest.raises(ValueError, match="no parameters"):
        AdaptiveGradientClipping(nn.ReLU(), 0.1)
    with pytest.raises(ValueError, match="nothing is left"):
        AdaptiveGradientClipping(nn.Linear(2, 2), 0.1)
