"""What can be taken out of the normalization-free form, and the standardized linear layer."""

import pytest
import torch
from torch import nn

from fedwon.models import Ablation, WSConv2d, WSLinear, available_models, build_model, fold


def twin(weight, gain, eps):
    """Row by row, as the equation stands."""
    rows = []
    for row, factor in zip(weight.double(), gain.double(), strict=True):
        centred = row - row.mean()
        rows.append(factor * centred / max(centred.square().sum().item(), eps) ** 0.5)
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_standardized_linear_layer(scale):
    layer = WSLinear(12, 5)
    with torch.no_grad():
        layer.weight.mul_(scale).add_(0.1)
        layer.weight[2] = 0.3  # constant: below the floor
        layer.gain.uniform_(-2, 2)
        layer.bias.uniform_(-1, 1)
    x = torch.randn(3, 12)
    expected = x.double() @ twin(layer.weight, layer.gain, layer.eps).T + layer.bias
    torch.testing.assert_close(layer(x), expected.float(), rtol=1e-4, atol=1e-5)
    plain = fold(nn.Sequential(layer))[0]
    assert type(plain) is nn.Linear
    assert torch.equal(plain(x), layer(x))


def test_its_gradient_is_that_of_the_slow_form():
    layer = WSLinear(7, 4).double()
    x = torch.randn(2, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda weight, gain: torch.func.functional_call(layer, {"weight": weight, "gain": gain}, (x,)),
        (layer.weight.detach().clone().requires_grad_(), layer.gain.detach().clone().requires_grad_()),
    )


def layers(model, kind):
    return [layer for layer in model.modules() if type(layer) is kind]


def test_each_switch_takes_out_one_thing():
    whole = build_model("digit_cnn", width=0.1)
    plain = build_model("digit_cnn", width=0.1, ablation=Ablation(standardized=False))
    assert (len(layers(whole, WSConv2d)), len(layers(plain, WSConv2d))) == (3, 0)
    assert len(layers(plain, nn.Conv2d)) == 3
    assert not any("norm" in name for name in plain.state_dict())
    no_gain = build_model("digit_cnn", width=0.1, ablation=Ablation(gain=False))
    assert set(whole.state_dict()) - set(no_gain.state_dict()) == {f"conv{i}.conv.gain" for i in (1, 2, 3)}
    linear = build_model("digit_cnn", width=0.1, linear="standardized")
    assert (len(layers(linear, WSLinear)), len(layers(linear, nn.Linear))) == (2, 1)
    dropout = build_model("digit_cnn", width=0.1, dropout=0.5)
    assert len(layers(dropout, nn.Dropout)) == 2
    x = torch.randn(2, 3, 28, 28)
    assert not torch.equal(dropout(x), dropout(x))
    assert torch.equal(dropout.eval()(x), dropout(x))


@pytest.mark.parametrize("name", available_models())
@pytest.mark.parametrize(
    "settings",
    [{"ablation": Ablation(standardized=False)}, {"ablation": Ablation(gain=False)}, {"linear": "standardized"}],
)
def test_every_network_can_be_ablated(name, settings):
    model = build_model(name, width=0.1, image_size=64, **settings)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize("ablation", [Ablation(standardized=False), Ablation(gain=False)])
def test_a_normalized_network_has_nothing_to_take_out(ablation):
    with pytest.raises(ValueError, match="'batch' has no weight standardization"):
        build_model("digit_cnn", normalization="batch", ablation=ablation)
    build_model("digit_cnn", normalization="batch", width=0.1, dropout=0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dropout": 1.0}, "below 1"),
        ({"dropout": -0.1}, "at least 0"),
        ({"skip_gain": -1.0}, "skip_gain must be at least 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        build_model("digit_cnn", width=0.1, **settings)
