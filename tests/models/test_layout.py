"""Images in the layout that a network computes with fastest: the same values, the same function."""

import pytest
import torch

from fedwon.models import build_model, fold, laid_out

FIRST = {"mobilenet_v2": 1, "efficientnet_b0": 3}


def by_pixel(images):
    return images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["digit_cnn", "alexnet", "resnet18"])
@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_wide_networks_take_images_as_they_are(name, normalization):
    images = torch.randn(32, 3, 64, 64)
    model = build_model(name, normalization=normalization, width=0.25, image_size=64)
    assert laid_out(model, images) is images


@pytest.mark.parametrize(("name", "first"), FIRST.items())
@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_depthwise_networks_take_them_by_pixel_where_they_gain(name, first, normalization):
    model = build_model(name, normalization=normalization, width=0.25, image_size=32)
    for count in (1, 2, 3, 8):
        images = torch.randn(count, 3, 32, 32)
        found = laid_out(model, images)
        assert by_pixel(found) == (count >= first)
        assert torch.equal(found, images)
        assert by_pixel(laid_out(fold(model), images)) == (count >= first)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FIRST)
def test_every_layer_passes_the_layout_on(name, channels):
    model = build_model(name, width=0.25, in_channels=channels, image_size=32)
    images = torch.randn(3, channels, 32, 32)[:, :, ::2, ::2]  # not in a row at first
    found = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _layer, _inputs, out: found.append(out.stride()[1] == 1))
    model(laid_out(model, images))
    assert found
    assert all(found)
    assert torch.equal(laid_out(model, images), images)


def test_images_elsewhere_than_on_a_cpu_are_left_alone():
    images = torch.empty(8, 3, 32, 32, device="meta")
    assert laid_out(build_model("mobilenet_v2", width=0.25, image_size=32), images) is images


@pytest.mark.parametrize("name", FIRST)
def test_outputs_and_gradients_differ_by_rounding_only(name):
    torch.manual_seed(0)
    model = build_model(name, width=0.25, image_size=32, relu_constant=True, skip_gain=1.75)
    images = torch.randn(4, 3, 32, 32)

    def pass_through(batch):
        model.zero_grad()
        out = model(batch)
        out.square().sum().backward()
        return [out.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    for one, other in zip(pass_through(images), pass_through(laid_out(model, images)), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


@pytest.mark.parametrize("name", FIRST)
def test_weights_keep_their_layout(name):
    model = build_model(name, width=0.25, image_size=32)
    model(laid_out(model, torch.randn(4, 3, 32, 32))).sum().backward()
    assert all(parameter.is_contiguous() for parameter in model.parameters())
