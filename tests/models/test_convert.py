"""Known networks, converted: the same function, no normalization, trainable on one image."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.convert import build, with_statistics
from fedwon.models import (
    available_models,
    build_model,
    fold,
    functional_statistics,
    is_normalization_free,
    normalization_layers,
)
from fedwon.models.clipping import AdaptiveGradientClipping
from fedwon.models.convert import (
    TOLERANCE,
    NeedsExamplesError,
    NotConvertibleError,
    OtherFunctionError,
    convert,
    detect,
    largest_difference,
    replace_modules,
)
from fedwon.models.findings import explain
from fedwon.models.offset_conv import OffsetWSConv2d
from fedwon.models.ws_conv import WSConv2d

EXACT = {
    "resnet18": {"conv": 20},
    "resnet50": {"conv": 53},
    "mobilenet_v3_small": {"conv": 34},
    "efficientnet_b0": {"conv": 49},
    "regnet_y_400mf": {"conv": 53},
    "densenet121": {"affine": 62, "conv": 59},
}
SIZE = 64


def images(count=2, size=SIZE, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def forms(model):
    found = [finding.form for finding in detect(model)]
    return {form: found.count(form) for form in sorted(set(found))}


@pytest.fixture(params=EXACT, scope="module")
def pair(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = with_statistics(torchvision.models.get_model(request.param, num_classes=10), images(8))
    return request.param, model, convert(model)


def test_torchvision_networks_stay_the_same_function(pair):
    name, model, converted = pair
    assert forms(model) == EXACT[name]
    # A statistic cannot hide a convolution that computes nothing: the outputs differ from image to image.
    assert model(images())[:, 0].std() > 1e-3
    assert largest_difference(model, converted, images()) < TOLERANCE
    precise = copy.deepcopy(model).double()
    assert largest_difference(precise, convert(precise), images().double()) < 1e-10


def test_nothing_is_normalized_any_more(pair):
    name, _, converted = pair
    assert normalization_layers(converted) == []
    uses = functional_statistics(converted, images())
    assert not [use for use in uses if "norm" in use.operation], name
    standardized = [layer for layer in converted.modules() if isinstance(layer, WSConv2d)]
    assert len(standardized) == EXACT[name]["conv"]


def test_folding_gives_plain_convolutions_with_equal_output(pair):
    _, _, converted = pair
    folded = fold(converted)
    assert not any(isinstance(layer, WSConv2d) for layer in folded.modules())
    assert largest_difference(converted, folded, images()) == 0


def test_it_trains_on_one_image_and_does_not_see_the_others(pair):
    _, _, converted = pair
    model = copy.deepcopy(converted).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    F.cross_entropy(model(images(1)), torch.tensor([3])).backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
    AdaptiveGradientClipping(model, 0.16).clip()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer.step()
    assert sum(not torch.equal(before[name], value) for name, value in model.named_parameters()) > len(before) // 2
    model.eval()
    with torch.no_grad():
        mine, others = images(1), images(3, seed=1)
        assert torch.equal(model(torch.cat([mine, others]))[0], model(torch.cat([mine, 100 * others]))[0])


@pytest.mark.parametrize("name", available_models())
def test_our_own_baselines_convert_too(name):
    model = with_statistics(build_model(name, normalization="batch", width=0.25, image_size=SIZE), images(8))
    converted = convert(model, example=images())
    assert largest_difference(model, converted, images()) < TOLERANCE
    assert not any(finding.form == "affine" for finding in detect(model))
    assert normalization_layers(converted) == []


def test_the_original_is_left_alone():
    model = with_statistics(torchvision.models.resnet18(num_classes=4), images(4)).train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    converted = convert(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(layer.training for layer in (*model.modules(), *converted.modules()))
    kept = {name for name in before if name.startswith("fc.")}
    assert {name for name in converted.state_dict() if name.startswith("fc.")} == kept
    assert type(converted) is type(model)


def test_frozen_layers_stay_frozen():
    model = torchvision.models.resnet18(num_classes=4)
    model.conv1.requires_grad_(requires_grad=False)
    converted = convert(model)
    assert not any(parameter.requires_grad for parameter in converted.conv1.parameters())
    assert all(parameter.requires_grad for parameter in converted.layer1.parameters())


def test_squeeze_excite_dropout_and_stochastic_depth_are_untouched():
    model = torchvision.models.efficientnet_b0(num_classes=4)
    kinds = (torchvision.ops.SqueezeExcitation, torchvision.ops.StochasticDepth, nn.Dropout)
    for kind in kinds:
        before, after = (
            [str(layer) for layer in network.modules() if isinstance(layer, kind)]
            for network in (model, convert(model))
        )
        assert before == after
        assert before


def test_layer_norm_is_refused_with_the_way_out():
    model = torchvision.models.convnext_tiny(num_classes=4)
    with pytest.raises(NeedsExamplesError, match="`calibration=` example images") as caught:
        convert(model)
    assert {finding.layer for finding in caught.value.findings} == {"LayerNorm", "LayerNorm2d"}
    assert len(caught.value.findings) == len(normalization_layers(model)) == 23
    assert not any(finding.exact for finding in caught.value.findings)


def test_layer_norm_can_be_measured():
    model = torchvision.models.convnext_tiny(num_classes=4)
    converted = convert(model, calibration=images(4), example=images())
    assert normalization_layers(converted) == []
    out = converted(images(4))
    assert out.isfinite().all()
    # Which dimension holds the channels is told by the images: LayerNorm2d's second, LayerNorm's last.
    assert (converted.features[0][1].dim, converted.features[1][0].block[2].dim) == (1, -1)
    # On the images measured on, the first layer is the least-squares line through the original's.
    first = model.features[0][0](images(4)).detach()
    wanted, got = model.features[0][1](first), converted.features[0][1](first)
    residual = (wanted - got).movedim(1, 0).flatten(1)
    line = first.movedim(1, 0).flatten(1)
    assert residual.mean(1).abs().max() < 1e-4
    assert (residual * (line - line.mean(1, keepdim=True))).mean(1).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "efficientnet_b0"])
def test_timms_networks(name):
    pytest.importorskip("timm")
    model = with_statistics(build(f"timm:{name}"), images(8, size=128))
    assert set(forms(model)) == {"conv"}
    assert largest_difference(model, convert(model, example=images(2, size=128)), images(2, size=128)) < TOLERANCE


def test_two_networks_that_differ_are_apart():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert largest_difference(one, one, torch.ones(1, 3)) == 0
    assert largest_difference(one, other, torch.ones(1, 3)) > 0.01
    other.weight.data.fill_(torch.nan)
    assert largest_difference(one, other, torch.ones(1, 3)) == float("inf")


def test_a_network_without_normalization_stays_what_it_is():
    model = torchvision.models.alexnet(num_classes=3)
    assert explain(detect(model)) == "There is no normalization in this network."
    assert convert(model).state_dict().keys() == model.state_dict().keys()


def test_a_lone_batch_norm():
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.normal_()
    converted = convert(norm)
    torch.testing.assert_close(converted(images()), norm(images()))
    assert is_normalization_free(converted, images())


def test_the_proof_fails_where_the_inside_of_a_layer_is_used():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Pair()

        def forward(self, x):
            factor = float(self.block.conv(x).detach().mean())  # not traceable, and past the block's own forward
            return self.block(x) * factor

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.norm.running_var.fill_(4)

        def forward(self, x):
            return self.norm(self.conv(x))

    with pytest.raises(NotConvertibleError, match="could not trace its forward"):
        convert(Odd())
    with pytest.raises(OtherFunctionError, match="differs by"):
        convert(Odd(), example=images())


def test_offset_conv_starts_as_fedwons_layer():
    conv = OffsetWSConv2d(4, 8, 3, padding=1, groups=2)
    assert set(conv.state_dict()) == {"weight", "bias", "gain", "offset"}
    assert torch.equal(conv.standardized_weight(), WSConv2d.standardized_weight(conv))
    with torch.no_grad():
        conv.offset.normal_()
        conv.gain.normal_()
    weight = conv.standardized_weight().flatten(1)
    torch.testing.assert_close(weight.sum(1), conv.offset * conv.fan_in**0.5, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weight.norm(dim=1), torch.hypot(conv.gain, conv.offset))
    conv.reset_parameters()
    assert not conv.offset.any()


def test_replacing_the_root():
    old, new = nn.ReLU(), nn.Identity()
    assert replace_modules(old, {old: new}) is new
