"""AlexNet in FedBN's form: the published sizes, and images too small for it."""

import pytest
import torch
from torch import nn

from fedwon.models import AlexNet, ModelConfig, build_model


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_published_sizes():
    """Counted on torch's meta device: no memory, no random numbers."""
    with torch.device("meta"):
        assert parameters(build_model("alexnet", normalization="batch", image_size=256)) == 57_063_498
        assert parameters(build_model("alexnet", normalization="none", image_size=256)) == 57_045_962


def test_fan_ins_of_the_convolutions():
    with torch.device("meta"):
        model = build_model("alexnet", image_size=256)
    fan_ins = [layer.fan_in for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert fan_ins == [363, 1600, 1728, 3456, 2304]


@pytest.mark.parametrize("normalization", ["none", "batch", "group", "layer"])
def test_smallest_image(normalization):
    model = build_model("alexnet", normalization=normalization, width=0.125, image_size=63, num_classes=7)
    assert model(torch.randn(2, 3, 63, 63)).shape == (2, 7)


def test_smaller_images_are_refused():
    with pytest.raises(ValueError, match="at least 63, got 62"):
        AlexNet(ModelConfig(image_size=62))


def test_one_step_on_a_single_image():
    model = build_model("alexnet", width=0.125, in_channels=1, image_size=64)
    before = model.conv1.conv.weight.detach().clone()
    nn.functional.cross_entropy(model(torch.randn(1, 1, 64, 64)), torch.tensor([3])).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(before, model.conv1.conv.weight)


@pytest.mark.parametrize("relu_constant", [False, True])
def test_signal_through_the_convolutions(relu_constant):
    """With the constant the variance stays; without it each ReLU takes two thirds (paper notes, section 7.3)."""
    torch.manual_seed(1)
    model = build_model("alexnet", image_size=128, relu_constant=relu_constant)
    x, variances = torch.randn(8, 3, 128, 128), []
    for block in (model.conv1, model.conv2, model.conv3, model.conv4, model.conv5):
        variances.append(block.conv(x).var().item())
        x = block(x)
    if relu_constant:
        assert all(0.3 <= variance <= 3 for variance in variances)
    else:
        assert variances[-1] < 0.1
