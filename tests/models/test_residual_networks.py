"""The residual networks: torchvision's function with batch norm, and a signal that is kept without."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision import models as published
from torchvision import ops as published_ops

from fedwon.common.recipes import RECIPES
from fedwon.models import GAMMAS, AdaptiveGradientClipping, ConvBlock, available_models, build_model
from fedwon.models.inverted_residual import InvertedResidual
from fedwon.models.residual import ALPHA, MEANS, SkipGain, compensate_padding, expected_stds
from fedwon.models.resnet import BasicBlock
from fedwon.models.squeeze import SqueezeExcitation
from fedwon.models.ws_conv import WSConv2d

SIZES = {"resnet18": 11_689_512, "mobilenet_v2": 3_504_872, "efficientnet_b0": 5_288_548}
BODIES = (BasicBlock, InvertedResidual)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_with_batch_norm_they_are_torchvisions(name):
    theirs, ours = (
        getattr(published, name)().eval(),
        build_model(name, normalization="batch", num_classes=1000, image_size=72),
    )
    assert parameters(ours) == parameters(theirs) == SIZES[name]
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 72, 72)
    torch.testing.assert_close(ours.eval()(x), theirs(x))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("normalization", ["none", "batch", "group", "layer"])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (33, 3), (65, 4)])
def test_shapes(name, normalization, size, channels):
    model = build_model(
        name, normalization=normalization, num_classes=7, width=0.1, in_channels=channels, image_size=size
    )
    assert model.eval()(torch.randn(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", SIZES)
def test_a_batch_of_one_trains_everything(name):
    model = build_model(name, width=0.25, image_size=28).double()
    for module in model.modules():  # at the start a skip gain of 0 and a gate of 1/2 keep gradients from what is behind
        if isinstance(module, SkipGain):
            nn.init.constant_(module.value, 0.5)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    F.cross_entropy(model(torch.randn(1, 3, 28, 28).double()), torch.tensor([3])).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    assert AdaptiveGradientClipping(model, 0.01).clip() > 0
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all(not torch.equal(p, before[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", SIZES)
def test_the_first_steps_learn(name):
    """From the initialization as it is: the skip gains open by themselves."""
    torch.manual_seed(4)
    model = build_model(name, width=0.25, image_size=16, num_classes=3, relu_constant=True)
    x, y = torch.randn(6, 3, 16, 16), torch.arange(6) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(module.value for module in model.modules() if isinstance(module, SkipGain))


def variances(model, size, images):
    """By layer: the variance of each channel over images and places, mean over channels."""
    found = {}

    def note(name):
        return lambda module, inputs, output: found.update({name: output.var(dim=(0, 2, 3)).mean().item()})

    for name, module in model.named_modules():
        if isinstance(module, (WSConv2d, ConvBlock, *BODIES)):
            module.register_forward_hook(note(name))
    with torch.no_grad():
        model(torch.randn(images, 3, size, size))
    return found


@pytest.mark.parametrize("skip_gain", [0, 1, RECIPES["tuned"]["model"]["skip_gain"]])
@pytest.mark.parametrize(("size", "images"), [(64, 8), (160, 3)])
@pytest.mark.parametrize("name", available_models())
def test_the_variance_is_kept_through_the_depth(name, size, images, skip_gain):
    torch.manual_seed(1)
    model = build_model(name, normalization="none", image_size=size, relu_constant=True, skip_gain=skip_gain)
    assert {module.value.item() for module in model.modules() if isinstance(module, SkipGain)} <= {skip_gain}
    found = variances(model, size, images)
    assert len(found) >= 6
    out_of_range = {layer: variance for layer, variance in found.items() if not 0.3 <= variance <= 3}
    assert not out_of_range


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_variance_is_lost_without_the_constant(name):
    """So the test above can fail."""
    torch.manual_seed(1)
    assert min(variances(build_model(name, image_size=64), 64, 4).values()) < 0.1


def test_expected_deviations():
    stds = list(expected_stds([False, True, True, False, True], growth=1.21))
    assert stds == pytest.approx([1, 1.1, 1.1 * (1 + ALPHA**2) ** 0.5, 1.1 * (1 + 2 * ALPHA**2) ** 0.5, 1.1])
    assert list(expected_stds([False, True, True], skip_gain=2.5)) == pytest.approx([1, 1, 1.25**0.5])


@pytest.mark.parametrize("kind", MEANS)
def test_means_of_the_scaled_activations(kind):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5
    mean = torch.trapezoid(kind()(z) * density, z).item() * GAMMAS[kind]
    assert mean == pytest.approx(MEANS[kind], abs=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 2), (3, 2, 3), (5, 1, 2), (5, 2, 3), (5, 1, 40)])
def test_zeros_around_a_small_map_take_no_variance(kernel, stride, size):
    channels = 4096
    conv = WSConv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, groups=channels)
    compensate_padding(conv, size, nn.ReLU)
    x = torch.randn(1 if size > 8 else 24, channels, size, size).relu() * 1.712859
    with torch.no_grad():
        assert conv(x).square().mean().item() == pytest.approx(1, abs=0.05)


def test_a_convolution_without_gain_is_left_alone():
    plain = nn.Conv2d(4, 4, 3, groups=4)
    before = plain.weight.clone()
    compensate_padding(plain, 3, nn.ReLU)
    assert torch.equal(plain.weight, before)


def test_squeeze_and_excitation_is_torchvisions():
    ours, theirs = SqueezeExcitation(6, 2, nn.SiLU()), published_ops.SqueezeExcitation(6, 2, activation=nn.SiLU)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 5, 7)
    assert torch.equal(ours(x), theirs(x))
